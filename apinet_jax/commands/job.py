"""Trains with several processes on this machine, as several hosts would.

The processes share this machine's GPUs in their order. If one is lost, the others end, with one
line that names it and the last good checkpoint. The same command then continues from there.

Examples:
  python -m apinet_jax job 2 --config configs/demo.py --workdir=runs/x
"""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable

from absl import app

from apinet_jax.commands import program_flags
from apinet_jax.commands.cli import parse_flags
from apinet_jax.system.errors import InputError, Interrupted, RunError
from apinet_jax.system.hosts import HEARTBEAT
from apinet_jax.system.signals import stop_requests
from apinet_jax.workdir.checkpoint_files import LAST, steps_of

_POLL = 0.1  # seconds between checks of the processes and of signals
# Seconds in which the runtime ends processes that wait for a lost one.
_GRACE = HEARTBEAT + 15
# Exit codes after SIGTERM: with the state saved, or before the process handled signals.
_STOPPED = (128 + signal.SIGTERM, -signal.SIGTERM)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("processes", type=int, metavar="N", help="number of processes")
    parser.add_argument(
        "arguments",
        nargs=argparse.REMAINDER,
        metavar="...",
        help="options of python -m apinet_jax.main",
    )


def run(arguments: argparse.Namespace) -> None:
    """Start the processes and wait for all of them.

    Raises:
        InputError: If the number of processes or an option is wrong.
        RunError: If a process was lost.
        Interrupted: After SIGTERM or Ctrl-C, when all have saved.
        SystemExit: With the exit code of a process that failed and has printed the reason.
    """
    count, options = arguments.processes, arguments.arguments
    if count < 1:
        raise InputError(f"A job has at least 1 process, not {count}.")
    app.define_help_flags()
    program_flags.check_flags(parse_flags([sys.argv[0], *options])[1:])
    # A SLURM step that starts this job counts it as one process.
    outside = {k: v for k, v in os.environ.items() if k not in ("SLURM_PROCID", "SLURM_LOCALID")}
    with stop_requests() as check_signals:
        address = f"--coordinator_address=localhost:{_free_port()}"
        processes = [
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "apinet_jax.main", *options, address),
                    *(f"--num_processes={count}", f"--process_id={index}"),
                ],
                stdin=subprocess.DEVNULL,
                env={**outside, **_share_of_gpus(index, count)},
                # In its own group: a Ctrl-C to the group of the terminal would reach it twice.
                process_group=0,
            )
            for index in range(count)
        ]
        try:
            first, asked = _wait(processes, check_signals)
        finally:
            for process in processes:
                process.kill()
                process.wait()
    if first is None:
        return
    code = processes[first].returncode
    if asked is not None and code in _STOPPED:
        raise asked
    if code > 0:
        raise SystemExit(code)
    lost = f"Host {first} of {count} was lost (killed by signal {-code})."
    if program_flags.MODE.value == "eval":
        raise RunError(f"{lost} Nothing is kept of an evaluation; start it again.")
    workdir = program_flags.run_folder()
    checkpoint = "There is no checkpoint yet."
    if steps := steps_of(workdir):
        checkpoint = f"The last good checkpoint is {workdir / LAST / str(steps[-1])}."
    raise RunError(f"{lost} {checkpoint} The same command continues from the last good checkpoint.")


def _wait(
    processes: list[subprocess.Popen], check_signals: Callable[[], None]
) -> tuple[int | None, Interrupted | None]:
    """Wait for all, or a while after a failure; return the first failure and a request to stop."""
    first, asked, until = None, None, None
    while True:
        codes = [process.poll() for process in processes]
        failed = [index for index, code in enumerate(codes) if code]
        if failed and first is None:
            # A killed process ends before those that the runtime ends because of it.
            first = min(failed, key=lambda index: codes[index] != -signal.SIGKILL)
            until = time.monotonic() + _GRACE
        if None not in codes or (until is not None and time.monotonic() > until):
            return first, asked
        try:
            check_signals()
        except Interrupted as request:
            if asked is None:
                asked = request
                for process in processes:
                    process.terminate()  # they save first
        time.sleep(_POLL)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def _share_of_gpus(index: int, count: int) -> dict[str, str]:
    """The variable that limits a process to its GPUs, if there are enough for all."""
    if (shown := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        gpus = [gpu for gpu in shown.split(",") if gpu]
    elif shutil.which("nvidia-smi") is None:
        return {}
    else:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=False,
        )
        gpus = listed.stdout.split()
    share = len(gpus) // count
    if not share:
        return {}
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpus[index * share : (index + 1) * share])}
