"""What machines do to a run: it ends as if nothing had happened, or in one message; never less.

Each fault meets a run of its own workdir, at a moment that is drawn; then the same command goes
on. Parameters, rows and results have to be those of a run that nothing disturbed, bit for bit.
The slow tests are the fault script of `docs/reliability.md`.
"""

import os
import random
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from same_runs import EPOCH, RECIPE, assert_same_run
from tiny_runs import (
    SLOW_MAIN,
    draw_photos,
    evaluating,
    options,
    rows_of,
    run_command,
    saving,
    sessions,
    settings_for,
    started,
    wait_until,
)

from apinet_jax.checkpoint_files import steps_of
from apinet_jax.errors import DivergedError, RunError
from apinet_jax.seal import SEAL

# Seconds that clouds leave a machine between the signal and its end.
GRACE = 30

MAIN_ON_FULL_DISK = """
from tiny_runs import full_disk
from apinet_jax.main import entry_point
with full_disk({size}):
    entry_point()
"""
# A step that returns garbage, once, as a broken chip may.
MAIN_WITH_NAN = """
import itertools, jax
from apinet_jax import train
from apinet_jax.main import entry_point
real, count = train.fit, itertools.count()
def fit(run, state, loader, stages):
    def broken(step):
        def call(state, batch):
            state, metrics = step(state, batch)
            garbage = jax.tree.map(lambda x: (x - x) / (x - x), (state.params, metrics.loss))
            if next(count) == {at}:
                state = state._replace(params=garbage[0])
                metrics = metrics._replace(loss=garbage[1])
            return state, metrics
        return call
    return real(run, state, loader, dict((name, broken(step)) for name, step in stages.items()))
train.fit = fit
entry_point()
"""


class Scene(NamedTuple):
    """A run that is disturbed.

    Attributes:
        workdir: Its folder.
        photos: Its images.
        draw: Draws moments and places.
    """

    workdir: Path
    photos: Path
    draw: random.Random

    def command(self, **overrides):
        """The command that begins the run and goes on with it."""
        return options(settings_for(self.photos, **RECIPE, **overrides), self.workdir)

    def fails(self, kind, program=("-m", "apinet_jax.main"), **overrides):
        """Runs until it ends in one message; returns that."""
        code, output = run_command(self.command(**overrides), program=program)
        assert code == kind.exit_code, output
        assert "Traceback" not in output
        (message,) = [line for line in output.splitlines() if line.startswith("error: ")]
        if steps_of(self.workdir):
            last = self.workdir / "checkpoints" / str(steps_of(self.workdir)[-1])
            assert message.endswith(f"The last good checkpoint is {last}.")
        return message


def interrupt(scene, number, moment=None, longest=0.1):
    """Sends a signal at a moment, or at any after the beginning; returns what was printed."""
    before = sessions(scene.workdir)
    with started(scene.command(), program=(SLOW_MAIN,)) as process:
        wait_until(process, moment or (lambda place: sessions(place) > before), scene.workdir)
        time.sleep(scene.draw.uniform(0, longest))
        process.send_signal(number)
        began = time.monotonic()
        # Comes to an end only when the workers do, which hold the other end of the pipe.
        output, _ = process.communicate(timeout=60)
    return process.returncode, output, time.monotonic() - began


def killed(scene):
    interrupt(scene, signal.SIGKILL, longest=6.0)


def killed_during_a_save(scene):
    interrupt(scene, signal.SIGKILL, saving("checkpoints"))
    assert saving("checkpoints")(scene.workdir)


def killed_while_the_best_is_saved(scene):
    interrupt(scene, signal.SIGKILL, saving("best"))
    assert saving("best")(scene.workdir)


def killed_during_an_evaluation(scene):
    interrupt(scene, signal.SIGKILL, evaluating(2 * EPOCH), longest=0.4)


def asked_to_stop(scene):
    code, output, seconds = interrupt(scene, signal.SIGTERM, longest=4.0)
    if code == 0:
        return
    assert code == 128 + signal.SIGTERM
    assert seconds < GRACE
    step = steps_of(scene.workdir)[-1]
    assert step == max((row["step"] for row in rows_of(scene.workdir)), default=0)
    assert f"saved after step {step}. The same command goes on." in output
    assert "Traceback" not in output


def flip_a_bit(draw, content):
    changed = bytearray(content)
    changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def truncate(draw, content):
    return content[: draw.randrange(len(content))]


def damaged_newest_checkpoint(scene, damage):
    """Then the one before takes its place, which is told."""
    if len(steps_of(scene.workdir)) < 2:
        interrupt(scene, signal.SIGKILL, lambda workdir: len(steps_of(workdir)) >= 2)
    *_, before, newest = steps_of(scene.workdir)
    folder = scene.workdir / "checkpoints" / str(newest)
    files = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]
    file = scene.draw.choice(files)
    file.write_bytes(damage(scene.draw, file.read_bytes()))
    code, output, _ = interrupt(scene, signal.SIGTERM)
    assert code == 128 + signal.SIGTERM
    name = SEAL if file.name == SEAL else file.relative_to(folder)
    assert f"WARNING: the checkpoint {folder} is not sound: {name} has changed." in output
    assert f"the one before, {folder.parent / str(before)}, takes its place." in output


