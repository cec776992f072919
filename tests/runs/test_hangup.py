"""A closed terminal: SIGHUP reaches a run and its workers."""

import os
import signal

import pytest
from tiny_runs import (
    SLOW_MAIN,
    draw_photos,
    options,
    rows_of,
    settings_for,
    started,
    trained,
    wait_until,
)


@pytest.mark.slow
def test_closed_terminal_saves(tmp_path):
    photos, workdir = draw_photos(tmp_path / "photos"), tmp_path / "run"
    command = options(settings_for(photos), workdir)
    with started(command, program=(str(SLOW_MAIN),)) as process:
        wait_until(process, trained(2), workdir)
        os.killpg(process.pid, signal.SIGHUP)
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGHUP, output
    step = rows_of(workdir)[-1]["step"]
    assert f"saved after step {step}" in output
    assert (workdir / "checkpoints" / str(step)).is_dir()
