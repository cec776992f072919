"""Predictions for people: a table, and how many of them are right."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.cells import cell_len

from apinet_jax.answers.prediction.naming import CONFIDENCE, Naming
from apinet_jax.answers.prediction.rows import Row, header_lines, row_line
from apinet_jax.answers.prediction.taxonomy import UNKNOWN
from apinet_jax.method.statistics import wilson_interval
from apinet_jax.system.console import print_result

_LEAST = 0.005  # classes below it are shown as 0.00, and are left out


def is_shown(row: Row, show: str | None, naming: Naming) -> bool:
    """Return whether a filter keeps a row; unreadable photos always remain.

    Args:
        row: The row.
        show: `mistakes`, `unsure`, or everything.
        naming: How scores became names.
    """
    if row["error"] or show is None:
        return True
    if show == "mistakes":
        return row["correct"] is False
    sure = CONFIDENCE if naming.confidence is None else naming.confidence
    return row["classes"][0]["probability"] < sure


def provenance_lines(provenance: dict[str, Any]) -> list[str]:
    """Return where answers come from, as lines for people."""
    about = [f"apinet_jax {provenance['version']}", f"temperature {provenance['temperature']:.3g}"]
    if provenance["flip"]:
        about.append("averaged with mirror images")
    if provenance["only"] is not None:
        about.append(f"only {len(provenance['only']):,} of {provenance['classes']:,} classes")
    if (gallery := provenance["gallery"]) is not None:
        about.append(f"{len(gallery['classes']):,} classes from the gallery")
    if (unknown := provenance["unknown"]) is not None:
        about.append(
            f"unknown if {unknown['score']} is below {unknown['value']:.4g} "
            f"({100 * unknown['false_alarms']:g} % false alarms by {unknown['images']:,} held-out "
            "images)"
        )
    if provenance["confidence"] is not None:
        about.append(f"confidence {provenance['confidence']:g}")
    return [
        f"run  {provenance['checkpoint']} (step {provenance['step']}, {provenance['hash']})",
        f"     {', '.join(about)}",
        "",
    ]


def table_lines(rows: Sequence[Row]) -> list[str]:
    """Return the table of some rows."""
    labelled = any(row["true_class"] is not None for row in rows)
    rolled_up = any(row["reason"] for row in rows)
    header = ["photo", "answer", "p"]
    header += ["level"] * rolled_up + ["true class"] * labelled
    explained = rolled_up and all(row["reason"] or row["error"] for row in rows)
    table = [[*header, "why" if explained else "also"]]
    for row in rows:
        failed = row["error"] is not None
        cells = [row["photo"], *(["-", ""] if failed else [row["answer"], _digits(row)])]
        if rolled_up:
            cells.append("" if failed else row["level"])
        if labelled:
            mark = " (wrong)" if row["correct"] is False else ""
            cells.append(f"{row['true_class'] or ''}{mark}")
        also = [
            f"{best['name']} {best['probability']:.2f}"
            for best in row["classes"][1:]
            if best["probability"] >= _LEAST
        ]
        why = row["reason"] or ", ".join(also)
        table.append([*cells, f"cannot be read: {row['error']}" if failed else why])
    table = [[_printable(cell or "") for cell in cells] for cells in table]
    widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(_padded(cell, width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        for cells in table
    ]


def _digits(row: Row) -> str:
    return "-" if row["probability"] is None else f"{row['probability']:.2f}"


def _printable(text: str) -> str:
    """Return text on one line: control characters as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@dataclass
class Tally:
    """How many photos were named, and how many photos in class folders correctly.

    Attributes:
        photos: Photos.
        unreadable: Those that cannot be read.
        labelled: Readable ones whose class is known.
        right: Those of them whose best class is the true one.
        levels: For each level: answers, those whose class is known, those that cover it.
    """

    photos: int = 0
    unreadable: int = 0
    labelled: int = 0
    right: int = 0
    levels: dict[str, list[int]] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        """Count a row."""
        self.photos += 1
        if row["error"] is not None:
            self.unreadable += 1
            return
        known = row["true_class"] is not None
        self.labelled += known
        self.right += known and row["classes"][0]["name"] == row["true_class"]
        level = self.levels.setdefault(row["level"], [0, 0, 0])
        level[0] += 1
        level[1] += known
        level[2] += row["correct"] is True

    def lines(self, levels: Sequence[str]) -> list[str]:
        """Return the accuracy, also of each level if answers were rolled up.

        Args:
            levels: Names of the levels, from fine to coarse.
        """
        found = []
        if self.labelled:
            found.append(
                (
                    "accuracy",
                    f"{_share(self.right, self.labelled)}: the best class of "
                    f"{self.labelled:,} photos in class folders",
                )
            )
        if any(level in self.levels for level in (*levels[1:], UNKNOWN)):
            readable = self.photos - self.unreadable
            for level in (*levels, UNKNOWN):
                answers, known, right = self.levels.get(level, (0, 0, 0))
                accuracy = f", right {_share(right, known)}" if known and level != UNKNOWN else ""
                found.append((level, f"{answers:,} of {readable:,} photos{accuracy}"))
        width = max((cell_len(name) for name, _ in found), default=0)
        return [f"{_padded(name, width)}  {text}" for name, text in found]


def _padded(text: str, width: int) -> str:
    return text + " " * (width - cell_len(text))


def _share(successes: int, trials: int) -> str:
    low, high = wilson_interval(successes, trials)
    return f"{100 * successes / trials:.1f} % (95 % interval {100 * low:.1f} to {100 * high:.1f})"


class PrintedLines:
    """CSV or JSON Lines on standard output, printed as they are computed."""

    done: frozenset[str] = frozenset()  # by an earlier job

    def __init__(self, kind: str, provenance: dict[str, Any]):
        """Print the first lines."""
        self._kind, self._top = kind, provenance["top"]
        print_result(header_lines(kind, provenance))

    def write(self, rows: Sequence[Row]) -> None:
        """Print rows."""
        if rows:
            print_result(row_line(self._kind, row, self._top) for row in rows)

    def finish(self) -> None:
        """Do nothing: all rows are printed."""

    def __enter__(self) -> "PrintedLines":
        return self

    def __exit__(self, *_: object) -> None:
        pass


class PrintedTable:
    """A table on standard output, printed at the end, also after an interruption."""

    done: frozenset[str] = frozenset()  # by an earlier job

    def __init__(self, kind: str, provenance: dict[str, Any]):
        """Start a table without rows."""
        del kind
        self._provenance, self._rows = provenance, []

    def write(self, rows: Sequence[Row]) -> None:
        """Keep rows."""
        self._rows.extend(rows)

    def finish(self) -> None:
        """Do nothing: the table is printed on exit."""

    def __enter__(self) -> "PrintedTable":
        return self

    def __exit__(self, *_: object) -> None:
        print_result([*provenance_lines(self._provenance), *table_lines(self._rows)])
