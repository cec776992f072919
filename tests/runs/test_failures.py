"""A failing disk or device ends the run with one message, and the same command resumes."""

import numpy as np
import pytest
from jax.errors import JaxRuntimeError
from tiny_runs import (
    config_for,
    draw_photos,
    evaluate,
    full_disk,
    options,
    rows_of,
    run_command,
    settings_for,
    train,
)

from apinet_jax import evaluation, loop
from apinet_jax.system.errors import RunError
from apinet_jax.system.paths import write_atomically
from apinet_jax.workdir.checkpoint_files import steps_of
from apinet_jax.workdir.metrics_log import MetricsWriter
from apinet_jax.workdir.record import read_record

# Four steps, each of them saved; a head of 1 MB, which a small enough disk refuses.
SHORT = {
    "model__hidden": 4096,
    "optim__epochs": 2.0,
    "optim__frozen_epochs": 0.0,
    "checkpoint__every": 0.5,
    "data__val_fraction": 0.0,
    "data__workers": 0,
}
OUT_OF_MEMORY = "RESOURCE_EXHAUSTED: Out of memory allocating 77 bytes.\nAnd more lines."
MAIN_ON_FULL_DISK = """
from tiny_runs import full_disk
from apinet_jax.main import entry_point
with full_disk(100_000):
    entry_point()
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return draw_photos(tmp_path_factory.mktemp("photos"), train=4, test=2)


def failing(function, at, error):
    """Raise an error at one of the calls, counted from 1."""
    calls = []

    def wrapped(*args):
        calls.append(args)
        if len(calls) == at:
            raise error
        return function(*args)

    return wrapped


@pytest.mark.slow
def test_run_resumes_after_each_failure(photos, tmp_path, monkeypatch):
    workdir, config = tmp_path / "run", config_for(photos, **SHORT)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "to_global", failing(loop.to_global, 3, JaxRuntimeError(OUT_OF_MEMORY)))
        with pytest.raises(RunError) as caught:
            train(config, workdir)
    text = str(caught.value)
    assert text.startswith("The device ran out of memory (RESOURCE_EXHAUSTED: Out of memory alloc")
    assert "lower batch.classes" in text
    assert text.endswith(f"The last good checkpoint is {workdir}/checkpoints/2.")

    command = options(settings_for(photos, **SHORT), workdir)
    code, output = run_command(command, program=("-c", MAIN_ON_FULL_DISK))
    assert code == RunError.exit_code, output
    assert "Traceback" not in output
    assert output.partition("error: ")[2] == (
        f"Could not write the checkpoint {workdir}/checkpoints/3: File too large. Fix that, then "
        "run the same command to resume. "
        f"The last good checkpoint is {workdir}/checkpoints/2.\n"
    )
    assert steps_of(workdir) == [1, 2]

    train(config, workdir)
    assert [row["step"] for row in rows_of(workdir)] == [1, 2, 3, 4]
    assert [session["step"] for session in read_record(workdir)["sessions"]] == [0, 2, 2]

    monkeypatch.setattr(
        evaluation, "to_global", failing(evaluation.to_global, 1, JaxRuntimeError(OUT_OF_MEMORY))
    )
    with pytest.raises(RunError, match=r"ran out of memory .*lower eval.batch_size"):
        evaluate(workdir, "last", None)


def test_parameters_that_are_not_finite_are_not_saved(photos, tmp_path):
    """The gradient of the first step is finite, but the update overflows."""
    config = config_for(photos, **SHORT, optim__lr=3e38, optim__weight_decay=100.0)
    message = r"After step 1 the parameters are no longer finite.*lower.*There is no checkpoint yet"
    with pytest.raises(RunError, match=message):
        train(config, tmp_path)
    assert all(np.isfinite(row["grad_norm"]) for row in rows_of(tmp_path))
    assert not list((tmp_path / "checkpoints").iterdir())


def test_full_disk_under_the_metrics(tmp_path):
    """The events of TensorBoard are refused too, which blocks nothing."""
    message = r"^Could not write .*metrics.jsonl: File too large"

    def fill(writer):
        for step in range(1, 100):
            writer.write({"kind": "train", "step": step, "loss": 1.5})

    with (
        full_disk(1000),
        pytest.raises(RunError, match=message),
        MetricsWriter(tmp_path, 0) as writer,
    ):
        fill(writer)
    steps = [row["step"] for row in rows_of(tmp_path)]
    assert steps == list(range(1, len(steps) + 1))
    assert 10 < len(steps) < 99
    with MetricsWriter(tmp_path, 10) as writer:
        assert [row["step"] for row in writer.rows] == steps[:10]


def test_full_disk_keeps_the_old_file(tmp_path):
    path = tmp_path / "run.json"
    write_atomically(path, "old")
    message = r"^Could not write .*run.json: File too large"
    with full_disk(10), pytest.raises(RunError, match=message):
        write_atomically(path, "new" * 10)
    assert path.read_text() == "old"
