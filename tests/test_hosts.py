"""Two processes of two devices are one job, and compute what one process of one device does."""

import itertools
import json
import os
import shutil
import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import host_trajectory
import jax
import numpy as np
import pytest
from numeric import max_error
from tiny_runs import (
    SLOW_MAIN,
    draw_photos,
    options,
    rows_of,
    run_command,
    settings_for,
    started,
    trained,
    wait_until,
)

from apinet_jax import hosts
from apinet_jax.checkpoint_files import steps_of
from apinet_jax.errors import InputError
from apinet_jax.writer import TIME_FIELDS

TRAJECTORY = Path(__file__).parent / "host_trajectory.py"


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def start_both(stack, arguments_of, **kwargs):
    return [stack.enter_context(started(arguments_of(index), **kwargs)) for index in range(2)]


def outcome(processes):
    """Exit codes and outputs; both are read at once, as one may fill its pipe."""
    return [
        (process.returncode, text)
        for process in processes
        for text in [process.communicate(timeout=300)[0]]
    ]


def job(command, **kwargs):
    """A command as a job of two processes of two devices each."""
    with ExitStack() as stack:
        return outcome(start_job(stack, command, **kwargs))


def start_job(stack, command, **kwargs):
    address = f"--coordinator_address=localhost:{free_port()}"
    return start_both(
        stack,
        lambda index: [*command, address, "--num_processes=2", f"--process_id={index}"],
        **kwargs,
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Test images of a number that no batch and no number of devices divides."""
    folder = draw_photos(tmp_path_factory.mktemp("photos"))
    for name in ("class0/0", "class1/1", "class2/2"):
        (folder / "test" / f"{name}.png").unlink()
    return folder


@pytest.fixture(scope="module")
def stopped(photos, tmp_path_factory):
    """A job of two, one of which gets a signal to stop; then the same command again.

    Returns the workdir, what both printed each time and the step at which they stopped.
    """
    workdir = tmp_path_factory.mktemp("runs") / "job"
    command = options(settings_for(photos), workdir)
    with ExitStack() as stack:
        processes = start_job(stack, command, program=(SLOW_MAIN,))
        wait_until(processes[0], trained(7), workdir)
        processes[1].terminate()
        first = outcome(processes)
    assert [code for code, _ in first] == [143, 143], first
    step = rows_of(workdir)[-1]["step"]
    second = job(command)
    assert [code for code, _ in second] == [0, 0], second
    return workdir, first, second, step


@pytest.fixture(scope="module")
def alone(photos, tmp_path_factory):
    """The same by one process of one device."""
    workdir = tmp_path_factory.mktemp("runs") / "alone"
    code, output = run_command(options(settings_for(photos), workdir), devices=1)
    assert code == 0, output
    return workdir


@pytest.mark.slow
def test_the_first_step_is_the_same_on_two_hosts_and_on_one(stopped, alone):
    ours, reference = rows_of(stopped[0])[0], rows_of(alone)[0]
    assert ours["step"] == reference["step"] == 1
    assert ours["pairs"] == reference["pairs"]
    for name in ("loss", "cross_entropy", "ranking", "grad_norm"):
        assert max_error(ours[name], reference[name]) < 1e-5, name


@pytest.mark.slow
def test_every_test_image_counts_once_on_two_hosts(stopped, alone):
    for workdir in (stopped[0], alone):
        report = json.loads((workdir / "results.json").read_text())
        assert report["test"]["last"]["images"] == 13


@pytest.mark.slow
def test_the_first_process_alone_tells_and_writes(stopped):
    workdir, _, [(_, first), (_, second)], _ = stopped
    assert "process 0 of 2, 4 devices" in first
    assert "Test images" in first
    assert [line for line in second.splitlines() if line and "[Gloo]" not in line] == []
    record = json.loads((workdir / "run.json").read_text())
    assert [session["processes"] for session in record["sessions"]] == [2, 2]
    assert len(list((workdir / "tensorboard").iterdir())) == 2


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_and_the_job_goes_on(stopped):
    _, [(_, output), _], [(_, afterwards), _], step = stopped
    assert 7 <= step < 16
    assert f"Asked to stop: saved after step {step}" in output
    assert f"Continuing after step {step} of 16" in afterwards


@pytest.mark.slow
def test_a_job_that_was_stopped_ends_as_if_nothing_had_happened(stopped, photos, tmp_path):
    undisturbed = tmp_path / "undisturbed"
    outcomes = job(options(settings_for(photos), undisturbed))
    assert [code for code, _ in outcomes] == [0, 0], outcomes

    def timeless(run):
        return [{k: v for k, v in row.items() if k not in TIME_FIELDS} for row in rows_of(run)]

    assert timeless(stopped[0]) == timeless(undisturbed)
    ours, reference = ((run / "results.json").read_text() for run in (stopped[0], undisturbed))
    assert ours == reference


@pytest.mark.slow
def test_evaluating_as_a_job_gives_what_one_process_does(stopped, tmp_path):
    workdir = shutil.copytree(stopped[0], tmp_path / "again")
    command = ["--mode=eval", f"--workdir={workdir}"]
    outcomes = job(command)
    assert [code for code, _ in outcomes] == [0, 0], outcomes
    path = workdir / "evaluation-16.json"
    by_two = json.loads(path.read_text())
    code, output = run_command(command, devices=1)
    assert code == 0, output
    by_one = json.loads(path.read_text())
    assert by_two["images"] == by_one["images"] == 13
    assert by_two["top1"] == by_one["top1"]
    assert max_error(by_two["nll"], by_one["nll"]) < 1e-5


def test_an_error_of_the_first_process_is_told_once_and_ends_both(photos, tmp_path):
    workdir = tmp_path / "no record"
    workdir.mkdir()
    (workdir / "run.json").write_text("nonsense")
    (code, output), (other, silence) = job(options(settings_for(photos), workdir))
    assert code == other == 2
    assert "is not a run record" in output
    assert "error" not in silence
    assert "Traceback" not in output + silence


@pytest.mark.slow
def test_a_process_that_sees_other_images_ends_the_job(photos, tmp_path):
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


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_host_ends_the_job_with_one_line_and_it_goes_on(lost, photos, tmp_path):
    """Within a minute, whichever of the two it is."""
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
    told = [line for line in output.splitlines() if line.startswith("error: Host")]
    step = steps_of(workdir)[-1]
    assert told == [
        f"error: Host {lost} of 2 was lost (killed by signal 9). The last good checkpoint is "
        f"{workdir}/checkpoints/{step}. The same command goes on from the last good checkpoint."
    ]
    code, output = run_command(command, program=("-m", "apinet_jax"))
    assert code == 0, output
    assert f"Continuing after step {step} of 16" in output
    assert json.loads((workdir / "results.json").read_text())["test"]["last"]["images"] == 13


@pytest.fixture(scope="module")
def trajectories(tmp_path_factory):
    """What each process of a job of two tells, and what this process alone computes."""
    folder, port = tmp_path_factory.mktemp("trajectory"), free_port()
    with ExitStack() as stack:
        processes = start_both(
            stack, lambda index: [folder, str(port), "2", str(index)], program=(TRAJECTORY,)
        )
        one = host_trajectory.both(jax.devices()[:1])
        outcomes = outcome(processes)
    assert [code for code, _ in outcomes] == [0, 0], outcomes
    return [dict(np.load(folder / f"{index}.npz")) for index in range(2)], one


def test_two_hosts_read_the_images_of_a_step_between_them(trajectories):
    two, one = trajectories
    assert two[0]["rows_64"].tolist() == [0, 1, 2, 3, 8, 9, 10, 11]  # the mesh alternates
    together = np.empty_like(one["read_64"])
    for host in two:
        together[:, host["rows_64"]] = host["read_64"]
    np.testing.assert_array_equal(together, one["read_64"])


def test_gradients_and_partners_of_a_step_in_float32(trajectories):
    two, one = trajectories
    for host in two:
        np.testing.assert_array_equal(host["intra_32"], one["intra_32"])
        np.testing.assert_array_equal(host["inter_32"], one["inter_32"])
        assert max_error(host["loss_32"], one["loss_32"]) < 1e-5
        assert max_error(host["gradient_32"], one["gradient_32"]) < 1e-5


def test_twenty_steps_in_float64(trajectories):
    two, one = trajectories
    assert len(one["loss_64"]) == 20
    for host in two:
        np.testing.assert_array_equal(host["intra_64"], one["intra_64"])
        np.testing.assert_array_equal(host["inter_64"], one["inter_64"])
        for ours, reference in zip(host["loss_64"], one["loss_64"], strict=True):
            assert max_error(ours, reference) < 1e-9


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("localhost", 2, 0), "has no port"),
        (("localhost:1234", None, None), "num_processes"),
        (("localhost:1234", 2, 2), "process_id"),
        ((None, 2, 0), "coordinator_address"),
    ],
)
def test_flags_that_name_no_process_of_a_job(given, message, monkeypatch):
    for name in ("SLURM_JOB_ID", "JAX_COORDINATOR_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(jax._src.xla_bridge, "backends_are_initialized", lambda: False)
    with pytest.raises(InputError, match=message):
        hosts.join(*given)
    assert not hosts.together()


def test_a_process_by_itself_decides_for_itself():
    assert hosts.is_first()
    assert hosts.first_decides(lambda: (1, 2)) == (1, 2)
    assert hosts.first_goes_ahead(itertools.count) is not None
    hosts.wait_for_all()
