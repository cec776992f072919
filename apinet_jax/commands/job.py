"""Trains as one job of several processes on this machine, as several hosts would.

GPUs are shared out among the processes in their order. If a process is lost, one line names it and
the last good checkpoint, and the others end; the same command then goes on from there.

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
from pathlib import Path

from apinet_jax.system.errors import InputError, Interrupted, RunError
from apinet_jax.system.hosts import HEARTBEAT
from apinet_jax.system.paths import AnyPath, to_path
from apinet_jax.system.signals import stop_requests
from apinet_jax.workdir.checkpoint_files import LAST, steps_of

_POLL = 0.1  # seconds between two looks at the processes and at the signals
# Seconds in which the runtime ends those that wait for a process which is lost.
_GRACE = HEARTBEAT + 15
# How a process ends that was asked to: with its state saved, or before it listened.
_STOPPED = (128 + signal.SIGTERM, -signal.SIGTERM)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("processes", type=int, metavar="N", help="how many processes")
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, metavar="...", help="what the program is given"
    )


def run(arguments: argparse.Namespace) -> None:
    """Starts the processes and waits for all of them.

    Raises:
        InputError: If the number of processes is none.
        RunError: If a process was lost.
        Interrupted: After SIGTERM or Ctrl-C, when all have saved.
        SystemExit: With the exit code of a process that failed, which has said why.
    """
    count, options = arguments.processes, arguments.arguments
    if count < 1:
        raise InputError(f"A job has at least 1 process, not {count}.")
    # A step of SLURM that this job is started in is one process, and not one of these.
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
                # In a group of its own: a Ctrl-C to the whole group would reach it twice.
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
    workdir = _workdir(options)
    there = "There is no checkpoint yet."
    if steps := steps_of(workdir):
        there = f"The last good checkpoint is {workdir / LAST / str(steps[-1])}."
    raise RunError(
        f"Host {first} of {count} was lost (killed by signal {-code}). {there} The same command "
        "goes on from the last good checkpoint."
    )


def _wait(
    processes: list[subprocess.Popen], check_signals: Callable[[], None]
) -> tuple[int | None, Interrupted | None]:
    """Waits until all have ended, or for a while after one has failed.

    Returns:
        The first that failed, and the request to stop, if there was one.
    """
    first, asked, until = None, None, None
    while True:
        codes = [process.poll() for process in processes]
        failed = [index for index, code in enumerate(codes) if code]
        if failed and first is None:
            # One that is killed ends before those that the runtime ends because of it.
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
    """The variable that shows a process its GPUs alone, where there are enough for all."""
    if (shown := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        gpus = [gpu for gpu in shown.split(",") if gpu]
    elif shutil.which("nvidia-smi") is None:
        return {}
    else:
        told = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=False,
        )
        gpus = told.stdout.split()
    share = len(gpus) // count
    if not share:
        return {}
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpus[index * share : (index + 1) * share])}


def _workdir(options: list[str]) -> AnyPath:
    """The folder of the run, as the program finds it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--workdir", "-workdir")
    parser.add_argument("--config", "-config", default="")
    given, _ = parser.parse_known_args(options)
    name = Path(given.config.split(":")[0]).stem
    return to_path(given.workdir or Path("runs", name))
