r"""Train a grid of settings over several seeds and compare them in one table.

Examples:
  python -m apinet_jax sweep configs/sweeps/ablations.py --folder=runs/ablations \
      --set data.dir=PHOTOS --set model.pretrained=squeezenet1_1.safetensors
  python -m apinet_jax sweep configs/sweeps/ablations.py --folder=runs/ablations --table

Every run is a separate `python -m apinet_jax.main`, except those with `train.features=cache`: they
take seconds, and share one process. The same command continues after an
interruption: finished runs are recorded in FOLDER/runs.jsonl and skipped. Diverged runs are
recorded too; their cells are not compared, and nothing is compared with a reference that diverged.
The table (Markdown and CSV) and the plot are updated after every run. A sweep file is a Python
program: only run files that you trust.
"""

import argparse
import contextlib
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import ml_collections

from apinet_jax.setup.config_file import read_config
from apinet_jax.sweeps.results import (
    TABLE,
    append_run,
    check_alike,
    finished_row,
    read_runs,
    write_table,
)
from apinet_jax.sweeps.spec import Sweep, read_sweep
from apinet_jax.system.console import print_result, say
from apinet_jax.system.errors import DivergedError, InputError, Interrupted, RunError
from apinet_jax.system.paths import local_path
from apinet_jax.system.signals import stop_requests

_POLL = 0.2  # seconds between checks of the run and of signals


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("sweep", help="the sweep file")
    parser.add_argument("--folder", type=local_path, required=True, help="for runs, table and plot")
    parser.add_argument(
        "--results", type=local_path, help="another folder for runs.jsonl, table, plot"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="a setting for all runs, as in data.dir=PHOTOS",
    )
    parser.add_argument("--only", action="append", metavar="CELL", help="only run these cells")
    parser.add_argument("--retry", action="store_true", help="repeat runs that diverged")
    parser.add_argument("--table", action="store_true", help="only write the table")


def run(arguments: argparse.Namespace) -> None:
    """Run what is missing, then print the table.

    Raises:
        InputError: If the sweep file or a setting is wrong.
        RunError: If a run failed; the others were completed.
        Interrupted: After SIGTERM or Ctrl-C, when the current run has ended.
    """
    sweep = read_sweep(arguments.sweep, arguments.set)
    if unknown := sorted(set(arguments.only or ()) - set(sweep.cells)):
        raise InputError(
            f"There is no cell '{unknown[0]}' in {arguments.sweep}. Its cells are: "
            f"{', '.join(sweep.cells)}."
        )
    results = arguments.results or arguments.folder
    if arguments.table and not results.is_dir():
        raise InputError(f"There is no folder {results}, so no table can be made.")
    results.mkdir(parents=True, exist_ok=True)
    done = read_runs(results, sweep)
    if arguments.retry:
        done = {one: row for one, row in done.items() if "diverged" not in row}
    wanted = [
        one
        for one in sweep.runs()
        if one not in done and (not arguments.only or one[0] in arguments.only)
    ]
    failed = []
    began = time.monotonic()
    with stop_requests() as check_signals:
        for index, (cell, seed) in enumerate([] if arguments.table else wanted):
            check_signals()
            left = (time.monotonic() - began) / index * (len(wanted) - index) if index else None
            eta = f", ETA {left / 60:.0f} min" if left else ""
            say(f"Run {index + 1} of {len(wanted)}: {cell}, seed {seed}{eta}")
            workdir = _workdir(arguments.folder, sweep, cell, seed)
            try:
                if diverged := _train(sweep, cell, seed, workdir, check_signals):
                    say(f"DIVERGED: {cell}, seed {seed}: {diverged} ({workdir / 'log.txt'})")
                row = finished_row(sweep, cell, seed, workdir, diverged)
            except RunError as error:
                failed.append(f"{cell}, seed {seed}: {error} ({workdir / 'log.txt'})")
                say(f"FAILED: {failed[-1]}")
                continue
            done[cell, seed] = row
            append_run(results, row)
            check_alike(done, sweep, results)
            write_table(results, sweep, done)
    write_table(results, sweep, done)
    print_result([(results / TABLE).read_text().rstrip()])
    if failed:
        raise RunError(f"{len(failed)} run(s) failed:\n" + "\n".join(f"  {f}" for f in failed))


def _workdir(folder: Path, sweep: Sweep, cell: str, seed: int) -> Path:
    """A folder for each cell and its settings; the hash separates similar names."""
    name = "".join(c if c.isalnum() else "_" for c in cell)
    settings = json.dumps([cell, sweep.identity(cell)], sort_keys=True)
    return folder / f"{name}-{hashlib.sha256(settings.encode()).hexdigest()[:8]}" / f"seed{seed}"


def _train(
    sweep: Sweep, cell: str, seed: int, workdir: Path, check_signals: Callable[[], None]
) -> str | None:
    """Start or continue a run; return the message of one that diverged."""
    workdir.mkdir(parents=True, exist_ok=True)
    settings = {**sweep.settings, **sweep.cells[cell], "seed": seed}
    config = read_config(sweep.base)
    config.update_from_flattened_dict(settings)
    if config.train.features == "cache":
        return _train_here(config, workdir)
    command = [
        *(sys.executable, "-m", "apinet_jax.main"),
        *(f"--config={sweep.base}", f"--workdir={workdir}"),
        *(f"--config.{field}={value}" for field, value in settings.items()),
    ]
    stopped = None
    with open(workdir / "log.txt", "a") as log:
        start = log.tell()
        # In its own group: a signal to this process's group would reach it twice, and the second
        # one ends it before the state is saved.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        while process.poll() is None:
            time.sleep(_POLL)
            try:
                check_signals()
            except Interrupted as request:
                stopped = request
                process.terminate()  # it saves first
                process.wait()
    code = process.returncode
    if code == 0:
        return None
    if stopped:
        saved = "has saved its state" if code > 0 else "had nothing to save yet"
        say(f"The interrupted run {saved}. The same command continues.")
        raise stopped
    reason = _reason(workdir / "log.txt", start, code)
    if code == DivergedError.exit_code:
        return reason
    raise RunError(reason)


def _train_here(config: ml_collections.ConfigDict, workdir: Path) -> str | None:
    """Train in this process, as `_train`: a head takes less time than a new process."""
    from apinet_jax.system.compilation_cache import enable_compilation_cache
    from apinet_jax.training import train

    enable_compilation_cache()
    with (
        open(workdir / "log.txt", "a") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        try:
            train(config, workdir)
        except DivergedError as error:
            say(f"error: {error}")
            return str(error)
        except InputError as error:  # the other runs may be possible
            raise RunError(str(error)) from error
    return None


def _reason(log: Path, start: int, code: int) -> str:
    """The message that a failed run ended with, in the log after byte `start`."""
    text = log.read_bytes()[start:].decode(errors="replace")
    _, error, message = f"\n{text}".rpartition("\nerror: ")
    if error:
        return message.strip()
    if code < 0:
        return f"killed by signal {-code}" + (", perhaps for lack of memory" if code == -9 else "")
    return f"exit code {code}"
