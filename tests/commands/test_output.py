"""Output that cannot be shown, or that nobody reads any more."""

import os
import signal
import subprocess
import sys

import pytest
from tiny_runs import REPOSITORY

FIRST_LINES = """
import sys
from pathlib import Path
from apinet_jax.commands.cli import run_with_exit_codes
from apinet_jax.system.console import print_result, say
from apinet_jax.system.errors import InputError
"""
WRITES_AFTER_PRINTING = """
def run():
    sys.stdin.readline()  # until the readers are gone
    say("Reading ...")
    print_result(["figures"] * 3)
    say("Writing ...")
    Path(sys.argv[1]).write_text("written")
run_with_exit_codes(run)
"""
PRINTS_ITSELF = """
def run():
    sys.stdin.readline()
    print("x" * 100_000)
run_with_exit_codes(run)
"""
FAILS = """
def run():
    sys.stdin.readline()
    raise InputError("bad input")
run_with_exit_codes(run)
"""
FAILS_TO_READ = """
def run():
    raise BrokenPipeError(32, "Broken pipe")  # of a socket, say
run_with_exit_codes(run)
"""
PRINTS_NAMES = """
def run():
    print_result(["class caf\\u00e9 \\udce9"])
    say("class caf\\u00e9")
    raise InputError("no class caf\\u00e9")
run_with_exit_codes(run)
"""


def started(code, *arguments, **kwargs):
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "HOME": "/"}
    return subprocess.Popen(
        [sys.executable, "-c", FIRST_LINES + code, *map(str, arguments)],
        env=environment | kwargs.pop("environment", {}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **kwargs,
    )


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("both", [False, True])
def test_closed_pipe_loses_no_files(tmp_path, both, unbuffered):
    path = tmp_path / "file"
    with started(
        WRITES_AFTER_PRINTING,
        path,
        stderr=subprocess.STDOUT if both else subprocess.PIPE,
        environment={"PYTHONUNBUFFERED": unbuffered},
    ) as process:
        process.stdout.close()
        _, errors = process.communicate("go on\n", timeout=60)
    assert process.returncode == 128 + signal.SIGPIPE
    assert path.read_text() == "written"
    assert errors in (None, "Reading ...\nWriting ...\n")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_closed_pipe_ends_a_command_quietly(unbuffered):
    environment = {"PYTHONUNBUFFERED": unbuffered}
    with started(PRINTS_ITSELF, stderr=subprocess.PIPE, environment=environment) as process:
        process.stdout.close()
        _, errors = process.communicate("go on\n", timeout=60)
    assert (process.returncode, errors) == (128 + signal.SIGPIPE, "")


def test_error_keeps_its_exit_code_without_readers():
    with started(FAILS, stderr=subprocess.STDOUT) as process:
        process.stdout.close()
        process.communicate("go on\n", timeout=60)
    assert process.returncode == 2


def test_other_broken_pipes_keep_their_traceback():
    with started(FAILS_TO_READ, stderr=subprocess.PIPE) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "BrokenPipeError" in errors


def test_names_that_the_output_cannot_show_are_escaped():
    environment = {"PYTHONIOENCODING": "ascii"}
    with started(PRINTS_NAMES, stderr=subprocess.PIPE, environment=environment) as process:
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert output == "class caf\\xe9 \\udce9\n"
    assert errors == "class caf\\xe9\n\nerror: no class caf\\xe9\n"


def test_closed_terminal_ends_nothing(tmp_path):
    """Writes to it fail with an I/O error, not with a broken pipe."""
    terminal, end = os.openpty()
    path = tmp_path / "file"
    with started(WRITES_AFTER_PRINTING, path, stderr=end, start_new_session=True) as process:
        os.close(end)
        os.close(terminal)
        output, _ = process.communicate("go on\n", timeout=60)
    assert (process.returncode, output, path.read_text()) == (0, "figures\n" * 3, "written")
