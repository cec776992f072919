"""Runs and data in a bucket: the differences from a disk, and the messages of failures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from loopback_bucket import started_cloud
from safetensors.numpy import save
from small_archives import CUB_COUNTS, make_small, pack, put_cub
from tiny_runs import draw_photos

from apinet_jax.config import default_config, flatten
from apinet_jax.data.catalog import open_dataset
from apinet_jax.data.official.cub import Cub
from apinet_jax.evaluation import evaluate
from apinet_jax.method.types import TrainState
from apinet_jax.models.weights.hub import find_pretrained, pin_source
from apinet_jax.system.errors import InputError, RunError
from apinet_jax.system.paths import local_path, records_root, to_path
from apinet_jax.workdir.checkpoint import Checkpoints, load_weights
from apinet_jax.workdir.checkpoint_files import resolve_checkpoint, steps_of
from apinet_jax.workdir.lock import lock_workdir
from apinet_jax.workdir.metrics_log import MetricsRows, MetricsWriter
from apinet_jax.workdir.record import begin_session, check_same_run, new_record, read_record

METADATA = {"config": {}, "class_names": ["a", "b"]}
COMMIT = "commit_success.txt"


@pytest.fixture
def cloud():
    with started_cloud("bucket") as cloud:
        yield cloud


@pytest.fixture
def objects(cloud):
    return cloud.buckets["bucket"]


@pytest.fixture
def workdir(cloud):
    """Checkpoints of the steps 1, 2 and 3."""
    workdir = to_path("gs://bucket/run")
    with Checkpoints(workdir, keep=3) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(state_of(step), METADATA)
    assert steps_of(workdir) == [1, 2, 3]
    return workdir


def state_of(step):
    return TrainState(jnp.array(step), {"w": step * jnp.ones(3)}, {}, {"m": jnp.zeros(3)})


def fetched(cloud):
    """Names of the objects whose content was requested since the last call."""
    asked = [path for _, path in cloud.requests if "alt=media" in path]
    cloud.requests.clear()
    return [path.partition("?")[0].rpartition("%2F")[2] for path in asked]


def test_checkpoint_without_its_last_object_does_not_count(workdir, objects):
    del objects[f"run/checkpoints/3/{COMMIT}"]
    assert steps_of(workdir) == [1, 2]
    assert load_weights("gs://bucket/run").params["w"][0] == 2
    with Checkpoints(workdir, keep=3) as checkpoints:
        assert checkpoints.latest_step() == 2
        assert checkpoints.restore(2, state_of(0)).params["w"][0] == 2
        assert not any(name.startswith("run/checkpoints/3/") for name in objects)
        checkpoints.save(state_of(3), METADATA)
    assert load_weights("gs://bucket/run/checkpoints/3").params["w"][0] == 3


def test_half_deleted_checkpoint_is_removed(workdir, objects):
    for name in [name for name in objects if name.startswith("run/checkpoints/3/weights/")]:
        del objects[name]
    with Checkpoints(workdir, keep=3):
        assert steps_of(workdir) == [1, 2]
    assert not any(name.startswith("run/checkpoints/3/") for name in objects)


def test_damaged_checkpoint_is_quarantined(workdir, cloud, objects, capsys):
    name = next(name for name in objects if name.startswith("run/checkpoints/3/weights/d/"))
    content = bytearray(objects[name][0])
    content[len(content) // 2] ^= 1
    cloud.put("bucket", name, bytes(content))
    with pytest.raises(InputError, match=r"checkpoints/3 is damaged: weights/d/\w+ has changed"):
        load_weights("gs://bucket/run", "3")
    before = {name for name in objects if name.startswith("run/checkpoints/3/")}
    with Checkpoints(workdir, keep=3) as checkpoints:
        assert checkpoints.latest_step() == 2
    below = [name.split("/", 3)[-1] for name in objects if name.startswith("run/damaged/3-")]
    assert sorted(below) == sorted(name.split("/", 3)[-1] for name in before)
    assert not any(name.startswith("run/checkpoints/3/") for name in objects)


def test_only_the_newest_are_kept(cloud, objects):
    with Checkpoints(to_path("gs://bucket/run"), keep=2) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(state_of(step), METADATA)
    assert {name.split("/")[2] for name in objects} == {"2", "3"}


def test_sync_uploads_the_rows(cloud, objects, tmp_path):
    workdir = to_path("gs://bucket/run")
    rows = [{"kind": "train", "step": step, "loss": 1 / step} for step in (1, 2, 3, 4)]
    with MetricsWriter(workdir, 0) as writer:
        for row in rows[:2]:
            writer.write(row)
        assert MetricsRows(workdir, 9).rows == []
        writer.sync()
        assert MetricsRows(workdir, 9).rows == rows[:2]
        writer.write({**rows[2], "loss": 7.0})
    assert MetricsRows(workdir, 9).rows[2]["loss"] == 7.0
    with MetricsWriter(workdir, 2) as writer:  # as after a kill
        assert writer.rows == rows[:2]
        for row in rows[2:]:
            writer.write(row)
    with MetricsWriter(tmp_path, 0) as writer:
        for row in rows:
            writer.write(row)
    assert objects["run/metrics.jsonl"][0] == (tmp_path / "metrics.jsonl").read_bytes()
    events = [content for name, (content, *_) in objects.items() if "/tensorboard/" in name]
    assert any(b"train/loss" in content for content in events)


def test_run_that_started_meanwhile_is_not_overwritten(cloud):
    workdir = to_path("gs://bucket/run")
    record = new_record({}, "fingerprint", None)
    with lock_workdir(workdir, read_record(workdir)):
        begin_session(workdir, record, 0)
    with pytest.raises(InputError, match="just trained in gs://bucket/run"):
        lock_workdir(workdir, None).__enter__()
    with lock_workdir(workdir, read_record(workdir)):
        pass


def test_refused_upload_is_explained(workdir, cloud):
    def save_once_more():
        with (
            Checkpoints(workdir, keep=3) as checkpoints,
            checkpoints.name_last_checkpoint_in_errors(),
            MetricsWriter(workdir, 0) as writer,
        ):
            cloud.read_only = True
            with pytest.raises(RunError, match=rf"write gs://bucket/run/metrics.jsonl: .*{why}"):
                writer.sync()
            checkpoints.save(state_of(4), METADATA)
            checkpoints.wait()

    why = r"does not have storage\.objects\.create access\. Fix that, then run the same command"
    with pytest.raises(
        RunError, match=rf"checkpoint gs://bucket/run/checkpoints/4: .*{why}"
    ) as caught:
        save_once_more()
    assert str(caught.value).endswith("The last good checkpoint is gs://bucket/run/checkpoints/3.")
    assert "http_response" not in str(caught.value)


def test_only_changed_photos_are_copied_again(cloud, objects, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "root"))
    photos = draw_photos(tmp_path / "photos", train=3, test=1)
    cloud.put_folder("bucket", "my/photos", photos)
    here, there = open_dataset("folder", photos), open_dataset("folder", "gs://bucket/my/photos")
    assert there.fingerprint == here.fingerprint
    assert there.train.read(0) == here.train.read(0)
    assert len(fetched(cloud)) == 16
    assert open_dataset("folder", "gs://bucket/my/photos/").fingerprint == here.fingerprint
    assert fetched(cloud) == []
    first, second, *_ = [name for name in objects if "/train/class1/" in name]
    content = objects[first][0]
    objects[first] = (objects[second][0], 99, objects[first][2] + 5)
    del objects[second]
    changed = open_dataset("folder", "gs://bucket/my/photos")
    assert fetched(cloud) == [Path(first).name]
    assert len(changed.train) == len(here.train) - 1
    index = changed.train.file_names.index(first.removeprefix("my/photos/"))
    assert changed.train.read(index) != content
    for name in [name for name in objects if "/class1/" in name]:
        del objects[name]
    assert len(open_dataset("folder", "gs://bucket/my/photos").class_names) == 3


@pytest.mark.parametrize(
    "below", ["../x.jpg", "a/../../x.jpg", "/etc/x.jpg", "a//x.jpg", "./x.jpg"]
)
def test_names_outside_the_copy_are_refused(below, cloud, tmp_path, monkeypatch):
    root = tmp_path / "root"
    monkeypatch.setenv("TFDS_DATA_DIR", str(root))
    cloud.put("bucket", f"photos/{below}", b"an image")
    cloud.put("bucket", "photos/train/cat/1.jpg", b"an image")
    with pytest.raises(InputError, match="would be stored outside the copy"):
        open_dataset("folder", "gs://bucket/photos")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_only_needed_archives_are_copied(cloud, tmp_path, monkeypatch):
    make_small(monkeypatch, tmp_path / "root", Cub, **CUB_COUNTS)
    manual = put_cub(tmp_path / "manual")
    pack(manual / "CUB_200_2011.tgz", manual / "CUB_200_2011")
    cloud.put_folder("bucket", "archives", manual)
    cloud.put("bucket", "archives/images.tar", b"of another data set")
    dataset = open_dataset("cub", manual_dir="gs://bucket/archives")
    assert len(dataset.train) == CUB_COUNTS["train"]
    assert set(fetched(cloud)) == {"CUB_200_2011.tgz"}


def test_weights_are_copied_and_named_by_their_address(cloud, objects):
    tensors = {"conv1.weight": np.ones((2, 3), np.float32)}
    statistics = {"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    for name in ("model.safetensors", "birds.safetensors"):
        cloud.put("bucket", f"w/{name}", save(tensors))
    cloud.put("bucket", "w/config.json", json.dumps(statistics).encode())
    folder, file = (find_pretrained(f"gs://bucket/w{name}") for name in ("", "/birds.safetensors"))
    assert (folder.source, folder.mean) == ("gs://bucket/w", (0.5, 0.5, 0.5))
    assert (file.source, file.mean) == ("gs://bucket/w/birds.safetensors", None)
    assert file.path.read_bytes() == save(tensors)
    assert pin_source("gs://bucket/w", None) == "gs://bucket/w"
    with pytest.raises(InputError, match=r"gs://bucket/w/cats\.safetensors does not exist"):
        find_pretrained("gs://bucket/w/cats.safetensors")
    config = default_config()
    config.model.pretrained = "gs://bucket/w/birds.safetensors"
    run = to_path("gs://bucket/run")
    record = new_record(flatten(config), "fingerprint", config.model.pretrained)
    assert not check_same_run(record, flatten(config), "fingerprint", run, extend=False)
    _, generation, seconds = objects["w/birds.safetensors"]
    other = save({"conv1.weight": np.zeros((2, 3), np.float32)})
    objects["w/birds.safetensors"] = (other, generation, seconds + 5)
    with pytest.raises(InputError, match=r"SHA-256 of model\.pretrained"):
        check_same_run(record, flatten(config), "fingerprint", run, extend=False)


def ask_for(name):
    """The ways in which a user names a place in a bucket."""
    return {
        "a run": lambda: read_record(to_path(name)),
        "a checkpoint": lambda: resolve_checkpoint(name, "last"),
        "the weights of a run": lambda: load_weights(name),
        "an evaluation": lambda: evaluate(name, "last", None),
        "photos": lambda: open_dataset("folder", name),
        "archives": lambda: open_dataset("cub", manual_dir=name),
        "weights": lambda: find_pretrained(f"{name}/a.safetensors"),
    }


@pytest.mark.parametrize("what", ask_for(""))
def test_missing_or_closed_bucket_is_explained(what, cloud, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(InputError, match="There is no bucket gs://elsewhere, or your account"):
        ask_for("gs://elsewhere/x")[what]()
    cloud.closed = True
    who = r"gs://bucket/x.* cannot be used \(Anonymous caller does not have .* access\., 401\)"
    with pytest.raises(InputError, match=rf"{who}\. Check the name of the bucket, the credentials"):
        ask_for("gs://bucket/x")[what]()


@pytest.mark.parametrize("what", ask_for(""))
def test_missing_package_is_named(what, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(InputError, match=r'not installed: pip install "apinet_jax\[gcs\]"'):
        ask_for("gs://bucket/x")[what]()


def test_read_only_workdir_is_refused_first(cloud, objects):
    cloud.read_only = True
    with pytest.raises(InputError, match=r"gs://bucket/run cannot be used \(.*create access\)"):
        read_record(to_path("gs://bucket/run"))
    cloud.read_only = False
    assert read_record(to_path("gs://bucket/run")) is None
    assert not objects


@pytest.mark.parametrize("name", ["run [1]", "a*b"])
def test_special_characters_in_object_names(name, cloud):
    workdir = to_path(f"gs://bucket/{name}/run")
    with Checkpoints(workdir, keep=1) as checkpoints:
        checkpoints.save(state_of(1), METADATA)
    assert load_weights(workdir).params["w"][0] == 1


@pytest.mark.parametrize("character", "?#")
def test_characters_that_tensorstore_cannot_use_are_refused(character, cloud):
    with pytest.raises(InputError, match=rf"has the character \{character}.*Rename the folder"):
        read_record(to_path(f"gs://bucket/a{character}b/run"))


def test_other_addresses_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("s3://bucket/x", "hf://x", "file:///x"):
        with pytest.raises(InputError, match=rf"{name} is not on a disk"):
            to_path(name)
    with pytest.raises(InputError, match="gs:// names no bucket"):
        to_path("gs://")
    with pytest.raises(InputError, match="gs://bucket/x is not on a disk"):
        local_path("gs://bucket/x")
    for records in ("gs://bucket/x", "s3://bucket/x"):  # array_record reads only disks
        with pytest.raises(InputError, match="is not on a disk"):
            open_dataset("birds", records)
        monkeypatch.setenv("TFDS_DATA_DIR", records)
        with pytest.raises(InputError, match="is not on a disk"):
            records_root()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        ["sweep", "configs/sweeps/ablations.py", "--folder=gs://bucket/x"],
        ["convert", "gs://bucket/x.safetensors", "x.safetensors"],
        ["prepare", "birds", "--sheet=gs://bucket/x.png"],
    ],
)
def test_commands_that_need_a_disk_say_so(arguments):
    done = subprocess.run(
        [sys.executable, "-m", "apinet_jax", *arguments],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "error: gs://bucket/x" in done.stderr
    assert "is not on a disk" in done.stderr
    assert "Traceback" not in done.stderr
