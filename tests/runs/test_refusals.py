"""Runs that are refused: one clear message, and nothing is lost."""

import json
import os
import re
import shutil
from functools import partial
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_runs import (
    config_for,
    content_of,
    draw_photos,
    evaluate,
    options,
    rows_of,
    run_command,
    settings_for,
    train,
)

from apinet_jax import training
from apinet_jax.models import make_trunk
from apinet_jax.models.weights.torch_names import to_torch_tensors
from apinet_jax.setup import memory
from apinet_jax.system.errors import InputError, RunError
from apinet_jax.workdir.checkpoint import load_weights
from apinet_jax.workdir.checkpoint_files import resolve_checkpoint
from apinet_jax.workdir.lock import lock_workdir
from apinet_jax.workdir.record import read_record

# Two steps, without worker processes or held-out images.
SHORT = {
    "optim__epochs": 0.5,
    "optim__frozen_epochs": 0.0,
    "data__val_fraction": 0.0,
    "data__workers": 0,
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return draw_photos(tmp_path_factory.mktemp("photos"), train=4, test=2)


@pytest.fixture(scope="module")
def finished(photos, tmp_path_factory):
    """A finished short run; its photos were named by a relative path."""
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(photos.parent)
        train(config_for(photos.name, **SHORT), workdir)
    return workdir


def refuse(photos, workdir, message, devices=1, **overrides):
    """Start a run that must be refused before it writes anything."""
    before = content_of(workdir) if workdir.exists() else {}
    with pytest.raises(InputError, match=message):
        train(config_for(photos, **{**SHORT, **overrides}), workdir, devices=devices)
    assert (content_of(workdir) if workdir.exists() else {}) == before


def test_missing_folder(tmp_path):
    refuse(tmp_path / "none", tmp_path / "run", r"folder .*none does not exist.*data.dir")


def test_empty_class(photos, tmp_path):
    folder = shutil.copytree(photos, tmp_path / "photos")
    (folder / "train/classx").mkdir()
    refuse(folder, tmp_path / "run", "hold no image .*'classx'. Add images, or move everything")


def test_one_class_only(tmp_path):
    folder = draw_photos(tmp_path / "photos", classes=1, train=2, test=1)
    refuse(folder, tmp_path / "run", "only one class, 'class0'.* at least two are needed")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"batch__classes": 5, "batch__images": 8}, "batch.classes = 5 .*only 4.*classes=4 or low"),
        ({"data__crop": 40}, r"data.crop = 40 is larger than data.resize = 36.*lower data.crop"),
        ({"model__trunk": "resnet11"}, "no trunk named 'resnet11'; choose one of .*resnet18"),
        ({"data__name": "flowers"}, "Unknown data set 'flowers'.*birds, cub, aircraft"),
        ({"model__pretrained": "/no.safetensors"}, "Cannot read the weights /no.safetensors"),
    ],
)
def test_settings_that_do_not_fit(photos, tmp_path, overrides, message):
    refuse(photos, tmp_path / "run", message, **overrides)


def test_batch_that_the_devices_cannot_share(photos, tmp_path):
    message = r"batch of 12 images.*cannot be shared equally by 8 devices"
    refuse(photos, tmp_path / "run", message, devices=8, batch__images=3)


def test_microbatches_on_other_devices(photos, tmp_path):
    """The groups of BatchNorm, and with them the results, depend on both."""
    settings = {"train__microbatches": 2}
    train(config_for(photos, **SHORT, **settings), tmp_path / "run", devices=2)
    message = r"devices, which BatchNorm's groups follow: 2 there, 1 now"
    refuse(photos, tmp_path / "run", message, devices=1, **settings)


def test_unknown_field_in_a_configuration_file(photos, tmp_path):
    config = config_for(photos, **SHORT)
    with config.unlocked():
        config.optim.lrr = 1.0
    with pytest.raises(InputError, match=r"optim.lrr: there is no such field"):
        train(config, tmp_path / "run")
    config = config_for(photos, **SHORT)
    with config.unlocked():
        del config.loss["rank_margin"]
    with pytest.raises(InputError, match=r"default_config\(\):\n  loss.rank_margin: is missing"):
        train(config, tmp_path / "run")


