"""Which checkpoints count after kills, damage and odd paths."""

import errno
import gc
import shutil
import threading
import time

import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging
from absl.logging import get_absl_logger
from tiny_runs import content_of

from apinet_jax.method.types import TrainState
from apinet_jax.system.errors import InputError, RunError
from apinet_jax.workdir import checkpoint
from apinet_jax.workdir.checkpoint import Checkpoints, load_weights
from apinet_jax.workdir.checkpoint_files import resolve_checkpoint, steps_of
from apinet_jax.workdir.seal import SEAL, find_damage

METADATA = {"config": {}, "class_names": ["a", "b"]}


def state_of(step):
    return TrainState(jnp.array(step), {"w": step * jnp.ones(3)}, {}, {"m": jnp.zeros(3)})


@pytest.fixture
def workdir(tmp_path):
    """Checkpoints of the steps 1, 2 and 3."""
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(state_of(step), METADATA)
    assert steps_of(tmp_path) == [1, 2, 3]
    return tmp_path


def without_weights(folder):
    shutil.rmtree(folder / "weights")


def without_metadata(folder):
    (folder / "_CHECKPOINT_METADATA").unlink()


def test_inference_reads_the_average_and_training_resumes_from_both(tmp_path):
    state = state_of(4)._replace(ema={"w": 0.5 * jnp.ones(3)})
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(state, METADATA)
    assert load_weights(tmp_path).params["w"][0] == 0.5
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        again = checkpoints.restore(4, state)
    assert again.params["w"][0] == 4
    assert again.ema["w"][0] == again.inference_params["w"][0] == 0.5


@pytest.mark.parametrize("damage", [without_weights, without_metadata])
def test_half_deleted_checkpoint_does_not_count(workdir, damage):
    damage(workdir / "checkpoints/3")
    assert steps_of(workdir) == [1, 2]
    assert resolve_checkpoint(workdir, "last") == workdir / "checkpoints/2"
    assert load_weights(workdir).params["w"][0] == 2
    with pytest.raises(InputError, match=r"no checkpoint '3' in .*, only: step 1, step 2"):
        resolve_checkpoint(workdir, "3")
    with Checkpoints(workdir, keep=3) as checkpoints:
        assert checkpoints.latest_step() == 2
        assert checkpoints.restore(2, state_of(0)).params["w"][0] == 2
        checkpoints.save(state_of(3), METADATA)
    assert load_weights(workdir).params["w"][0] == 3


def test_half_deleted_checkpoint_displaces_no_other(workdir):
    without_weights(workdir / "checkpoints/3")
    with Checkpoints(workdir, keep=1) as checkpoints:
        checkpoints.save(state_of(2), METADATA)  # it exists
        checkpoints.save(state_of(4), METADATA)
    assert steps_of(workdir) == [4]
    shutil.rmtree(workdir / "checkpoints/4")
    assert not list((workdir / "checkpoints").iterdir())


# Orbax closes its event loop while other reads of the damaged checkpoint are in progress.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_damaged_checkpoint_is_named(workdir):
    folder = workdir / "checkpoints/3"
    for part in ("weights", "trainer"):
        shutil.rmtree(folder / part / "d")
        shutil.rmtree(folder / part / "ocdbt.process_0")
    before = content_of(workdir)
    with pytest.raises(
        InputError, match=rf"The checkpoint {folder} is damaged: weights/d/\w+ is missing. Choose"
    ):
        load_weights(workdir)
    assert content_of(workdir) == before
    message = rf"The checkpoint {folder} cannot be read; it is incomplete or damaged .*"
    (folder / SEAL).unlink()
    with pytest.raises(InputError, match=message + "Choose another one: last, best"):
        load_weights(workdir, "3")
    gc.collect()  # warnings about those reads belong to this test


