"""What a glance at a data set should tell: its sizes, its duplicates, a picture of each class."""

import hashlib
import os
import re
from collections import defaultdict
from functools import partial
from itertools import chain
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from jaxtyping import Int
from PIL import Image, ImageDraw, ImageFont, ImageOps

from apinet_jax.data.decoding import stored_size
from apinet_jax.data.source import Dataset, Source
from apinet_jax.system.console import tracked
from apinet_jax.system.errors import explain_failed_writes

_MOST_CLASSES = 64
_MOST_COLUMNS = 8
# Of the sheet, in pixels.
_TILE, _GAP, _MARGIN = 176, 16, 32
_LINE, _CAPTION_LINES, _TITLE = 17, 2, 52
_INK, _PAPER = (34, 34, 34), (255, 255, 255)


class Survey(NamedTuple):
    """What is in the files of a data set.

    Attributes:
        sizes: Width and height of every picture, or of the window of it that is looked at.
        duplicates: For each file that lies in several splits byte by byte: `SPLIT: FILE` of all
            its copies.
    """

    sizes: Int[np.ndarray, "N 2"]
    duplicates: tuple[tuple[str, ...], ...]


def survey(dataset: Dataset) -> Survey:
    """Reads every file once, without decoding it."""
    splits = dataset.splits
    copies = defaultdict(list)
    sizes = []
    total = sum(map(len, splits.values()))
    with ThreadPool(os.cpu_count()) as pool:
        looks = chain.from_iterable(
            pool.imap(partial(_look, source), range(len(source)), 32) for source in splits.values()
        )
        names = (f"{name}: {file}" for name, source in splits.items() for file in source.file_names)
        for name, (digest, size) in zip(
            names, tracked(looks, "Looking at the files", total), strict=True
        ):
            copies[digest].append(name)
            sizes.append(size)
    duplicates = tuple(
        tuple(names)
        for names in copies.values()
        if len({name.partition(":")[0] for name in names}) > 1
    )
    return Survey(np.array(sizes), duplicates)


def _look(source: Source, index: int) -> tuple[str, tuple[int, int]]:
    data = source.read(index)
    if source.windows is None:
        size = stored_size(data)
    else:
        size = tuple(source.windows[source.rows[index], 2:].tolist())
    return hashlib.sha256(data).hexdigest(), size


def write_contact_sheet(dataset: Dataset, path: Path, title: str) -> None:
    """Draws the first training picture of each class, with the name of the class below it.

    Of many classes some are drawn, evenly spaced over all.

    Args:
        dataset: The data set.
        path: The PNG file to write.
        title: What stands above the pictures.

    Raises:
        RunError: If the disk does not take it.
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
    draw.text((_MARGIN, _MARGIN), f"{title}: {of_all}", _INK, _font(24))
    font = _font(13)
    for place, label in enumerate(tracked(shown.tolist(), "Drawing the contact sheet", count)):
        x = _MARGIN + place % columns * cell[0]
        y = _MARGIN + _TITLE + place // columns * cell[1]
        source = dataset.train
        row = int(source.rows[np.flatnonzero(source.labels == label)[0]])
        sheet.paste(ImageOps.fit(source.picture(row), (_TILE, _TILE)), (x, y))
        caption = _wrapped(_readable(dataset.class_names[label]), font)
        for line, text in enumerate(caption):
            draw.text((x, y + _TILE + 4 + line * _LINE), text, _INK, font)
    part = path.with_name(f"{path.name}.part")
    with explain_failed_writes(path):
        sheet.save(part, "PNG")
        part.replace(path)


def _font(size: int) -> ImageFont.FreeTypeFont:
    # Matplotlib's own: Pillow brings one that knows the letters of few languages.
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)


def _readable(name: str) -> str:
    """Returns a class name for people: of CUB without its number, words apart."""
    return re.sub(r"^\d+\.", "", name).replace("_", " ")


def _wrapped(text: str, font: ImageFont.FreeTypeFont) -> list[str]:
    """Breaks a caption into lines as wide as a picture; what is too much becomes an ellipsis."""
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
