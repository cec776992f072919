"""Faults of one host of two: the job ends with one message, and the same command resumes."""

import json
import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from jobs import free_port, outcome, start_both
from tiny_runs import (
    draw_photos,
    options,
    rows_of,
    run_command,
    settings_for,
    started,
    trained,
    wait_until,
)

from apinet_jax.workdir.checkpoint_files import steps_of

pytestmark = pytest.mark.slow


# Enough for everything but the arrays of a checkpoint.
MAIN_ON_FULL_DISK = """
from tiny_runs import full_disk
from apinet_jax.main import entry_point
with full_disk(500_000):
    entry_point()
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """13 test images, which no batch size and no number of devices divides."""
    folder = draw_photos(tmp_path_factory.mktemp("photos"))
    for name in ("class0/0", "class1/1", "class2/2"):
        (folder / "test" / f"{name}.png").unlink()
    return folder


def test_workdir_on_one_host_only(photos, tmp_path):
    address = f"--coordinator_address=localhost:{free_port()}"

    def arguments(index):
        workdir = tmp_path / f"disk{index}" / "run"
        process = (address, "--num_processes=2", f"--process_id={index}")
        return [*options(settings_for(photos), workdir), *process]

    with ExitStack() as stack:
        (first, other), (code, output) = outcome(start_both(stack, arguments))
    assert code == 2, output + other
    assert f"Host 1 does not see {tmp_path}/disk1/run/run.json, which host 0 has" in output
    assert "Traceback" not in output + other
    assert first != 0


def test_full_disk_of_the_primary_process(photos, tmp_path):
    workdir = tmp_path / "run"
    command = options(settings_for(photos, data__workers=0, model__hidden=8192), workdir)
    address = f"--coordinator_address=localhost:{free_port()}"
    began = time.monotonic()
    with ExitStack() as stack:
        processes = []
        for index in range(2):
            process = [*command, address, "--num_processes=2", f"--process_id={index}"]
            program = ("-c", MAIN_ON_FULL_DISK) if index == 0 else ("-m", "apinet_jax.main")
            processes.append(stack.enter_context(started(process, program=program)))
        outcomes = outcome(processes)
    print(f"{time.monotonic() - began:.0f} s")
    assert outcomes[0][0] == 1, outcomes
    assert "error: Could not write the checkpoint" in outcomes[0][1]
    assert "Traceback" not in outcomes[0][1]
    assert outcomes[1][0] != 0, outcomes
    code, output = run_command(command, devices=4)
    assert code == 0, output
    assert rows_of(workdir)[-1]["step"] == 16


def test_other_images_on_one_host(photos, tmp_path):
    others = draw_photos(tmp_path / "others", train=13)
    address = f"--coordinator_address=localhost:{free_port()}"

    def arguments(index):
        settings = settings_for([photos, others][index])
        return [
            *options(settings, tmp_path / "run"),
            *(address, "--num_processes=2", f"--process_id={index}"),
        ]

    with ExitStack() as stack:
        (first, _), (code, output) = outcome(start_both(stack, arguments))
    assert code == 2
    assert "Host 1 has other images than host 0" in output
    assert "Traceback" not in output
    assert first != 0


@pytest.mark.parametrize("lost", [0, 1])
def test_lost_host(lost, photos, tmp_path):
    """Within a minute, for each of the two."""
    workdir = tmp_path / "run"
    command = ["job", "2", *options(settings_for(photos), workdir)]
    with started(command, program=("-m", "apinet_jax")) as launcher:
        wait_until(launcher, trained(5), workdir)
        children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
        assert len(children) == 2
        os.kill(int(children[lost]), signal.SIGKILL)
        began = time.monotonic()
        output, _ = launcher.communicate(timeout=120)
    assert time.monotonic() - began < 60
    assert launcher.returncode == 1, output
    errors = [line for line in output.splitlines() if line.startswith("error: Host")]
    step = steps_of(workdir)[-1]
    assert errors == [
        f"error: Host {lost} of 2 was lost (killed by signal 9). The last good checkpoint is "
        f"{workdir}/checkpoints/{step}. The same command continues from the last good checkpoint."
    ]
    code, output = run_command(command, program=("-m", "apinet_jax"))
    assert code == 0, output
    assert f"Continuing after step {step} of 16" in output
    assert json.loads((workdir / "results.json").read_text())["test"]["last"]["images"] == 13
