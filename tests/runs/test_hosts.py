"""A job of two processes with two devices each computes what one process does."""

import itertools
import json
import shutil
import signal
from contextlib import ExitStack
from pathlib import Path

import host_trajectory
import jax
import numpy as np
import pytest
from jobs import free_port, job, outcome, start_both, start_job
from numeric import max_error
from tiny_runs import (
    SLOW_MAIN,
    draw_photos,
    options,
    rows_of,
    run_command,
    save_trunk,
    settings_for,
    trained,
    wait_until,
)

from apinet_jax.system import hosts
from apinet_jax.system.errors import InputError
from apinet_jax.workdir.checkpoint import load_weights
from apinet_jax.workdir.checkpoint_files import steps_of
from apinet_jax.workdir.metrics_log import TIME_FIELDS

TRAJECTORY = Path(__file__).parents[1] / "helpers/host_trajectory.py"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """13 test images, which no batch size and no number of devices divides."""
    folder = draw_photos(tmp_path_factory.mktemp("photos"))
    for name in ("class0/0", "class1/1", "class2/2"):
        (folder / "test" / f"{name}.png").unlink()
    return folder


@pytest.fixture(scope="module")
def stopped(photos, tmp_path_factory):
    """A job of two processes, one of which gets a signal to stop; then it continues.

    It then keeps its images on the devices, which computes the same.

    Returns the workdir, both outputs of both runs, and the step at which the first one stopped.
    """
    workdir = tmp_path_factory.mktemp("runs") / "job"
    command = options(settings_for(photos), workdir)
    with ExitStack() as stack:
        processes = start_job(stack, command, program=(SLOW_MAIN,))
        wait_until(processes[0], trained(7), workdir)
        processes[1].send_signal(signal.SIGINT)  # which is passed on as SIGTERM
        first = outcome(processes)
    assert [code for code, _ in first] == [143, 130], first
    step = rows_of(workdir)[-1]["step"]
    second = job(options(settings_for(photos, data__cache="device"), workdir))
    assert [code for code, _ in second] == [0, 0], second
    return workdir, first, second, step


@pytest.fixture(scope="module")
def single(photos, tmp_path_factory):
    """The same run by one process with one device."""
    workdir = tmp_path_factory.mktemp("runs") / "single"
    code, output = run_command(options(settings_for(photos), workdir), devices=1)
    assert code == 0, output
    return workdir


@pytest.mark.slow
def test_first_step_equals_that_of_one_host(stopped, single):
    ours, reference = rows_of(stopped[0])[0], rows_of(single)[0]
    assert ours["step"] == reference["step"] == 1
    assert ours["pairs"] == reference["pairs"]
    for name in ("loss", "cross_entropy", "ranking", "grad_norm"):
        assert max_error(ours[name], reference[name]) < 1e-5, name


@pytest.mark.slow
def test_every_test_image_counts_once(stopped, single):
    for workdir in (stopped[0], single):
        report = json.loads((workdir / "results.json").read_text())
        assert report["test"]["last"]["images"] == 13


@pytest.mark.slow
def test_only_the_primary_process_prints_and_writes(stopped):
    workdir, _, [(_, first), (_, second)], _ = stopped
    assert "process 0 of 2, 4 devices" in first
    assert "Test images" in first
    assert [line for line in second.splitlines() if line and "[Gloo]" not in line] == []
    record = json.loads((workdir / "run.json").read_text())
    assert [session["processes"] for session in record["sessions"]] == [2, 2]
    assert len(list((workdir / "tensorboard").iterdir())) == 2


@pytest.mark.slow
def test_signal_to_one_process_stops_both(stopped):
    _, [(_, output), _], [(_, afterwards), _], step = stopped
    assert 7 <= step < 16
    assert f"Stopped: saved after step {step}" in output
    assert f"Continuing after step {step} of 16" in afterwards


@pytest.mark.slow
def test_resumed_job_ends_like_an_undisturbed_one(stopped, photos, tmp_path):
    undisturbed = tmp_path / "undisturbed"
    outcomes = job(options(settings_for(photos), undisturbed))
    assert [code for code, _ in outcomes] == [0, 0], outcomes

    def timeless(run):
        return [{k: v for k, v in row.items() if k not in TIME_FIELDS} for row in rows_of(run)]

    assert timeless(stopped[0]) == timeless(undisturbed)
    ours, reference = ((run / "results.json").read_text() for run in (stopped[0], undisturbed))
    assert ours == reference


@pytest.mark.slow
def test_evaluation_equals_that_of_one_host(stopped, tmp_path):
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


