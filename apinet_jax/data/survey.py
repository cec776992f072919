"""An overview of a data set: sizes, duplicates, and a contact sheet with a picture per class."""

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from itertools import chain
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from PIL import Image, ImageDraw, ImageFont, ImageOps

from apinet_jax.data.decoding import stored_size
from apinet_jax.data.source import Dataset, Source
from apinet_jax.system.console import tracked
from apinet_jax.system.errors import explain_failed_writes
from apinet_jax.system.fonts import printable

_MOST_CLASSES = 64
_MOST_COLUMNS = 8
# Of the sheet, in pixels.
_TILE, _GAP, _MARGIN = 176, 16, 32
_LINE, _CAPTION_LINES, _TITLE = 17, 2, 52
_INK, _PAPER = (34, 34, 34), (255, 255, 255)


class Survey(NamedTuple):
    """Figures that need the files of a data set.

    Attributes:
        sizes: Width and height of every picture, or of its window.
        split_copies: For each file that is in several splits byte by byte: `SPLIT: FILE` of all
            its copies.
        class_copies: The same for each file that is in several classes.
    """

    sizes: Int[np.ndarray, "N 2"]
    split_copies: tuple[tuple[str, ...], ...]
    class_copies: tuple[tuple[str, ...], ...]


class _Copy(NamedTuple):
    split: str
    label: int
    file_name: str


def survey(dataset: Dataset) -> Survey:
    """Read every file once, without decoding it."""
    files = [
        _Copy(split, label, file_name)
        for split, source in dataset.splits.items()
        for label, file_name in zip(source.labels.tolist(), source.file_names, strict=True)
    ]
    copies = defaultdict(list)
    sizes = []
    with ThreadPool(os.cpu_count()) as pool:
        read = chain.from_iterable(
            pool.imap(partial(_digest_and_size, source), range(len(source)), 32)
            for source in dataset.splits.values()
        )
        reading = tracked(read, "Reading the files", len(files))
        for file, (digest, size) in zip(files, reading, strict=True):
            copies[digest].append(file)
            sizes.append(size)

    def several(field: str) -> tuple[tuple[str, ...], ...]:
        return tuple(
            tuple(f"{file.split}: {file.file_name}" for file in same)
            for same in copies.values()
            if len({getattr(file, field) for file in same}) > 1
        )

    return Survey(np.array(sizes), several("split"), several("label"))


def _digest_and_size(source: Source, index: int) -> tuple[bytes, tuple[int, int]]:
    data = source.read(index)
    window = source.window(int(source.rows[index]))
    size = stored_size(data) if window is None else window[2:]
    return hashlib.sha256(data).digest(), size


def write_contact_sheet(dataset: Dataset, path: Path, title: str) -> None:
    """Draw the first training picture of each class with the class name below it.

    Of many classes a part is drawn, evenly spaced.

    Args:
        dataset: The data set.
        path: The PNG file to write.
        title: Heading of the sheet.

    Raises:
        RunError: The file cannot be written.
    """
    classes = len(dataset.class_names)
    count = min(classes, _MOST_CLASSES)
    shown = np.linspace(0, classes - 1, count).round().astype(int)
    columns = min(_MOST_COLUMNS, max(3, int(np.ceil(np.sqrt(count)))))
    rows = -(-count // columns)
    cell = (_TILE + _GAP, _TILE + _CAPTION_LINES * _LINE + _GAP)
    sheet = Image.new(
        "RGB",
        (2 * _MARGIN + columns * cell[0] - _GAP, 2 * _MARGIN + _TITLE + rows * cell[1] - _GAP),
        _PAPER,
    )
    draw = ImageDraw.Draw(sheet)
    of_all = f"{count} classes" if count == classes else f"{count} of {classes} classes"
    heading, font = printable(f"{title}: {of_all}", 24)
    draw.text((_MARGIN, _MARGIN), heading, _INK, font)
    for place, label in enumerate(tracked(shown.tolist(), "Drawing the contact sheet", count)):
        x = _MARGIN + place % columns * cell[0]
        y = _MARGIN + _TITLE + place // columns * cell[1]
        source = dataset.train
        row = int(source.rows[np.flatnonzero(source.labels == label)[0]])
        sheet.paste(ImageOps.fit(source.picture(row), (_TILE, _TILE)), (x, y))
        caption, font = printable(_readable(dataset.class_names[label]), 13)
        for line, text in enumerate(_wrapped(caption, font)):
            draw.text((x, y + _TILE + 4 + line * _LINE), text, _INK, font)
    part = path.with_name(f"{path.name}.part")
    with explain_failed_writes(path):
        try:
            sheet.save(part, "PNG")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def _readable(name: str) -> str:
    """Return a class name without CUB's number and with spaces for underscores."""
    return re.sub(r"^\d+\.", "", name).replace("_", " ")


def readable_names(class_names: Sequence[str]) -> tuple[str, ...]:
    """Return names for people, as below the pictures of a sheet; exact ones if two would agree."""
    readable = tuple(_readable(name) or name for name in class_names)
    return readable if len(set(readable)) == len(readable) else tuple(class_names)


def _wrapped(text: str, font: ImageFont.FreeTypeFont) -> list[str]:
    """Break a caption into lines as wide as a picture; an ellipsis replaces the rest."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > _TILE:
            lines.append(word)
        else:
            lines[-1] = longer
    if len(lines) > _CAPTION_LINES:
        lines[_CAPTION_LINES - 1 :] = [" ".join(lines[_CAPTION_LINES - 1 :])]
    return [_shortened(line, font) for line in lines]


def _shortened(line: str, font: ImageFont.FreeTypeFont) -> str:
    if font.getlength(line) <= _TILE:
        return line
    while line and font.getlength(f"{line}…") > _TILE:
        line = line[:-1]
    return f"{line.rstrip()}…"
