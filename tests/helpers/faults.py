"""Fault injection: each fault strikes at a random moment or place.

Each leaves a workdir in which the same command resumes.
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
from same_runs import EPOCH, RECIPE, assert_same_run
from tiny_runs import (
    SLOW_MAIN,
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

from apinet_jax.system.errors import DivergedError, RunError
from apinet_jax.workdir.checkpoint_files import steps_of
from apinet_jax.workdir.seal import SEAL, is_sealed

# Seconds that clouds leave between the signal and the end of a machine.
GRACE = 30

MAIN_ON_FULL_DISK = """
from tiny_runs import full_disk
from apinet_jax.main import entry_point
with full_disk({size}):
    entry_point()
"""
# One step returns NaN, as a broken chip may.
MAIN_WITH_NAN = """
import itertools, jax
from apinet_jax import training
from apinet_jax.main import entry_point
real, count = training.fit, itertools.count()
def fit(run, state, loader, stages):
    def broken(step):
        def call(*args):
            state, metrics = step(*args)
            garbage = jax.tree.map(lambda x: (x - x) / (x - x), (state.params, metrics.loss))
            if next(count) == {at}:
                state = state._replace(params=garbage[0])
                metrics = metrics._replace(loss=garbage[1])
            return state, metrics
        return call
    return real(run, state, loader, dict((name, broken(step)) for name, step in stages.items()))
training.fit = fit
entry_point()
"""


class Scene(NamedTuple):
    """A run into which faults are injected.

    Attributes:
        workdir: Its folder.
        photos: Its images.
        draw: Source of random moments and places.
    """

    workdir: Path
    photos: Path
    draw: random.Random

    def command(self, **overrides):
        """The command that starts and resumes the run."""
        return options(settings_for(self.photos, **RECIPE, **overrides), self.workdir)

    def fails(self, kind, program=("-m", "apinet_jax.main"), **overrides):
        """Run until it ends with one message, and return that."""
        code, output = run_command(self.command(**overrides), program=program)
        assert code == kind.exit_code, output
        assert "Traceback" not in output
        (message,) = [line for line in output.splitlines() if line.startswith("error: ")]
        if steps_of(self.workdir):
            last = self.workdir / "checkpoints" / str(steps_of(self.workdir)[-1])
            assert message.endswith(f"The last good checkpoint is {last}.")
        return message


def interrupt(scene, number, moment=None, longest=0.1):
    """Send a signal at a moment, or at any after the start; return what was printed."""
    before = sessions(scene.workdir)
    with started(scene.command(), program=(SLOW_MAIN,)) as process:
        wait_until(process, moment or (lambda place: sessions(place) > before), scene.workdir)
        time.sleep(scene.draw.uniform(0, longest))
        process.send_signal(number)
        began = time.monotonic()
        # Returns only when the workers end, which hold the other end of the pipe.
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
    assert f"saved after step {step}. The same command continues." in output
    assert "Traceback" not in output


def flip_a_bit(draw, content):
    changed = bytearray(content)
    changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def truncate(draw, content):
    return content[: draw.randrange(len(content))]


def sealed(workdir):
    """The sealed checkpoints; a kill may have left a newer one without a seal."""
    folders = [workdir / "checkpoints" / str(step) for step in steps_of(workdir)]
    return [folder for folder in folders if is_sealed(folder)]


def damaged_newest_checkpoint(scene, damage):
    """The run resumes from the previous one, with a warning."""
    if len(sealed(scene.workdir)) < 2:
        interrupt(scene, signal.SIGKILL, lambda workdir: len(sealed(workdir)) >= 2)
    *_, before, folder = sealed(scene.workdir)
    files = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]
    file = scene.draw.choice(files)
    file.write_bytes(damage(scene.draw, file.read_bytes()))
    code, output, _ = interrupt(scene, signal.SIGTERM)
    assert code == 128 + signal.SIGTERM
    assert f"WARNING: the checkpoint {folder} is damaged: " in output
    if file.name != SEAL:  # a flipped bit of a name in the seal looks like a missing file
        assert f": {file.relative_to(folder)} has changed. " in output
    assert f"the run resumes from {before}." in output


def flipped_newest_checkpoint(scene):
    damaged_newest_checkpoint(scene, flip_a_bit)


def truncated_newest_checkpoint(scene):
    damaged_newest_checkpoint(scene, truncate)


def full_disk_during_a_save(scene):
    """Limit the size of files: a checkpoint exceeds it, rows and shared batches do not."""
    program = ("-c", MAIN_ON_FULL_DISK.format(size=scene.draw.randrange(60_000, 120_000)))
    assert "Could not write the checkpoint" in scene.fails(RunError, program)


def damaged_record(scene):
    """Flip a bit of the training images, which are not cached."""
    (records,) = Path(os.environ["TFDS_DATA_DIR"]).rglob("folder-train.array_record-00000")
    content = records.read_bytes()
    quarter = len(content) // 4
    changed = content[:quarter] + flip_a_bit(scene.draw, content[quarter : 2 * quarter])
    records.write_bytes(changed + content[2 * quarter :])
    message = scene.fails(RunError, data__cache="off")
    assert f"of train in {records.parent} cannot be read" in message
    assert "Delete that folder; the next command prepares it again." in message
    shutil.rmtree(records.parent)
    code, output, _ = interrupt(scene, signal.SIGTERM)
    assert code == 128 + signal.SIGTERM
    assert "Writing train images" in output


def killed_worker(scene):
    """Kill one of the two worker processes before all batches are loaded."""
    with started(scene.command(), program=(SLOW_MAIN,)) as process:
        wait_until(process, lambda _: len(workers_of(process.pid)) == 2, scene.workdir)
        time.sleep(scene.draw.uniform(0, 1))
        os.kill(scene.draw.choice(workers_of(process.pid)), signal.SIGKILL)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == RunError.exit_code, output
    assert "Traceback" not in output
    assert "error: A worker process that loads batches was killed" in output


def workers_of(pid):
    """The worker processes that grain started for a run."""
    found = []
    for child in psutil.Process(pid).children():
        with suppress(psutil.Error):  # one that just ended
            found += [child.pid] if "spawn_main" in " ".join(child.cmdline()) else []
    return found


def step_that_is_not_finite(scene):
    """The run stops before saving; the next run of the step is finite."""
    at = scene.draw.randrange(1, 4)
    program = ("-c", MAIN_WITH_NAN.format(at=at))
    assert " is not finite: loss = nan" in scene.fails(DivergedError, program, data__workers=0)


def ends_the_same(scene, reference):
    code, output = run_command(scene.command())
    assert code == 0, output
    assert not saving("checkpoints")(scene.workdir)
    assert not saving("best")(scene.workdir)
    assert_same_run(scene.workdir, reference, scene.photos)
