"""Which checkpoints count, whatever state a kill or a disk left them in."""

import gc
import shutil

import jax.numpy as jnp
import pytest
from tiny_runs import content_of

from apinet_jax.array_types import TrainState
from apinet_jax.checkpoint import Checkpoints, find_checkpoint, load_weights, steps_of
from apinet_jax.errors import InputError

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


def test_average_is_what_inference_reads_and_training_goes_on_from_both(tmp_path):
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
    assert find_checkpoint(workdir, "last") == workdir / "checkpoints/2"
    assert load_weights(workdir).params["w"][0] == 2
    with pytest.raises(InputError, match=r"no checkpoint '3' in .*; there are: step 1, step 2"):
        find_checkpoint(workdir, "3")
    with Checkpoints(workdir, keep=3) as checkpoints:
        assert checkpoints.latest_step() == 2
        assert checkpoints.restore(2, state_of(0)).params["w"][0] == 2
        checkpoints.save(state_of(3), METADATA)
    assert load_weights(workdir).params["w"][0] == 3


def test_half_deleted_checkpoint_takes_the_place_of_no_other(workdir):
    without_weights(workdir / "checkpoints/3")
    with Checkpoints(workdir, keep=1) as checkpoints:
        checkpoints.save(state_of(2), METADATA)  # there already
        checkpoints.save(state_of(4), METADATA)
    assert steps_of(workdir) == [4]
    shutil.rmtree(workdir / "checkpoints/4")
    assert not list((workdir / "checkpoints").iterdir())


# Orbax closes its event loop while other reads of the broken checkpoint are under way.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_damaged_checkpoint_is_told_by_its_name(workdir):
    folder = workdir / "checkpoints/3"
    for part in ("weights", "trainer"):
        shutil.rmtree(folder / part / "d")
        shutil.rmtree(folder / part / "ocdbt.process_0")
    before = content_of(workdir)
    message = rf"The checkpoint {folder} cannot be read; it is incomplete or damaged .*"
    with pytest.raises(InputError, match=message + "Choose another with --checkpoint"):
        load_weights(workdir)
    with Checkpoints(workdir, keep=1) as checkpoints:
        assert checkpoints.latest_step() == 3
        with pytest.raises(InputError, match=message + "Move it elsewhere; the same command"):
            checkpoints.restore(3, state_of(0))
    assert content_of(workdir) == before
    gc.collect()  # its complaints about those reads belong to this test
