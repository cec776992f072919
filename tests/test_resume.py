"""A run that is interrupted, whenever that is, ends as if nothing had happened, bit for bit."""

import json
import random
import shutil
import signal
import time

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from tiny_runs import (
    SLOW_MAIN,
    config_for,
    content_of,
    draw_photos,
    evaluating,
    options,
    rows_of,
    run_command,
    saving,
    sessions,
    settings_for,
    started,
    trained,
    wait_until,
)

from apinet_jax.array_types import TrainState
from apinet_jax.assemble import (
    fresh_state,
    make_dataset,
    make_network,
    make_program,
    make_train_loader,
)
from apinet_jax.checkpoint import Checkpoints, load_weights
from apinet_jax.checkpoint_files import steps_of
from apinet_jax.compilation import compile_train_step
from apinet_jax.errors import InputError
from apinet_jax.mesh import make_mesh, to_global
from apinet_jax.train import train
from apinet_jax.writer import TIME_FIELDS

TOTAL, FROZEN, EPOCH, SAVE_EVERY = 16, 4, 4, 3
# What else a run may carry from step to step, or draw for one.
RECIPE = {"optim__ema": 0.9, "optim__nesterov": True, "data__augmentation": "random_resized"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return draw_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def reference(photos, tmp_path_factory):
    """A run that nothing interrupts."""
    workdir = tmp_path_factory.mktemp("runs") / "reference"
    code, output = run_command(options(settings_for(photos, **RECIPE), workdir))
    assert code == 0, output
    return workdir


@pytest.fixture
def again(reference, tmp_path):
    """A copy of it, to go on with."""
    return shutil.copytree(reference, tmp_path / "again")


# What to wait for, the most to wait after that, and how to interrupt.
INTERRUPTIONS = {
    "during the first save": (saving("checkpoints"), 0.1, signal.SIGKILL),
    "while the best is saved": (saving("best"), 0.1, signal.SIGKILL),
    "right after unfreezing": (trained(FROZEN + 1), 0.05, signal.SIGKILL),
    "during an evaluation": (evaluating(2 * EPOCH), 0.4, signal.SIGKILL),
    "asked to stop between saves": (trained(10), 0.1, signal.SIGTERM),
    "between two saves": (trained(13), 0.1, signal.SIGKILL),
}


@pytest.fixture(scope="module")
def interrupted(photos, tmp_path_factory):
    """A run that is interrupted again and again; with what each interruption left."""
    workdir = tmp_path_factory.mktemp("runs") / "interrupted"
    command = options(settings_for(photos, **RECIPE), workdir)
    seed = random.SystemRandom().randrange(10**6)
    print(f"the seed of the interruptions is {seed}")
    delays, left = random.Random(seed), {}
    for name, (moment, longest, number) in INTERRUPTIONS.items():
        with started(command, program=(SLOW_MAIN,)) as process:
            wait_until(process, moment, workdir)
            time.sleep(delays.uniform(0, longest))
            process.send_signal(number)
            # Comes to an end only when the workers do, which hold the other end of the pipe.
            output, _ = process.communicate(timeout=60)
        print(f"{name}: {process.returncode} after {rows_of(workdir)[-1]}")
        left[name] = {
            "code": process.returncode,
            "output": output,
            "rows": rows_of(workdir),
            "saved": steps_of(workdir),
            "saving": saving("checkpoints")(workdir) or saving("best")(workdir),
        }
    code, output = run_command(command)
    assert code == 0, output
    return workdir, left


def program_of(workdir, photos, devices):
    """What a run is made of, on some of this process's devices."""
    config = ml_collections.ConfigDict(load_weights(workdir).metadata["config"])
    mesh, dataset = make_mesh(jax.devices()[:devices]), make_dataset(config)
    return config, dataset, mesh, make_program(config, 4, len(dataset.train), mesh)


def state_at(workdir, step, config, mesh, program):
    with Checkpoints(workdir, keep=10) as checkpoints:
        return checkpoints.restore(step, fresh_state(config, program, mesh))


def assert_same_run(workdir, reference, photos):
    config, _, mesh, program = program_of(reference, photos, 1)
    states = [state_at(run, TOTAL, config, mesh, program) for run in (workdir, reference)]
    best = [load_weights(run, "best") for run in (workdir, reference)]
    for ours, theirs in (states, best):
        assert jax.tree.structure(ours) == jax.tree.structure(theirs)
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_array_equal(a, b)
    assert int(states[0].step) == TOTAL

    def timeless(run):
        return [{k: v for k, v in row.items() if k not in TIME_FIELDS} for row in rows_of(run)]

    assert timeless(workdir) == timeless(reference)
    names = [(row["kind"], row["step"]) for row in rows_of(workdir)]
    steps = [("train", step) for step in range(1, TOTAL + 1)]
    steps += [("validation", step) for step in range(EPOCH, TOTAL + 1, EPOCH)]
    assert sorted(names) == sorted(steps)
    results = [json.loads((run / "results.json").read_text()) for run in (workdir, reference)]
    assert results[0] == results[1]


def test_interrupted_run_ends_bit_identical(interrupted, reference, photos):
    workdir, left = interrupted
    assert left["during the first save"]["saving"]
    assert left["during the first save"]["saved"] == []
    assert left["while the best is saved"]["saving"]
    assert len(left["right after unfreezing"]["rows"]) < 2 * EPOCH
    assert left["between two saves"]["rows"][-1]["step"] < TOTAL
    assert not saving("checkpoints")(workdir)
    assert not saving("best")(workdir)
    assert_same_run(workdir, reference, photos)


def test_sigterm_saves_the_very_step(interrupted):
    stop = interrupted[1]["asked to stop between saves"]
    assert stop["code"] == 128 + signal.SIGTERM
    step = stop["saved"][-1]
    assert step == stop["rows"][-1]["step"] >= 10
    assert f"saved after step {step}. The same command goes on." in stop["output"]
    assert "Traceback" not in stop["output"]


def test_saving_again_never_takes_away_what_is_there(tmp_path):
    """Asked to stop just after a save, for instance; a kill may follow at once."""
    state = TrainState(jnp.array(3), {"w": jnp.ones(2)}, {}, {"m": jnp.zeros(2)})
    metadata = {"config": {}, "class_names": ["a", "b"]}
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(state, metadata)
        checkpoints.wait()
        before = content_of(tmp_path)
        checkpoints.save(state, metadata)
        checkpoints.wait()
        assert content_of(tmp_path) == before


def test_checkpoint_that_a_kill_left_half_deleted_does_no_harm(again, photos):
    """An older one, or a best one of steps that are made again."""
    for half in (again / "checkpoints/15", *(again / "best").iterdir()):
        shutil.rmtree(half / "weights")
        (half / "_CHECKPOINT_METADATA").unlink()
    config, _, mesh, program = program_of(again, photos, 1)
    state = state_at(again, TOTAL, config, mesh, program)
    with Checkpoints(again, keep=2) as checkpoints:
        assert checkpoints.latest_step() == TOTAL
        checkpoints.save(state, {"config": {}}, best=True)
    assert load_weights(again, "best").metadata["step"] == TOTAL


@pytest.mark.slow
def test_twenty_kills_at_random_moments(reference, photos, tmp_path):
    seed = random.SystemRandom().randrange(10**6)
    print(f"the seed of the kills is {seed}")
    delays, kills, ended = random.Random(seed), 0, 0
    while kills < 20:
        workdir = tmp_path / f"run{ended}"
        command = options(settings_for(photos, **RECIPE), workdir)
        before = sessions(workdir)
        with started(command, program=(SLOW_MAIN,)) as process:
            wait_until(process, lambda place, n=before: sessions(place) > n, workdir)
            time.sleep(delays.uniform(0, 10))
        if (workdir / "results.json").exists():  # it came to its end: the next kills get a new one
            assert_same_run(workdir, reference, photos)
            ended += 1
            continue
        kills += 1
        print([(row["kind"], row["step"]) for row in rows_of(workdir)[-1:]], steps_of(workdir))
    code, output = run_command(command)
    assert code == 0, output
    assert_same_run(workdir, reference, photos)


def test_finished_run_reports_again_without_training(again, reference, photos):
    before = content_of(again / "checkpoints")
    code, output = run_command(options(settings_for(photos, **RECIPE), again))
    assert code == 0, output
    assert "Compiling" not in output
    assert "Test images, best checkpoint" in output
    assert content_of(again / "checkpoints") == before
    assert_same_run(again, reference, photos)


def test_row_cut_short_by_a_kill_is_written_again(again, reference, photos):
    """And workers, which change nothing, may change in between."""
    path = again / "metrics.jsonl"
    path.write_text(path.read_text()[:-80])
    shutil.rmtree(again / "checkpoints/16")
    train(config_for(photos, **RECIPE, data__workers=0), again)
    for row, original in zip(rows_of(again), rows_of(reference), strict=True):
        assert (row["kind"], row["step"]) == (original["kind"], original["step"])
        if "loss" in row:  # other devices, other rounding
            assert row["loss"] == pytest.approx(original["loss"], rel=1e-4)


def test_more_epochs_need_extend_and_get_a_new_cosine(again, reference, photos, capsys):
    longer = config_for(photos, **RECIPE, data__workers=0, optim__epochs=5.0)
    before = content_of(again)
    with pytest.raises(InputError, match=r"optim.epochs: 4.0 there, 5.0 now[^$]*--extend.*cosine"):
        train(longer, again)
    assert content_of(again) == before
    train(longer, again, extend=True)
    assert "planned anew" in capsys.readouterr().err
    rows = rows_of(again)
    old = rows_of(reference)
    assert rows[: len(old)] == old
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, 21))
    rates = [row["lr"] for row in rows if row["kind"] == "train"]
    assert rates[15] < rates[16]  # the short cosine had almost come down to zero
    assert rates[16] == pytest.approx(0.01 * (1 + np.cos(np.pi * 16 / 20)) / 2)
    with pytest.raises(InputError, match=r"optim.epochs: 5.0 there, 4.0 now"):
        train(config_for(photos, **RECIPE), again, extend=True)


def test_restores_on_another_number_of_devices(reference, photos):
    """Made on two devices; the next step computes the same on one, two and eight."""
    expected = next(row for row in rows_of(reference) if row["step"] == TOTAL)
    for devices in (1, 2, 8):
        config, dataset, mesh, program = program_of(reference, photos, devices)
        state = state_at(reference, TOTAL - 1, config, mesh, program)
        assert all(len(leaf.sharding.device_set) == devices for leaf in jax.tree.leaves(state))
        loader = make_train_loader(config, dataset, program.plan, mesh)
        with jax.set_mesh(mesh):
            step = compile_train_step(config, program, mesh, "full")
            state, metrics = step(state, to_global(loader(TOTAL - 1), mesh))
        assert int(state.step) == TOTAL
        assert float(metrics.loss) == pytest.approx(expected["loss"], rel=1e-5), devices


def test_load_weights_reads_parameters_alone(again, photos):
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
