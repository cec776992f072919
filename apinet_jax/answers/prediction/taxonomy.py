"""A taxonomy of the classes, and the finest level at which an answer is sure enough.

`taxonomy.csv` has one row a class and columns from fine to coarse; its first line names the levels:

    species,genus,family
    Laysan Albatross,Phoebastria,Diomedeidae

The answer is the best group of the finest level whose summed probability reaches a threshold, as in
the roll-up of SpeciesNet (github.com/google/cameratrapai).
"""

import csv
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from apinet_jax.answers.class_names import nearest_hint, normal
from apinet_jax.data.records.walk import quoted
from apinet_jax.system.console import say
from apinet_jax.system.errors import InputError
from apinet_jax.system.paths import AnyPath

UNKNOWN = "unknown"


class Level(NamedTuple):
    """One column of a taxonomy.

    Attributes:
        name: Its header, as `genus`.
        groups: Names of its groups.
        group_of: Group of each class; -1 for a class that has none at this level.
    """

    name: str
    groups: tuple[str, ...]
    group_of: Int[np.ndarray, " C"]


class RolledUp(NamedTuple):
    """An answer at the finest level that is sure enough.

    Attributes:
        name: A class, a group, or `unknown`.
        level: The level's name, or `unknown`.
        probability: Of that answer; of the coarsest level's best group where it is unknown.
        labels: The classes that it covers; none where it is unknown.
        reason: The probabilities of the levels up to the one that answers.
    """

    name: str
    level: str
    probability: float
    labels: tuple[int, ...]
    reason: str


def only_classes(class_names: Sequence[str]) -> tuple[Level, ...]:
    """Return the taxonomy without groups: the classes themselves."""
    return (Level("class", tuple(class_names), np.arange(len(class_names))),)


def read_taxonomy(
    path: AnyPath, class_names: Sequence[str], added: Sequence[str] = ()
) -> tuple[Level, ...]:
    """Return the levels of a taxonomy, from the classes to the coarsest.

    Rows of classes that the run does not have are printed and not used. An empty cell means that
    the class has no group at that level.

    Args:
        path: The file.
        class_names: The classes of the run.
        added: The classes of its gallery, after them; without a row they have no groups.

    Raises:
        InputError: If the file cannot be read, misses a class, or has a class twice.
    """
    header, *rows = _read_rows(path)
    row_of: dict[str, list[str]] = {}
    for number, row in rows:
        name = normal(row[0])
        if name in row_of:
            raise InputError(f"{path}, line {number}: {row[0]!r} has two rows. Remove one.")
        row_of[name] = row
    every = (*class_names, *added)
    known = {normal(name) for name in every}
    unused = [row[0] for name, row in row_of.items() if name not in known]
    if missing := [name for name in class_names if normal(name) not in row_of]:
        hints = "".join(nearest_hint(name, unused) for name in missing[:3])
        raise InputError(
            f"{path} has no row for {len(missing):,} of the run's {len(class_names):,} classes: "
            f"{quoted(missing)}.{hints} Add a row for each: "
            f"{','.join(header[1])}."
        )
    if unused:
        say(f"{path} has rows for classes that the run does not have: {quoted(unused)}.")
    no_groups = [""] * len(header[1])
    columns = zip(*(row_of.get(normal(name), no_groups) for name in every), strict=True)
    next(columns)
    levels = [_level(name, cells) for name, cells in zip(header[1][1:], columns, strict=True)]
    return (only_classes(every)[0]._replace(name=header[1][0]), *levels)


def _level(name: str, cells: Sequence[str]) -> Level:
    groups = tuple(sorted({cell for cell in cells if cell}))
    number = {group: index for index, group in enumerate(groups)} | {"": -1}
    return Level(name, groups, np.array([number[cell] for cell in cells]))


def _read_rows(path: AnyPath) -> list[tuple[int, list[str]]]:
    """Return line number and cells of each row, all as many as the first."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(
            f"The taxonomy {path} cannot be read: {error.strerror or error}."
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"The taxonomy {path} is not UTF-8. Save it as CSV in UTF-8.") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: {error}.") from error
    # The name of a class is a folder's name, and is kept as it is.
    rows = [(number, [row[0], *map(str.strip, row[1:])]) for number, row in rows if any(row)]
    if not rows or len(rows[0][1]) < 2:
        raise InputError(
            f"{path} has no levels above the classes. Its first line names them from fine to "
            "coarse, as in species,genus,family."
        )
    header = rows[0][1]
    if len(set(header)) < len(header) or "" in header:
        raise InputError(f"{path}, line 1: the names of the levels must differ: {header}.")
    for number, row in rows:
        if len(row) != len(header):
            raise InputError(
                f"{path}, line {number}: {len(row)} cells, and the first line has {len(header)}."
            )
    return rows


def roll_up(
    probability: Float[np.ndarray, " C"], levels: Sequence[Level], confidence: float
) -> RolledUp:
    """Return the best group of the finest level where its summed probability is high enough.

    Args:
        probability: Of each class.
        levels: The taxonomy.
        confidence: The least probability of an answer.
    """
    reasons = []
    for level in levels:
        inside = level.group_of >= 0
        sums = np.bincount(level.group_of[inside], probability[inside], len(level.groups))
        best = int(sums.argmax()) if len(sums) else None
        reached = 0.0 if best is None else float(sums[best])
        name = "none" if best is None else level.groups[best]
        if reached >= confidence:
            reasons.append(f"{level.name} reaches {reached:.2f}")
            labels = tuple(np.flatnonzero(level.group_of == best).tolist())
            return RolledUp(name, level.name, reached, labels, ", ".join(reasons))
        reasons.append(f"{level.name} only {reached:.2f} ({name})")
    return RolledUp(UNKNOWN, UNKNOWN, reached, (), ", ".join(reasons))