def flipped(path, bit):
    """Flips one bit of a file."""
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def test_every_flipped_bit_is_detected(workdir):
    """In arrays, in metadata and in the seal itself, each in proportion to its number of files."""
    folder = workdir / "checkpoints/3"
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]
    assert folder / SEAL in files
    draw = np.random.default_rng(0)
    for number in range(250):
        path = files[number % len(files)]
        before = path.read_bytes()
        flipped(path, int(draw.integers(8 * len(before))))
        damage = find_damage(folder)
        assert damage is not None, path
        if path.name != SEAL:
            assert damage == f"{path.relative_to(folder)} has changed"
        path.write_bytes(before)
    assert find_damage(folder) is None


def test_every_flipped_bit_of_the_seal_is_detected(workdir):
    seal = workdir / "checkpoints/3" / SEAL
    before = seal.read_bytes()
    for bit in range(len(before)):
        flipped(seal, 8 * bit + bit % 8)
        assert find_damage(seal.parent), bit
        seal.write_bytes(before)


@pytest.mark.parametrize("change", ["flip", "truncate", "remove", "add"])
def test_run_resumes_from_the_newest_intact_checkpoint(workdir, change, capsys):
    folder = workdir / "checkpoints/3"
    file = folder / "weights/manifest.ocdbt"
    if change == "flip":
        flipped(file, 8 * (file.stat().st_size // 2))
    elif change == "truncate":
        file.write_bytes(file.read_bytes()[:-1])
    elif change == "remove":
        file.unlink()
    else:
        file = folder / "weights/other"
        file.write_text("")
    with Checkpoints(workdir, keep=3) as checkpoints:
        printed = capsys.readouterr().err
        what = {"remove": "is missing", "add": "was not there"}.get(change, "has changed")
        assert f"{folder} is damaged: {file.relative_to(folder)} {what}" in printed
        assert checkpoints.latest_step() == 2
        assert checkpoints.restore(2, state_of(0)).params["w"][0] == 2
        checkpoints.save(state_of(3), METADATA)
    assert load_weights(workdir).params["w"][0] == 3
    assert [path.name.split("-")[0] for path in (workdir / "damaged").iterdir()] == ["3"]


def test_unsealed_save_does_not_count(workdir, capsys):
    (workdir / "checkpoints/3" / SEAL).unlink()
    assert load_weights(workdir).metadata["step"] == 2
    with Checkpoints(workdir, keep=3) as checkpoints:
        assert checkpoints.latest_step() == 2
    assert "checkpoints/3 is damaged: its save was not finished" in capsys.readouterr().err


def test_older_run_without_seals_resumes(workdir):
    for step in (1, 2, 3):
        (workdir / "checkpoints" / str(step) / SEAL).unlink()
    with Checkpoints(workdir, keep=3) as checkpoints:
        assert checkpoints.latest_step() == 3
        assert checkpoints.restore(3, state_of(0)).params["w"][0] == 3


def test_without_an_intact_checkpoint_nothing_changes(workdir):
    for step in (1, 2, 3):
        flipped(workdir / "checkpoints" / str(step) / "weights/manifest.ocdbt", 77)
    before = content_of(workdir)
    with pytest.raises(
        InputError, match=r"No checkpoint of .* is intact:\n  .*manifest.ocdbt has ch"
    ):
        Checkpoints(workdir, keep=3)
    assert content_of(workdir) == before


def test_unsealed_checkpoint_replaces_no_damaged_one(workdir):
    (workdir / "checkpoints/3" / SEAL).unlink()
    for step in (1, 2):
        flipped(workdir / "checkpoints" / str(step) / "weights/manifest.ocdbt", 77)
    with pytest.raises(InputError, match=r"No checkpoint of .* is intact:\n  .*was not finished"):
        Checkpoints(workdir, keep=3)


def test_damaged_best_checkpoint_is_refused_before_training(workdir):
    with Checkpoints(workdir, keep=3) as checkpoints:
        checkpoints.save(state_of(3), METADATA, best_score=0.5)
    flipped(workdir / "best/3/_CHECKPOINT_METADATA", 77)
    with pytest.raises(InputError, match=r"best checkpoint .*best/3 is damaged: _CHECKPOINT_META"):
        Checkpoints(workdir, keep=3)


@pytest.mark.parametrize("name", ["run [1]", "a*b?", "[!x] {y}", "%41 #x"])
def test_special_characters_in_parent_folders(name, tmp_path):
    workdir = tmp_path / name / "run"
    with Checkpoints(workdir, keep=1) as checkpoints:
        checkpoints.save(state_of(1), METADATA)
        checkpoints.save(state_of(2), METADATA)
    assert steps_of(workdir) == [2]
    assert load_weights(workdir, 2).params["w"][0] == 2
    with Checkpoints(workdir, keep=1) as checkpoints:
        assert checkpoints.restore(2, state_of(0)).params["w"][0] == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_unreadable_checkpoint_is_never_sealed(tmp_path):
    """Here tensorstore writes to another folder: it takes the backslash for a separator."""
    workdir = tmp_path / "a\\b"
    missing = "weights/manifest.ocdbt and trainer/manifest.ocdbt"
    with Checkpoints(workdir, keep=1) as checkpoints:
        checkpoints.save(state_of(1), METADATA)
        with pytest.raises(RunError, match=rf"/1 was saved without {missing}, so it cannot be"):
            checkpoints.wait()
    assert not (workdir / "checkpoints/1" / SEAL).exists()
    with pytest.raises(InputError, match=r"has the character \\"):
        load_weights(workdir)


def test_best_score_is_stored_with_the_best_checkpoint(tmp_path):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        assert checkpoints.best_score() is None
        checkpoints.save(state_of(1), METADATA, best_score=0.25)
        checkpoints.wait()
        assert checkpoints.best_score() == 0.25
        checkpoints.save(state_of(2), METADATA, best_score=0.75)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        assert checkpoints.best_score() == 0.75
        checkpoints.save(state_of(3), METADATA)
    assert load_weights(tmp_path, "best").metadata == {**METADATA, "step": 2, "held_out_top1": 0.75}
    assert load_weights(tmp_path, "last").metadata == {**METADATA, "step": 3}


def test_best_checkpoint_of_an_older_version_has_no_score(tmp_path, monkeypatch):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "_HELD_OUT_SCORE", "another")
            checkpoints.save(state_of(1), METADATA, best_score=0.25)
            checkpoints.wait()
        assert checkpoints.best_score() is None
        checkpoints.save(state_of(2), METADATA, best_score=0.5)
    assert load_weights(tmp_path, "best").metadata["step"] == 2


def fail(seconds):
    """Log a failure as a part of a save does."""
    time.sleep(seconds)
    try:
        raise OSError(errno.ENOSPC, f"after {seconds} s")
    except OSError:
        logging.exception("A part of the save failed")


# Orbax's threads are recognised by their module.
OrbaxThread = type("OrbaxThread", (threading.Thread,), {"__module__": "orbax.checkpoint.test"})


def fail_in_parts(parts):
    """Raise the failure of the first part of a save, while the other one is being written."""
    for part in parts:
        part.start()
    parts[0].join()
    raise RunError("No space left on device.")


def test_later_failures_of_a_save_are_not_printed(tmp_path, caplog):
    parts = [OrbaxThread(target=fail, args=(seconds,)) for seconds in (0, 0.5)]
    with pytest.raises(RunError), Checkpoints(tmp_path, keep=1):
        fail_in_parts(parts)
    parts[1].join()
    assert not [record for record in caplog.records if record.exc_info]


def test_no_log_filters_stay_behind(tmp_path):
    before = list(get_absl_logger().filters)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        assert get_absl_logger().filters != before
        checkpoints.save(state_of(1), METADATA)
    assert get_absl_logger().filters == before
    with pytest.raises(ZeroDivisionError), Checkpoints(tmp_path, keep=1):
        raise ZeroDivisionError
    assert get_absl_logger().filters == before