@pytest.mark.slow
def test_pretrained_ema_and_microbatches(photos, tmp_path):
    """Two processes compute what one does that has as many devices."""
    settings = settings_for(
        photos,
        model__pretrained=str(save_trunk(tmp_path / "tiny.safetensors")),
        optim__ema=0.9,
        optim__epochs=2.0,
        train__microbatches=2,
        batch__images=4,
    )
    outcomes = job(options(settings, tmp_path / "two"))
    outcomes.append(run_command(options(settings, tmp_path / "one"), devices=4))
    assert [code for code, _ in outcomes] == [0, 0, 0], outcomes
    assert "The trunk starts from" in outcomes[0][1]
    two, one = rows_of(tmp_path / "two")[0], rows_of(tmp_path / "one")[0]
    for name in ("loss", "cross_entropy", "ranking", "grad_norm"):
        assert max_error(two[name], one[name]) < 1e-5, name
    averages = [load_weights(tmp_path / run, "last").params for run in ("two", "one")]
    errors = jax.tree.map(max_error, *averages)
    assert max(jax.tree.leaves(errors)) < 1e-4
    records = [json.loads((tmp_path / run / "run.json").read_text()) for run in ("two", "one")]
    assert records[0]["pretrained"] == records[1]["pretrained"]
    assert records[0]["devices"] == records[1]["devices"] == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [({}, "is not a run record"), ({"optim__lr": -1.0}, "optim.lr = -1.0: must be")],
)
def test_error_is_printed_once(changes, message, photos, tmp_path):
    workdir = tmp_path / "no record"
    workdir.mkdir()
    (workdir / "run.json").write_text("nonsense")
    (code, output), (other, silence) = job(options(settings_for(photos, **changes), workdir))
    assert code == other == 2
    assert message in output
    assert "error" not in silence
    assert "Traceback" not in output + silence


@pytest.mark.slow
@pytest.mark.parametrize("made_by", ["job", "one process"])
def test_resume_on_another_number_of_hosts(made_by, stopped, single, photos, tmp_path):
    """The loss of the next step is the same."""
    made = stopped[0] if made_by == "job" else single
    workdir = shutil.copytree(made, tmp_path / "again")
    shutil.rmtree(workdir / "checkpoints/16")
    assert steps_of(workdir)[-1] == 15
    command = options(settings_for(photos), workdir)
    outcomes = [run_command(command, devices=4)] if made_by == "job" else job(command)
    assert {code for code, _ in outcomes} == {0}, outcomes
    losses = [
        next(row["loss"] for row in rows_of(run) if (row["kind"], row["step"]) == ("train", 16))
        for run in (workdir, made)
    ]
    assert max_error(*losses) < 1e-5


def trajectories(bits, folder):
    """What each process of a job of two computes, and what this process computes."""
    port = free_port()
    with ExitStack() as stack:
        processes = start_both(
            stack,
            lambda index: [folder, str(port), "2", str(index), str(bits)],
            program=(TRAJECTORY,),
        )
        one = host_trajectory.steps_in(bits, jax.devices()[:1])
        outcomes = outcome(processes)
    assert [code for code, _ in outcomes] == [0, 0], outcomes
    return [dict(np.load(folder / f"{index}.npz")) for index in range(2)], one


def assert_same_steps(two, one, tolerance):
    """Both processes have the pairs and losses of one, each having read its part of the images."""
    assert two[0]["rows"].tolist() == [0, 1, 2, 3, 8, 9, 10, 11]  # the mesh alternates
    images = np.empty_like(one["read"])
    for host in two:
        images[:, host["rows"]] = host["read"]
        np.testing.assert_array_equal(host["intra"], one["intra"])
        np.testing.assert_array_equal(host["inter"], one["inter"])
        for ours, reference in zip(host["loss"], one["loss"], strict=True):
            assert max_error(ours, reference) < tolerance
    np.testing.assert_array_equal(images, one["read"])


def test_one_step_in_float32(tmp_path):
    two, one = trajectories(32, tmp_path)
    assert_same_steps(two, one, tolerance=1e-5)
    for host in two:
        assert max_error(host["gradient"], one["gradient"]) < 1e-5


@pytest.mark.slow
def test_twenty_steps_in_float64(tmp_path):
    two, one = trajectories(64, tmp_path)
    assert len(one["loss"]) == 20
    assert_same_steps(two, one, tolerance=1e-9)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("localhost", 2, 0), "has no port"),
        (("localhost:1234", None, None), "num_processes"),
        (("localhost:1234", 2, 2), "process_id"),
        ((None, 2, 0), "coordinator_address"),
    ],
)
def test_incomplete_flags_of_a_job(given, message, monkeypatch):
    for name in ("SLURM_JOB_ID", "JAX_COORDINATOR_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(jax._src.xla_bridge, "backends_are_initialized", lambda: False)
    with pytest.raises(InputError, match=message):
        hosts.initialize_job(*given)
    assert not hosts.is_multiprocess()


def test_single_process_is_primary():
    assert hosts.is_primary()
    assert hosts.broadcast_from_primary(lambda: (1, 2)) == (1, 2)
    assert hosts.run_on_primary_first(itertools.count) is not None
    hosts.wait_for_all_processes()
