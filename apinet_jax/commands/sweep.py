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
import json
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from apinet_jax.comparison import as_csv, as_markdown, draw
from apinet_jax.config import check_config, flatten
from apinet_jax.errors import InputError, Interrupted, RunError
from apinet_jax.writer import read_rows, result, say, write_atomically

Metric = Literal["test", "validation"]


class Sweep(NamedTuple):
    """What a sweep file describes.

    Attributes:
        base: Configuration file that every run starts from, with an optional preset.
        settings: What all runs change in it, by dotted names.
        cells: What each cell changes further, by the cell's name.
        reference: The cell that the others are compared with.
        seeds: Seeds of every cell.
        more_seeds: Seeds of some cells beyond those.
        metric: Accuracy of the last epoch on test images, or on held-out ones (for choosing).
    """

    base: str
    settings: dict[str, Any]
    cells: dict[str, dict[str, Any]]
    reference: str
    seeds: Sequence[int] = (0, 1)
    more_seeds: dict[str, Sequence[int]] = {}  # noqa: RUF012 - never changed
    metric: Metric = "test"

    def runs(self) -> list[tuple[str, int]]:
        """All runs, seed by seed, so that an early end leaves comparable cells."""
        first = [(cell, seed) for seed in self.seeds for cell in self.cells]
        return first + [(cell, seed) for cell, seeds in self.more_seeds.items() for seed in seeds]


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
        Interrupted: After SIGTERM or Ctrl-C; the run under way has saved its state.
    """
    sweep = read_sweep(arguments.sweep, arguments.set)
    if unknown := sorted(set(arguments.only or ()) - set(sweep.cells)):
        raise InputError(
            f"There is no cell '{unknown[0]}' in {arguments.sweep}; there are: "
            f"{', '.join(sweep.cells)}."
        )
    results = arguments.results or arguments.folder
    results.mkdir(parents=True, exist_ok=True)
    done = _finished(results, sweep)
    wanted = [
        one
        for one in sweep.runs()
        if one not in done and (not arguments.only or one[0] in arguments.only)
    ]
    failed = []
    began = time.monotonic()
    for index, (cell, seed) in enumerate([] if arguments.table else wanted):
        left = (time.monotonic() - began) / index * (len(wanted) - index) if index else None
        eta = f", ETA {left / 60:.0f} min" if left else ""
        say(f"Run {index + 1} of {len(wanted)}: {cell}, seed {seed}{eta}")
        workdir = arguments.folder / _slug(cell) / f"seed{seed}"
        if reason := _train(sweep, cell, seed, workdir):
            failed.append(f"{cell}, seed {seed}: {reason} ({workdir / 'log.txt'})")
            say(f"FAILED: {failed[-1]}")
            continue
        done[cell, seed] = _score(workdir, sweep.metric)
        _keep(results, sweep, cell, seed, done[cell, seed], workdir)
        _write_table(results, sweep, done)
    _write_table(results, sweep, done)
    result([(results / "table.md").read_text().rstrip()])
    if failed:
        raise RunError(f"{len(failed)} run(s) failed:\n" + "\n".join(f"  {f}" for f in failed))


def read_sweep(path: Path | str, changes: Sequence[str] = ()) -> Sweep:
    """Reads a sweep file and checks the settings of every cell.

    Args:
        path: The file, which defines `get_sweep()`.
        changes: `FIELD=VALUE` for all runs.

    Raises:
        InputError: If the file, a field or a value is wrong.
    """
    if not Path(path).is_file():
        raise InputError(
            f"There is no sweep file '{path}'; see configs/sweeps for those there are."
        )
    try:
        sweep = runpy.run_path(str(path))["get_sweep"]()
    except KeyError as error:
        raise InputError(f"{path} defines no get_sweep(); see configs/sweeps for one.") from error
    except Exception as error:  # a sweep file is a program and may fail in any way
        raise InputError(f"{path} could not be run: {type(error).__name__}: {error}") from error
    base, _, preset = sweep.base.partition(":")
    if not Path(base).is_file():
        raise InputError(
            f"{path} starts from {base}, which is not there. Run it in the project's folder."
        )
    config = runpy.run_path(base)["get_config"](*([preset] if preset else []))
    known = flatten(config)
    given = {}
    for change in changes:
        field, equals, value = change.partition("=")
        if not equals or field not in known:
            raise InputError(f"--set {change}: there is no field '{field}' to be set.")
        given[field] = value
    sweep = sweep._replace(settings={**sweep.settings, **given})
    for cell, own in sweep.cells.items():
        changed = {k: v for k, v in {**sweep.settings, **own}.items() if k not in given}
        if wrong := [field for field in changed if field not in known]:
            raise InputError(f"Cell '{cell}' of {path} sets {wrong[0]}, which is no field.")
        trial = config.copy_and_resolve_references()
        try:
            trial.update_from_flattened_dict(changed)
            check_config(trial)
        except (InputError, TypeError, ValueError) as error:
            raise InputError(f"Cell '{cell}' of {path}: {error}") from error
    if sweep.reference not in sweep.cells:
        raise InputError(f"The reference '{sweep.reference}' of {path} is none of its cells.")
    return sweep


def _train(sweep: Sweep, cell: str, seed: int, workdir: Path) -> str | None:
    """Trains, or goes on with, one run; returns why it failed, if it did."""
    workdir.mkdir(parents=True, exist_ok=True)
    settings = {**sweep.settings, **sweep.cells[cell], "seed": seed}
    command = [
        *(sys.executable, "-m", "apinet_jax.main"),
        *(f"--config={sweep.base}", f"--workdir={workdir}"),
        *(f"--config.{field}={value}" for field, value in settings.items()),
    ]
    with open(workdir / "log.txt", "a") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        asked = []

        def stop(number: int, _frame: object) -> None:
            asked.append(number)
            process.terminate()  # it saves first

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            code = process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    if asked:
        say("The run under way has saved its state. The same command goes on.")
        raise Interrupted(asked[0])
    if code == 0:
        return None
    errors = [
        line
        for line in (workdir / "log.txt").read_text(errors="replace").splitlines()
        if line.startswith("error: ")
    ]
    return errors[-1].removeprefix("error: ") if errors else f"exit code {code}"


def _score(workdir: Path, metric: Metric) -> float:
    """Accuracy of the last epoch, in percent."""
    if metric == "test":
        report = json.loads((workdir / "results.json").read_text())
        return 100 * report["test"]["last"]["top1"]
    rows = read_rows(workdir / "metrics.jsonl")
    return 100 * [row["top1"] for row in rows if row["kind"] == "validation"][-1]


def _keep(results: Path, sweep: Sweep, cell: str, seed: int, score: float, workdir: Path) -> None:
    """Appends a finished run to what is known."""
    record = json.loads((workdir / "run.json").read_text())
    rows = [row for row in read_rows(workdir / "metrics.jsonl") if row["kind"] == "train"]
    row = {
        "cell": cell,
        "seed": seed,
        sweep.metric: round(score, 4),
        "settings": _identity(sweep, cell),
        "steps": len(rows),
        "data": record["data_fingerprint"][:16],
        "commit": record["sessions"][-1]["commit"],
    }
    path = results / "runs.jsonl"
    before = path.read_text() if path.exists() else ""
    write_atomically(path, before + json.dumps(row) + "\n")


def _finished(results: Path, sweep: Sweep) -> dict[tuple[str, int], float]:
    """Scores of the runs that are done under the settings of today."""
    done = {}
    for row in read_rows(results / "runs.jsonl"):
        known = row["cell"] in sweep.cells and sweep.metric in row
        if known and row["settings"] == _identity(sweep, row["cell"]):
            done[row["cell"], row["seed"]] = row[sweep.metric]
        else:
            say(f"Not counted: {row['cell']}, seed {row['seed']}, run under other settings.")
    return done


def _identity(sweep: Sweep, cell: str) -> dict[str, Any]:
    """What has to be equal for a finished run to count; where files lie is not part of it."""
    settings = {"base": sweep.base, **sweep.settings, **sweep.cells[cell]}
    places = ("data.dir", "data.manual_dir", "data.workers", "model.pretrained")
    kept = {field: value for field, value in settings.items() if field not in places}
    if pretrained := settings.get("model.pretrained"):
        kept["model.pretrained"] = Path(pretrained).name
    return json.loads(json.dumps(kept))


def _write_table(results: Path, sweep: Sweep, done: dict[tuple[str, int], float]) -> None:
    scores: dict[str, dict[int, float]] = {cell: {} for cell in sweep.cells}
    for (cell, seed), score in done.items():
        scores[cell][seed] = score
    what = list(sweep.cells), scores, sweep.reference
    write_atomically(results / "table.md", as_markdown(*what))
    write_atomically(results / "table.csv", as_csv(*what))
    if done:
        draw(*what, results / "plot.png")


def _slug(cell: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in cell)