def flipped_newest_checkpoint(scene):
    damaged_newest_checkpoint(scene, flip_a_bit)


def truncated_newest_checkpoint(scene):
    damaged_newest_checkpoint(scene, truncate)


def full_disk_during_a_save(scene):
    """No file may grow beyond a size that some file of a checkpoint needs, and the rows do not."""
    program = ("-c", MAIN_ON_FULL_DISK.format(size=scene.draw.randrange(40_000, 120_000)))
    assert "Could not write the checkpoint" in scene.fails(RunError, program)


def damaged_record(scene):
    """A bit of the training images flips where the system reads them; they are not cached."""
    (records,) = Path(os.environ["TFDS_DATA_DIR"]).rglob("folder-train.array_record-00000")
    content = records.read_bytes()
    quarter = len(content) // 4
    changed = content[:quarter] + flip_a_bit(scene.draw, content[quarter : 2 * quarter])
    records.write_bytes(changed + content[2 * quarter :])
    message = scene.fails(RunError, data__cache="off")
    assert f"of train in {records.parent} cannot be read" in message
    assert "Delete that folder; the next command prepares it anew." in message
    shutil.rmtree(records.parent)
    code, output, _ = interrupt(scene, signal.SIGTERM)
    assert code == 128 + signal.SIGTERM
    assert "Writing train images" in output


def killed_worker(scene):
    """One of the two that make batches, before it has made all of them."""
    with started(scene.command(), program=(SLOW_MAIN,)) as process:
        wait_until(process, lambda _: len(workers_of(process.pid)) == 2, scene.workdir)
        time.sleep(scene.draw.uniform(0, 1))
        os.kill(scene.draw.choice(workers_of(process.pid)), signal.SIGKILL)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == RunError.exit_code, output
    assert "Traceback" not in output
    assert "error: A worker process that makes batches was ended from outside" in output


def workers_of(pid):
    """The processes that grain has started for a run."""
    found = []
    for child in psutil.Process(pid).children():
        with suppress(psutil.Error):  # one that has just ended
            found += [child.pid] if "spawn_main" in " ".join(child.cmdline()) else []
    return found


def step_that_is_not_finite(scene):
    """Stopped before it can be saved; that of the hardware does not come again."""
    at = scene.draw.randrange(1, 4)
    program = ("-c", MAIN_WITH_NAN.format(at=at))
    assert " is not finite: loss = nan" in scene.fails(DivergedError, program, data__workers=0)


@pytest.fixture(scope="module", autouse=True)
def own_records(tmp_path_factory):
    """A folder of prepared records that no other test shares, so that these may be damaged."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("records")))
        yield


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return draw_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def reference(photos, tmp_path_factory):
    """A run that nothing disturbs."""
    workdir = tmp_path_factory.mktemp("runs") / "reference"
    code, output = run_command(options(settings_for(photos, **RECIPE), workdir))
    assert code == 0, output
    return workdir


@pytest.fixture
def scene(photos, tmp_path):
    seed = random.SystemRandom().randrange(10**6)
    print(f"the seed of the faults is {seed}")
    return Scene(tmp_path / "run", photos, random.Random(seed))


def ends_the_same(scene, reference):
    code, output = run_command(scene.command())
    assert code == 0, output
    assert not saving("checkpoints")(scene.workdir)
    assert not saving("best")(scene.workdir)
    assert_same_run(scene.workdir, reference, scene.photos)


def test_one_fault_after_the_other(scene, reference):
    """The short version: one run, and a fault of each kind that needs a run of its own."""
    for fault in (
        killed_worker,
        killed_during_a_save,
        damaged_record,
        flipped_newest_checkpoint,
    ):
        print(fault.__name__, flush=True)
        fault(scene)
    ends_the_same(scene, reference)


# How often each meets a run.
TIMES = {
    killed: 20,
    killed_during_a_save: 3,
    killed_while_the_best_is_saved: 3,
    killed_during_an_evaluation: 3,
    asked_to_stop: 3,
    flipped_newest_checkpoint: 3,
    truncated_newest_checkpoint: 3,
    full_disk_during_a_save: 3,
    damaged_record: 3,
    killed_worker: 3,
    step_that_is_not_finite: 3,
}
# Those whose moment lies in the first half of a run.
EARLY = (killed_while_the_best_is_saved, killed_during_an_evaluation)


@pytest.mark.slow
def test_faults_in_any_order(scene, reference):
    """Several to a run, as long as enough steps are left for the next one to meet."""
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
