"""The picture of a comparison: both photos, the channels of each gate, and the evidence."""

import io
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from apinet_jax.answers.pairs.compare import Comparison, shown
from apinet_jax.answers.pairs.maps import CHANNELS, Evidence, PairMaps
from apinet_jax.answers.pictures import overlay
from apinet_jax.data.records.walk import escaped
from apinet_jax.system.fonts import printable, use_printable

FORMATS = ("png", "jpg", "jpeg", "pdf", "svg")
_INK, _GREY = "#1a1a1a", "#666666"
# Inches.
_WIDTH, _MARGIN, _GAP, _BETWEEN = 11.0, 0.25, 0.07, 0.35
_HEADER, _TITLE, _CAPTION, _ROW_NAME, _FOOTER = 0.85, 0.25, 0.72, 0.55, 0.5
_LETTER = 0.068  # width of most letters of 7.5 points


class Side(NamedTuple):
    """One run's answer about a pair.

    Attributes:
        answer: The comparison.
        maps: What it is shown with.
    """

    answer: Comparison
    maps: PairMaps


class _Column(NamedTuple):
    """A map of evidence for each photo, with what is written above and below."""

    title: str
    evidence: tuple[Evidence, Evidence]
    limits: tuple[float, float]
    class_names: tuple[str, str]
    trunk: str


def draw_comparison(
    run: Side, names: Sequence[str], baseline: Side | None = None, kind: str = "png"
) -> bytes:
    """Draw a comparison as a file.

    Args:
        run: The run that compares.
        names: What the two photos are called.
        baseline: Another run to show next to it.
        kind: One of `FORMATS`.
    """
    from matplotlib.figure import Figure  # no pyplot: no window, no global state

    columns = _columns(run)
    if baseline is not None:
        columns += _columns(baseline, "baseline")
    half = (_WIDTH - 2 * _MARGIN - _BETWEEN) / 2
    tile = (half - len(columns) * _GAP) / (1 + len(columns))
    top = _HEADER + 2 * _TITLE
    gates_top = top + tile + _CAPTION
    small = (half - _ROW_NAME - (CHANNELS - 1) * _GAP) / CHANNELS
    gates_height = 2 * _TITLE + 0.1 + 2 * small + _GAP if run.maps.gates else 0.0
    height = gates_top + gates_height + _FOOTER
    page = _Page(Figure(figsize=(_WIDTH, height), dpi=150, facecolor="white"))
    _draw_header(page, run.answer, baseline and baseline.answer)
    for side in (0, 1):
        left = _MARGIN + side * (half + _BETWEEN)
        page.text(left, _HEADER, f"Photo {side + 1}", weight="bold")
        page.text(
            left + 0.6,
            _HEADER + 0.02,
            _end(escaped(names[side]), half - 0.6),
            color=_GREY,
            fontsize=7.5,
        )
        page.image(left, top, tile, run.maps.pixels[side])
        caption = (run.answer.class_1, run.answer.class_2)[side]
        _draw_titles(
            page, "without a gate" if run.maps.gates else "photo", caption, left, top, tile
        )
        for place, column in enumerate(columns, 1):
            _draw_evidence(page, column, run.maps, side, left + place * (tile + _GAP), top, tile)
        if run.maps.gates:
            _draw_gate(page, run.maps, side, left, gates_top, small)
    page.text(_MARGIN, gates_top + gates_height + 0.14, _footer(run), color=_GREY, fontsize=7.5)
    return page.file(kind)


def _columns(side: Side, name: str = "") -> list[_Column]:
    """Return the maps of evidence of a run; all of one photo have one scale."""
    evidence = side.maps.evidence
    titles = ("own gate", "partner's gate") if side.maps.gates else (name or "evidence",)
    limits = tuple(max(float(np.abs(one.cells).max()) for one in photo) for photo in evidence)
    class_names = (side.answer.class_1[0], side.answer.class_2[0])
    return [
        _Column(
            title if title == name else f"{name} {title}".strip(),
            kind,
            limits,
            class_names,
            side.maps.trunk,
        )
        for title, kind in zip(titles, zip(*evidence, strict=True), strict=True)
    ]


