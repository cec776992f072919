r"""Trains a grid of settings over several seeds and compares them in one table.

Examples:
  python -m apinet_jax sweep configs/sweeps/ablations.py --folder=runs/ablations \\
      --set data.dir=PHOTOS --set model.pretrained=squeezenet1_1.safetensors
  python -m apinet_jax sweep configs/sweeps/ablations.py --folder=runs/ablations --table

Every run is a `python -m apinet_jax.main` of its own, so the same command goes on where it was
interrupted: finished runs are kept in FOLDER/runs.jsonl and skipped, an unfinished one continues.
The table (Markdown and CSV) and the plot are written anew after every run; what was not run says
so. A sweep file is Python, like a configuration: run only files that you trust.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from apinet_jax.comparison import as_csv, as_markdown, draw
from apinet_jax.errors import InputError, Interrupted, RunError
from apinet_jax.signals import stop_requests
from apinet_jax.sweep_file import Metric, Sweep, read_sweep
from apinet_jax.writer import read_rows, result, say, write_atomically

Runs = dict[tuple[str, int], dict[str, Any]]
"""A row of `runs.jsonl` for each cell and seed that was run."""

_ROW = {"cell": str, "seed": int, "settings": dict, "data": str}
_POLL = 0.2  # seconds between two looks at a run and at the signals


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("sweep", help="the sweep file")
    parser.add_argument("--folder", type=Path, required=True, help="where runs and table go")
    parser.add_argument("--results", type=Path, help="where runs.jsonl, table and plot go instead")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="a setting of all runs, for instance data.dir=PHOTOS",
    )
    parser.add_argument("--only", action="append", metavar="CELL", help="run these cells alone")
    parser.add_argument("--table", action="store_true", help="run nothing, write the table")


def run(arguments: argparse.Namespace) -> None:
    """Runs what is missing, then prints the table.

    Raises:
        InputError: If the sweep file or a setting is wrong.
        RunError: If a run failed; the others were made.
        Interrupted: After SIGTERM or Ctrl-C; the run under way has been asked to save its state.
    """
    sweep = read_sweep(arguments.sweep, arguments.set)
    if unknown := sorted(set(arguments.only or ()) - set(sweep.cells)):
        raise InputError(
            f"There is no cell '{unknown[0]}' in {arguments.sweep}; there are: "
            f"{', '.join(sweep.cells)}."
        )
    results = arguments.results or arguments.folder
    if arguments.table and not results.is_dir():
        raise InputError(f"There is no folder {results} to make a table of.")
    results.mkdir(parents=True, exist_ok=True)
    done = _finished(results / "runs.jsonl", sweep)
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
                _train(sweep, cell, seed, workdir, check_signals)
                row = _row(sweep, cell, seed, workdir)
            except RunError as error:
                failed.append(f"{cell}, seed {seed}: {error} ({workdir / 'log.txt'})")
                say(f"FAILED: {failed[-1]}")
                continue
            _check_alike({**done, (cell, seed): row}, results)
            done[cell, seed] = row
            _keep(results / "runs.jsonl", row)
            _write_table(results, sweep, done)
    _write_table(results, sweep, done)
    result([(results / "table.md").read_text().rstrip()])
    if failed:
        raise RunError(f"{len(failed)} run(s) failed:\n" + "\n".join(f"  {f}" for f in failed))


def _workdir(folder: Path, sweep: Sweep, cell: str, seed: int) -> Path:
    """A folder for each cell under each settings; names that differ in signs alone stay apart."""
    name = "".join(c if c.isalnum() else "_" for c in cell)
    settings = json.dumps([cell, sweep.identity(cell)], sort_keys=True)
    return folder / f"{name}-{hashlib.sha256(settings.encode()).hexdigest()[:8]}" / f"seed{seed}"


def _train(
    sweep: Sweep, cell: str, seed: int, workdir: Path, check_signals: Callable[[], None]
) -> None:
    """Trains, or goes on with, one run, in a process of its own.

    Raises:
        RunError: Why it failed.
        Interrupted: After SIGTERM or Ctrl-C.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    settings = {**sweep.settings, **sweep.cells[cell], "seed": seed}
    command = [
        *(sys.executable, "-m", "apinet_jax.main"),
        *(f"--config={sweep.base}", f"--workdir={workdir}"),
        *(f"--config.{field}={value}" for field, value in settings.items()),
    ]
    stopped = None
    with open(workdir / "log.txt", "a") as log:
        start = log.tell()
        # In a group of its own: a signal to the whole group would reach it twice, and the second
        # one does not wait for the state to be saved.
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
        return
    if stopped:
        saved = "has saved its state" if code > 0 else "had nothing to save yet"
        say(f"The run under way {saved}. The same command goes on.")
        raise stopped
    raise RunError(_reason(workdir / "log.txt", start, code))