def test_weights_of_another_trunk(photos, tmp_path):
    trunk = partial(make_trunk("squeezenet1_1").init, train=False)
    shapes = jax.eval_shape(trunk, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    file = tmp_path / "squeezenet.safetensors"
    save_file({k: np.ascontiguousarray(v) for k, v in to_torch_tensors(zeros).items()}, file)
    message = (
        r"squeezenet.safetensors does not fit model.trunk = test_tiny: .*missing: layer1.0.bn1.bias"
        r".*unexpected: features.0.bias"
    )
    refuse(photos, tmp_path / "run", message, model__pretrained=str(file))


def test_changed_settings_are_listed(finished, photos, tmp_path):
    message = (
        r"made with other settings:\n  model.dropout: 0.5 there, 0.25 now\n"
        r"  optim.lr: 0.01 there, 0.02 now\nUse the same settings .* another workdir"
    )
    refuse(photos, finished, message, optim__lr=0.02, model__dropout=0.25)
    refuse(photos, finished, r"optim.epochs: 0.5 there, 0.25 now", optim__epochs=0.25)
    changed = shutil.copytree(photos, tmp_path / "photos")
    shutil.copy(changed / "train/class0/0.png", changed / "train/class0/copy.png")
    refuse(changed, finished, "the images themselves: .* there, .* now")


def test_paths_workers_and_logging_may_change(finished, photos, tmp_path, capsys):
    moved = shutil.copytree(photos, tmp_path / "moved")
    rows = rows_of(finished)
    free = {"eval__batch_size": 8, "checkpoint__every": 3.0, "data__cache": "off"}
    train(config_for(moved, **SHORT, **free), finished)
    assert rows_of(finished) == rows
    assert "Test images, last checkpoint" in capsys.readouterr().out


def test_run_is_found_from_any_folder(finished, photos, tmp_path, monkeypatch, capsys):
    """Under the home folder, and its photos too, though their path was a relative one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(finished.parent))
    metadata = load_weights("~/finished").metadata
    assert metadata["config"]["data"]["dir"] == str(photos)
    step = metadata["step"]
    checkpoint = finished / f"checkpoints/{step}"
    assert resolve_checkpoint(f"~/finished/checkpoints/{step}") == checkpoint
    assert resolve_checkpoint("~/finished", "last") == checkpoint
    evaluate("~/finished", "last", None)
    assert f"Test images, step {step}\n" in capsys.readouterr().out
    sessions = len(read_record(finished)["sessions"])
    train(config_for(os.path.relpath(photos), **SHORT), "~/finished")
    record = read_record(finished)
    assert len(record["sessions"]) == sessions + 1
    assert record["config"]["data.dir"] == str(photos)
    assert not list(tmp_path.iterdir())


def test_workdir_below_a_file(photos, tmp_path):
    (tmp_path / "file").write_text("something else")
    with pytest.raises(InputError, match=r"The workdir .*file/run cannot be used: .*file is not a"):
        train(config_for(photos, **SHORT), tmp_path / "file/run")
    assert (tmp_path / "file").read_text() == "something else"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "Expecting property name"),
        ("[]", "no JSON object"),
        ("{}", "without a valid config, data_fingerprint, pretrained, sessions"),
        ('{"config": [], "data_fingerprint": "", "sessions": []}', "valid config, pretrained"),
        (
            '{"config": {}, "data_fingerprint": "", "pretrained": {"a": 1}, "sessions": []}',
            "without source and sha256",
        ),
    ],
)
def test_damaged_run_record(photos, tmp_path, text, why):
    (tmp_path / "run.json").write_text(text)
    refuse(photos, tmp_path, rf"run.json is not a run record \(.*{why}.*another workdir")


def test_checkpoints_without_a_record(finished, photos, tmp_path):
    """Their settings are unknown, so they are neither resumed nor deleted."""
    workdir = shutil.copytree(finished, tmp_path / "run")
    (workdir / "run.json").unlink()
    message = "holds checkpoints and metrics.jsonl of a run, but not its run.json.*another workdir"
    refuse(photos, workdir, message)


def test_workdir_in_use(finished, photos):
    with lock_workdir(finished, read_record(finished)):
        refuse(photos, finished, r"Another process \(\d+ on .*\) trains in .*another workdir")
    assert not (finished / ".lock").exists()
    with (
        pytest.raises(InputError, match=r"has just trained in .*Start this command again"),
        lock_workdir(finished, None),
    ):
        pass


def test_evaluation_on_other_classes(finished, tmp_path):
    other = draw_photos(tmp_path / "photos", classes=3, train=2, test=1)
    with pytest.raises(InputError, match=r"has 4 classes, the data have 3, and they differ"):
        evaluate(finished, "last", config_for(other))


def test_evaluation_lists_ignored_settings(finished, photos, tmp_path, capsys):
    evaluate(finished, "last", config_for(photos, **SHORT, eval__batch_size=8))
    assert "from the run" not in capsys.readouterr().err
    changed = shutil.copytree(photos, tmp_path / "photos")
    shutil.copy(changed / "train/class0/0.png", changed / "train/class0/copy.png")
    other = {**SHORT, "optim__lr": 0.5, "model__hidden": 8}
    evaluate(finished, "last", config_for(changed, **other))
    reported = capsys.readouterr().err
    names = "model.hidden = 16 (not 8), optim.lr = 0.01 (not 0.5)"
    assert f"Taken from the run, not from the command: {names}\n" in reported
    assert "These are not the images of the run: " in reported


def test_step_that_does_not_fit_lists_what_would(photos, tmp_path, monkeypatch):
    """Programs stand in for compiled ones: 1 KiB for each pixel of a microbatch, 512 MiB in all."""

    def bytes_of(config):
        images = config.batch.classes * config.batch.images // config.train.microbatches
        return 1024 * images * config.data.crop**2

    def compile_stub(config, *_):
        return Mock(spec=jax.stages.Compiled, needed=bytes_of(config))

    monkeypatch.setattr(training, "compile_train_step", compile_stub)
    monkeypatch.setattr(memory, "program_bytes", lambda program: program.needed)
    monkeypatch.setattr(memory, "device_bytes", lambda _: 400 * 2**20)
    size = {"batch__images": 8, "data__resize": 128, "data__crop": 128}
    config = config_for(photos, **{**SHORT, **size})
    with pytest.raises(RunError) as caught:
        train(config, tmp_path / "run")
    text = str(caught.value)
    assert "needs 512 MiB on each device, which has 400 MiB" in text
    options = re.findall(r"  (\S+=.*)  \((\d+) MiB\)", text)
    assert len(set(options)) == 3
    for flags, figure in options:
        smaller = config.copy_and_resolve_references()
        changes = re.findall(r"(\S+)=(\d+)", flags)
        smaller.update_from_flattened_dict({field: int(value) for field, value in changes})
        assert bytes_of(smaller) == int(figure) * 2**20 <= 400 * 2**20
    assert not (tmp_path / "run/run.json").exists()


def test_loss_that_is_not_finite(photos, tmp_path):
    """Every step is saved; after the first one the weights are huge, but finite."""
    changes = {**SHORT, "optim__lr": 1e30, "optim__epochs": 2.0, "checkpoint__every": 0.5}
    workdir = tmp_path / "run"
    code, output = run_command(options(settings_for(photos, **changes), workdir))
    assert code == 3, output
    assert "Traceback" not in output
    found = re.search(r"error: Step (\d+) is not finite: (.*). The run was stopped. .*", output)
    step, terms = int(found[1]), found[2]
    assert re.search(r"(loss|cross_entropy|ranking|grad_norm) = (nan|inf)", terms)
    assert f"The last good checkpoint is {workdir}/checkpoints/{step - 1}." in found[0]
    weights = load_weights(workdir)
    assert weights.metadata["step"] == step - 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(weights.params))
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, step))
    assert all(np.isfinite(row["loss"]) for row in rows)