def _draw_header(page: "_Page", answer: Comparison, baseline: Comparison | None) -> None:
    """Draw the probability in large type, and what it assumes below."""
    page.text(_MARGIN, 0.2, f"Same class: {_number(answer)}", fontsize=16, weight="bold")
    if baseline is not None:
        page.text(
            _WIDTH - _MARGIN, 0.25, f"baseline: {_number(baseline)}", fontsize=12, ha="right",
            color=_GREY,
        )  # fmt: skip
    if answer.same is None:
        line = answer.calibration
    else:
        line = (
            f"assumes that {100 * answer.prior:g} % of pairs are of the same class; calibration: "
            f"{answer.calibration}"
        )
    page.text(_MARGIN, 0.5, line, color=_GREY, fontsize=8)


def _number(answer: Comparison) -> str:
    if answer.same is None:
        return f"not calibrated, score {answer.score:.2f}"
    return shown(answer.same)


def _draw_evidence(
    page: "_Page", column: _Column, maps: PairMaps, side: int, x: float, y: float, tile: float
) -> None:
    evidence, limit = column.evidence[side], column.limits[side]
    page.image(
        x,
        y,
        tile,
        overlay(maps.pixels[side], evidence.cells, limit, signed=True, trunk=column.trunk),
    )
    caption = (column.class_names[side], evidence.probability)
    _draw_titles(page, column.title, caption, x, y, tile)


def _draw_titles(
    page: "_Page", title: str, caption: tuple[str, float], x: float, y: float, tile: float
) -> None:
    """Write a title above a picture, and a class with its probability below."""
    page.text(x, y - 0.05, title, va="bottom", fontsize=8)
    page.text(x, y + tile + 0.05, shown(caption[1]), fontsize=8.5, weight="bold")
    name, _ = printable(caption[0])
    name = "\n".join(textwrap.wrap(name, int(tile / _LETTER), max_lines=2, placeholder=" …"))
    page.text(x, y + tile + 0.2, name, fontsize=7.5, linespacing=1.15)


def _draw_gate(
    page: "_Page", maps: PairMaps, side: int, left: float, top: float, small: float
) -> None:
    """Draw the most active channels of one gate over both photos; each channel has one scale."""
    gate = maps.gates[side]
    page.text(
        left + _ROW_NAME, top + 0.02, f"Gate of photo {side + 1}: its most active channels",
        weight="bold",
    )  # fmt: skip
    first = top + 2 * _TITLE + 0.1
    for row in (0, 1):
        y = first + row * (small + _GAP)
        page.text(left, y + small / 2, f"photo {row + 1}", va="center", fontsize=8)
    for place, (channel, value) in enumerate(zip(gate.channels, gate.gates, strict=True)):
        x = left + _ROW_NAME + place * (small + _GAP)
        title = f"channel {channel}\ngate {value:.2f}"
        page.text(x, first - 0.05, title, va="bottom", fontsize=7.5, linespacing=1.25)
        limit = float(np.abs(gate.maps[:, place]).max())
        for row in (0, 1):
            drawn = overlay(maps.pixels[row], gate.maps[row, place], limit, trunk=maps.trunk)
            page.image(x, first + row * (small + _GAP), small, drawn)


def _footer(run: Side) -> str:
    text = (
        "Evidence for the class named below each map: red speaks for it, blue against it, on one "
        "scale for each photo and run."
    )
    if run.maps.gates:
        text += (
            "\nGates: the channels to which a gate adds most (feature times gate); each channel on "
            "one scale for both photos."
        )
    return text


def _end(text: str, inches: float) -> str:
    """Shorten a file name to a width: its end says more than its beginning."""
    most = int(inches / _LETTER)
    return text if len(text) <= most else f"…{text[1 - most :]}"


class _Page:
    """A figure on which things are placed in inches from its upper left corner."""

    def __init__(self, figure: Any):
        self._figure = figure
        self._width, self._height = figure.get_size_inches()

    def text(self, x: float, y: float, text: str, **style: Any) -> None:
        style = {"ha": "left", "va": "top", "color": _INK, "fontsize": 9, **style}
        style["parse_math"] = False  # names with two dollar signs are not formulas
        self._figure.text(x / self._width, 1 - y / self._height, text, **style)

    def image(self, x: float, y: float, size: float, pixels: UInt8[np.ndarray, "H W 3"]) -> None:
        place = (x / self._width, 1 - (y + size) / self._height)
        axes = self._figure.add_axes((*place, size / self._width, size / self._height))
        axes.imshow(pixels, interpolation="bicubic")
        axes.set_axis_off()

    def file(self, kind: str) -> bytes:
        use_printable(self._figure)
        content = io.BytesIO()
        self._figure.savefig(content, format=kind)
        return content.getvalue()
