"""A run that was interrupted at any moment ends like an undisturbed one, bit for bit.

`test_faults_in_any_order` is the fault script of `docs/reliability.md`.
"""

import os
import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from faults import (
    Scene,
    asked_to_stop,
    damaged_record,
    ends_the_same,
    flipped_newest_checkpoint,
    full_disk_during_a_save,
    killed,
    killed_during_a_save,
    killed_during_an_evaluation,
    killed_while_the_best_is_saved,
    killed_worker,
    step_that_is_not_finite,
    truncated_newest_checkpoint,
)
from same_runs import RECIPE, TOTAL, assert_same_run, program_of, state_at
from tiny_runs import (
    config_for,
    content_of,
    draw_photos,
    options,
    rows_of,
    run_command,
    settings_for,
    train,
)

from apinet_jax.method.types import TrainState
from apinet_jax.setup.build import make_network, run_key
from apinet_jax.setup.compile import compile_train_step
from apinet_jax.setup.loaders import make_train_loader
from apinet_jax.system.errors import InputError
from apinet_jax.system.mesh import to_global
from apinet_jax.workdir.checkpoint import Checkpoints, load_weights
from apinet_jax.workdir.checkpoint_files import steps_of


@pytest.fixture(scope="module", autouse=True)
def own_records(tmp_path_factory):
    """A separate folder of prepared records, because tests damage them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("records")))
        yield


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return draw_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def reference(photos, tmp_path_factory):
    """An undisturbed run."""
    workdir = tmp_path_factory.mktemp("runs") / "reference"
    code, output = run_command(options(settings_for(photos, **RECIPE), workdir))
    assert code == 0, output
    return workdir


@pytest.fixture
def again(reference, tmp_path):
    """A copy of it to resume."""
    return shutil.copytree(reference, tmp_path / "again")


@pytest.fixture
def scene(photos, tmp_path):
    seed = random.SystemRandom().randrange(10**6)
    print(f"the seed of the faults is {seed}")
    return Scene(tmp_path / "run", photos, random.Random(seed))


def test_saving_again_keeps_the_checkpoint(tmp_path):
    """For instance where a signal arrives just after a save; a kill may follow."""
    state = TrainState(jnp.array(3), {"w": jnp.ones(2)}, {}, {"m": jnp.zeros(2)})
    metadata = {"config": {}, "class_names": ["a", "b"]}
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(state, metadata)
        checkpoints.wait()
        before = content_of(tmp_path)
        checkpoints.save(state, metadata)
        checkpoints.wait()
        assert content_of(tmp_path) == before


def test_half_deleted_checkpoint_is_ignored(again, photos):
    """An older one, or the best one."""
    for half in (again / "checkpoints/15", *(again / "best").iterdir()):
        shutil.rmtree(half / "weights")
        (half / "_CHECKPOINT_METADATA").unlink()
    config, _, mesh, program = program_of(again, photos, 1)
    state = state_at(again, TOTAL, config, mesh, program)
    with Checkpoints(again, keep=2) as checkpoints:
        assert checkpoints.latest_step() == TOTAL
        checkpoints.save(state, {"config": {}}, best_score=1.0)
    assert load_weights(again, "best").metadata["step"] == TOTAL


def test_finished_run_only_reports(again, reference, photos):
    before = content_of(again / "checkpoints")
    code, output = run_command(options(settings_for(photos, **RECIPE), again))
    assert code == 0, output
    assert "Compiling" not in output
    assert "Test images, best checkpoint" in output
    assert content_of(again / "checkpoints") == before
    assert_same_run(again, reference, photos)


def test_incomplete_row_is_rewritten(again, reference, photos):
    """The number of workers may change, because it has no effect."""
    path = again / "metrics.jsonl"
    path.write_text(path.read_text()[:-80])
    shutil.rmtree(again / "checkpoints/16")
    train(config_for(photos, **RECIPE, data__workers=0), again)
    for row, original in zip(rows_of(again), rows_of(reference), strict=True):
        assert (row["kind"], row["step"]) == (original["kind"], original["step"])
        if "loss" in row:  # other devices, other rounding
            assert row["loss"] == pytest.approx(original["loss"], rel=1e-4)


def test_extend_plans_a_new_cosine(again, reference, photos, capsys):
    longer = config_for(photos, **RECIPE, data__workers=0, optim__epochs=5.0)
    before = content_of(again)
    with pytest.raises(InputError, match=r"optim.epochs: 4.0 there, 5.0 now[^$]*--extend.*cosine"):
        train(longer, again)
    assert content_of(again) == before
    train(longer, again, extend=True)
    assert "recomputed over all" in capsys.readouterr().err
    rows = rows_of(again)
    old = rows_of(reference)
    assert rows[: len(old)] == old
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, 21))
    rates = [row["lr"] for row in rows if row["kind"] == "train"]
    assert rates[15] < rates[16]  # the short cosine was almost zero
    assert rates[16] == pytest.approx(0.01 * (1 + np.cos(np.pi * 16 / 20)) / 2)
    with pytest.raises(InputError, match=r"optim.epochs: 5.0 there, 4.0 now"):
        train(config_for(photos, **RECIPE), again, extend=True)


@pytest.mark.slow
def test_restore_on_other_devices(reference, photos):
    """Saved on two devices; the next step is the same on one, two, four and eight."""
    expected = next(row for row in rows_of(reference) if row["step"] == TOTAL)
    for devices in (1, 2, 4, 8):
        config, dataset, mesh, program = program_of(reference, photos, devices)
        state = state_at(reference, TOTAL - 1, config, mesh, program)
        assert all(len(leaf.sharding.device_set) == devices for leaf in jax.tree.leaves(state))
        loader = make_train_loader(config, dataset, program.plan, mesh)
        with jax.set_mesh(mesh):
            step = compile_train_step(config, program, mesh, "full")
            batch = to_global(loader(TOTAL - 1), mesh)
            state, metrics = step(state, batch, run_key(config, mesh))
        assert int(state.step) == TOTAL
        assert float(metrics.loss) == pytest.approx(expected["loss"], rel=1e-5), devices


def test_load_weights_reads_only_parameters(again, photos):
    config, _, mesh, program = program_of(again, photos, 1)
    state = state_at(again, TOTAL, config, mesh, program)
    shutil.rmtree(again / f"checkpoints/{TOTAL}/trainer")
    weights = load_weights(again)
    assert weights.metadata["step"] == TOTAL
    assert weights.metadata["class_names"] == [f"class{label}" for label in range(4)]
    model, _ = make_network(config, 4)
    image = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))

    def logits(params, batch_stats):
        return model.apply({"params": params, "batch_stats": batch_stats}, image, train=False)

    expected = logits(state.ema, state.batch_stats)  # the average, and not what is trained
    np.testing.assert_array_equal(logits(weights.params, weights.batch_stats), expected)
    by_folder = load_weights(again / f"checkpoints/{TOTAL}")
    np.testing.assert_array_equal(logits(by_folder.params, by_folder.batch_stats), expected)


def test_kill_during_a_save(scene, reference):
    """A short version of the fault script."""
    killed_during_a_save(scene)
    ends_the_same(scene, reference)


# How often each is injected; fewer times unless APINET_FAULTS=all.
ALL = os.environ.get("APINET_FAULTS") == "all"
OFTEN, SELDOM = (20, 3) if ALL else (5, 1)
TIMES = {
    killed: OFTEN,
    killed_during_a_save: SELDOM,
    killed_while_the_best_is_saved: SELDOM,
    killed_during_an_evaluation: SELDOM,
    asked_to_stop: SELDOM,
    flipped_newest_checkpoint: SELDOM,
    truncated_newest_checkpoint: SELDOM,
    full_disk_during_a_save: SELDOM,
    damaged_record: SELDOM,
    killed_worker: SELDOM,
    step_that_is_not_finite: SELDOM,
}
# Those that strike in the first half of a run.
EARLY = (killed_while_the_best_is_saved, killed_during_an_evaluation)


@pytest.mark.slow
def test_faults_in_any_order(scene, reference):
    """Several in each run, as long as enough steps remain for the next one."""
    faults = [fault for fault, times in TIMES.items() for _ in range(times)]
    scene.draw.shuffle(faults)
    folder, runs = scene.workdir, 0

    def next_run():
        nonlocal scene, runs
        ends_the_same(scene, reference)
        runs += 1
        scene = scene._replace(workdir=folder.with_name(f"run{runs}"))

    while faults:
        if rows_of(scene.workdir) and (
            faults[-1] in EARLY or rows_of(scene.workdir)[-1]["step"] > 8
        ):
            next_run()
        fault = faults.pop()
        fault(scene)
        print(runs, fault.__name__, steps_of(scene.workdir), flush=True)
        if (scene.workdir / "results.json").exists():  # it had ended before
            faults.append(fault)
    next_run()
