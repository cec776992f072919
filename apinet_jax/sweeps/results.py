"""Results of a sweep: one line of `runs.jsonl` per run, and the table made from them."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from apinet_jax.config import FREE_FIELDS, LATER_FIELDS, default_config, flatten
from apinet_jax.sweeps.comparison import as_csv, as_markdown, compare, draw
from apinet_jax.sweeps.spec import Metric, Sweep
from apinet_jax.system.console import say
from apinet_jax.system.errors import InputError, RunError, explain_failed_writes
from apinet_jax.system.paths import write_atomically
from apinet_jax.workdir.metrics_log import read_rows

Runs = dict[tuple[str, int], dict[str, Any]]
"""A row of `runs.jsonl` for each cell and seed whose run finished."""

RUNS, TABLE = "runs.jsonl", "table.md"
METRICS: dict[Metric, str] = {"test": "test top-1", "validation": "held-out top-1"}
_ROW = {"cell": str, "seed": int, "settings": dict, "data": str}
# Entry of a row, its name in messages, and the fields by which cells may differ in it.
_ALIKE = (
    ("data", "images", ("data.name", "data.dir", "data.crop_to_box")),
    ("weights", "pretrained weights", ("model.trunk", "model.pretrained")),
    ("dtype", "compute type", ("model.dtype",)),
)


def finished_row(
    sweep: Sweep, cell: str, seed: int, workdir: Path, diverged: str | None = None
) -> dict[str, Any]:
    """Return the row of a finished run.

    Args:
        sweep: The sweep.
        cell: The cell.
        seed: The seed.
        workdir: Folder of the run.
        diverged: The message of a run that diverged.

    Raises:
        RunError: If the run has no value of the sweep's metric.
    """
    record = json.loads((workdir / "run.json").read_text())
    rows = read_rows(workdir / "metrics.jsonl")
    score = None if diverged else round(_score(workdir, rows, sweep.metric), 4)
    default = flatten(default_config())
    config = {
        name: value
        for name, value in record["config"].items()
        if name not in (*FREE_FIELDS, "seed")
        and not (name in LATER_FIELDS and value == default[name])
    }
    return {
        "cell": cell,
        "seed": seed,
        sweep.metric: score,
        **({"diverged": diverged} if diverged else {}),
        "settings": sweep.identity(cell),
        "steps": sum(row["kind"] == "train" for row in rows),
        "data": record["data_fingerprint"][:16],
        "weights": record["pretrained"] and record["pretrained"]["sha256"][:16],
        "dtype": config["model.dtype"],
        "config": hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16],
        "device": record["sessions"][-1]["device"],
        "commit": record["sessions"][-1]["commit"],
    }


def _score(workdir: Path, rows: list[dict[str, Any]], metric: Metric) -> float:
    """Accuracy after the last epoch, in percent."""
    if metric == "test":
        report = json.loads((workdir / "results.json").read_text())
        if "test" not in report:
            raise RunError("the data have no test images")
        return 100 * report["test"]["last"]["top1"]
    validation = [row["top1"] for row in rows if row["kind"] == "validation"]
    if not validation:
        raise RunError("no images are held out: set data.val_fraction")
    return 100 * validation[-1]


def append_run(results: Path, row: dict[str, Any]) -> None:
    """Append the row of a run to `runs.jsonl` in a folder."""
    path = results / RUNS
    before = path.read_text() if path.exists() else ""
    if before and not before.endswith("\n"):
        before += "\n"
    write_atomically(path, before + json.dumps(row) + "\n")


def read_runs(results: Path, sweep: Sweep) -> Runs:
    """Return the finished runs whose settings are the sweep's present ones.

    Args:
        results: Folder of `runs.jsonl`.
        sweep: The sweep.

    Raises:
        InputError: If a line of the file is damaged, or two runs cannot be compared.
    """
    path, runs = results / RUNS, {}
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else [], start=1):
        try:
            row = json.loads(line)
            score = row.get(sweep.metric)
            complete = all(isinstance(row[name], kind) for name, kind in _ROW.items())
            if not complete or not ("diverged" in row or _is_percent(score) or score is None):
                raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path}, line {number} is not a run. Restore the file, or remove the line to "
                "repeat that run."
            ) from error
        if why := _not_counted(row, sweep):
            say(f"Not counted: {row['cell']}, seed {row['seed']}, {why}.")
        else:
            runs[row["cell"], row["seed"]] = row
    check_alike(runs, sweep, results)
    return runs


def _is_percent(score: Any) -> bool:
    return isinstance(score, int | float) and 0 <= score <= 100


def _not_counted(row: dict[str, Any], sweep: Sweep) -> str | None:
    """Why a row does not belong to the sweep; `None` if it does."""
    if row["cell"] not in sweep.cells:
        return "as that cell no longer exists"
    if sweep.metric not in row:
        return f"which has no {METRICS[sweep.metric]}"
    # JSON has no tuples, and does not distinguish 1 from 1.0.
    if row["settings"] != json.loads(json.dumps(sweep.identity(row["cell"]))):
        return "run under other settings"
    return None


def check_alike(runs: Runs, sweep: Sweep, results: Path) -> None:
    """Refuse to compare runs that differ in more than the settings of their cells.

    Args:
        runs: The runs.
        sweep: The sweep.
        results: Folder of `runs.jsonl`, for the message.

    Raises:
        InputError: If two runs have different images, pretrained weights or compute types that no
            cell sets, or if the program chose different settings for two seeds.
    """
    for name, what, fields in _ALIKE:
        groups: dict[Any, dict[Any, tuple[str, int]]] = {}
        for (cell, seed), row in runs.items():
            own = json.dumps([sweep.cells[cell].get(field) for field in fields])
            groups.setdefault(own, {}).setdefault(row.get(name), (cell, seed))
        for found in groups.values():
            _refuse_differences(found, what, results)
    for cell in sweep.cells:
        found = {}
        for (own, seed), row in runs.items():
            if own == cell:
                found.setdefault(row.get("config"), (cell, seed))
        _refuse_differences(found, "settings, including those that the program chose,", results)


def _refuse_differences(found: dict[Any, tuple[str, int]], what: str, results: Path) -> None:
    if len(found) > 1:
        (cell, seed), (other, other_seed), *_ = found.values()
        raise InputError(
            f"The {what} of '{cell}', seed {seed} in {results / RUNS} are not those of '{other}', "
            f"seed {other_seed}, so the two cannot be compared. Give each its own --folder, or "
            "remove the line of one to repeat that run."
        )


def write_table(results: Path, sweep: Sweep, runs: Runs) -> None:
    """Write the table, as Markdown and CSV, and the plot.

    Args:
        results: The folder.
        sweep: The sweep.
        runs: Its runs.

    Raises:
        RunError: If writing fails.
    """
    scores: dict[str, dict[int, float]] = {cell: {} for cell in sweep.cells}
    for (cell, seed), row in runs.items():
        scores[cell][seed] = math.nan if "diverged" in row else row[sweep.metric]
    lines, metric = compare(list(sweep.cells), scores, sweep.reference), METRICS[sweep.metric]
    write_atomically(results / TABLE, as_markdown(lines, metric))
    write_atomically(results / "table.csv", as_csv(lines))
    if any(line.scores for line in lines):
        with explain_failed_writes(results / "plot.png"):
            draw(lines, metric, results / "plot.png")