def _reason(log: Path, start: int, code: int) -> str:
    """The message that a failed run ended with; `start` is where its part of the log begins."""
    text = log.read_bytes()[start:].decode(errors="replace")
    _, error, message = f"\n{text}".rpartition("\nerror: ")
    if error:
        return message.strip()
    if code < 0:
        return f"killed by signal {-code}" + (", for want of memory perhaps" if code == -9 else "")
    return f"exit code {code}"


def _row(sweep: Sweep, cell: str, seed: int, workdir: Path) -> dict[str, Any]:
    """What is kept of a finished run."""
    record = json.loads((workdir / "run.json").read_text())
    rows = read_rows(workdir / "metrics.jsonl")
    return {
        "cell": cell,
        "seed": seed,
        sweep.metric: round(_score(workdir, rows, sweep.metric), 4),
        "settings": sweep.identity(cell),
        "steps": sum(row["kind"] == "train" for row in rows),
        "data": record["data_fingerprint"][:16],
        "weights": record["pretrained"] and record["pretrained"]["sha256"][:16],
        "commit": record["sessions"][-1]["commit"],
    }


def _score(workdir: Path, rows: list[dict[str, Any]], metric: Metric) -> float:
    """Accuracy of the last epoch, in percent."""
    if metric == "test":
        report = json.loads((workdir / "results.json").read_text())
        if "test" not in report:
            raise RunError("the data have no test images")
        return 100 * report["test"]["last"]["top1"]
    validation = [row["top1"] for row in rows if row["kind"] == "validation"]
    if not validation:
        raise RunError("no images are held out: set data.val_fraction")
    return 100 * validation[-1]


def _keep(path: Path, row: dict[str, Any]) -> None:
    """Appends a finished run to what is known."""
    before = path.read_text() if path.exists() else ""
    if before and not before.endswith("\n"):
        before += "\n"
    write_atomically(path, before + json.dumps(row) + "\n")


def _finished(path: Path, sweep: Sweep) -> Runs:
    """The runs that are done under the settings of today.

    Raises:
        InputError: If a line of the file is no run, or runs were made on different images.
    """
    done: Runs = {}
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else [], start=1):
        try:
            row = json.loads(line)
            if not all(isinstance(row[name], kind) for name, kind in _ROW.items()):
                raise ValueError
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}, line {number} is no run. Restore the file, or remove the line: that run "
                "is then made again."
            ) from error
        cell, seed = row["cell"], row["seed"]
        known = cell in sweep.cells and sweep.metric in row
        # JSON has neither tuples nor the difference of 1 and 1.0.
        if known and row["settings"] == json.loads(json.dumps(sweep.identity(cell))):
            done[cell, seed] = row
        else:
            say(f"Not counted: {cell}, seed {seed}, run under other settings.")
    _check_alike(done, path.parent)
    return done


def _check_alike(done: Runs, results: Path) -> None:
    """Refuses to compare runs on different images, or from different weights."""
    for what, name in (("images", "data"), ("pretrained weights", "weights")):
        found: dict[str, tuple[str, int]] = {}
        for run, row in done.items():
            if row.get(name):
                found.setdefault(row[name], run)
        if len(found) > 1:
            (cell, seed), (other, other_seed), *_ = found.values()
            raise InputError(
                f"The {what} of '{cell}', seed {seed} in {results / 'runs.jsonl'} are not those of "
                f"'{other}', seed {other_seed}: the two cannot be compared. Give each its own "
                "--folder."
            )


def _write_table(results: Path, sweep: Sweep, done: Runs) -> None:
    scores: dict[str, dict[int, float]] = {cell: {} for cell in sweep.cells}
    for (cell, seed), row in done.items():
        scores[cell][seed] = row[sweep.metric]
    what = list(sweep.cells), scores, sweep.reference
    write_atomically(results / "table.md", as_markdown(*what))
    write_atomically(results / "table.csv", as_csv(*what))
    if done:
        draw(*what, results / "plot.png")
