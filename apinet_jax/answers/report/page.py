"""The report of a run as one HTML page that needs no network."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from apinet_jax.answers.bank import split_pixels
from apinet_jax.answers.explanation.contrast import contrast_map, mirror_average
from apinet_jax.answers.pictures import overlay
from apinet_jax.answers.report.audit_section import audit_section
from apinet_jax.answers.report.figures import ConfusedPair
from apinet_jax.answers.report.gather import Report
from apinet_jax.answers.report.html import PICTURE_BYTES, SPLITS, Shown, Thumbnails, render
from apinet_jax.answers.report.plots import plot_coverage, plot_curves, plot_reliability
from apinet_jax.answers.trained_run import TrainedRun
from apinet_jax.data.records.walk import escaped
from apinet_jax.data.survey import readable_names
from apinet_jax.system.console import tracked

MOST_CLASSES = 1000  # of the table
PAIRS = 10
_PER_WAY = 3  # pictures of each direction of a pair
_HARDEST = 24
_BATCH = 16


class ShownPair(NamedTuple):
    """A confused pair with its pictures.

    Attributes:
        pair: The pair.
        typical: The surest correct image of either class; `None` where none is correct.
        ways: Class, class it is named as, number of mistakes, and pictures, for each direction.
    """

    pair: ConfusedPair
    typical: list[tuple[int, Shown | None]]
    ways: list[tuple[int, int, int, list[Shown]]]


def render_report(report: Report, run: TrainedRun, tables: str) -> tuple[bytes, int]:
    """Return the page, and how many pictures it has no room for; equal reports give equal bytes.

    Args:
        report: The figures.
        run: The run, for photos and maps.
        tables: Name of the folder of CSV files, which the page mentions.
    """
    names = readable_names(report.class_names)
    pictures = Thumbnails(PICTURE_BYTES)
    scaled = report.provenance.temperature != 1
    plots = {
        **plot_curves(report.curves, "held-out images"),
        "reliability": plot_reliability(report.bins[0], "Reliability without temperature"),
        "coverage": plot_coverage(report.coverage),
    }
    if scaled:
        plots["scaled"] = plot_reliability(report.bins[1], "Reliability with temperature")
    page = _Page(report, run, names, pictures)
    content = render(
        "report.html.jinja",
        title=f"{report.data['name']}: {report.method}, {report.trunk}",
        report=report,
        names=names,
        split=SPLITS[report.bank.split],
        splits=SPLITS,
        scaled=scaled,
        plots=plots,
        pairs=page.pairs(),
        has_maps=run.has_maps,
        hardest=page.hardest(),
        rows=_worst_first(report)[:MOST_CLASSES],
        audit=report.audit and audit_section(report.audit, run.dataset.splits, names, pictures),
        tables=tables,
        pictures=pictures,
    )
    return content, pictures.left_out


def _worst_first(report: Report) -> list[int]:
    """Return the classes by their F1, those without one last."""
    return sorted(
        range(len(report.classes)),
        key=lambda label: (report.classes[label].f1 is None, report.classes[label].f1 or 0),
    )


class _Page:
    """The pictures of a report, in the order in which the page shows them."""

    def __init__(
        self, report: Report, run: TrainedRun, names: tuple[str, ...], pictures: Thumbnails
    ):
        self._report, self._run, self._names, self._pictures = report, run, names, pictures

    def pairs(self) -> list[ShownPair]:
        """Return the most confused pairs, with contrast maps of their surest mistakes, if any."""
        pairs = self._report.pairs[:PAIRS]
        ways = [(pair.first_as_second, pair.second_as_first) for pair in pairs]
        rows = [row for way in ways for some in way for row in some[:_PER_WAY]]
        drawn = dict(zip(rows, self._mistakes(rows), strict=True))
        return [
            ShownPair(
                pair,
                [(label, self._typical(label)) for label in (pair.first, pair.second)],
                [
                    (label, named, len(some), [drawn[row] for row in some[:_PER_WAY]])
                    for label, named, some in (
                        (pair.first, pair.second, there),
                        (pair.second, pair.first, back),
                    )
                    if some
                ],
            )
            for pair, (there, back) in zip(pairs, ways, strict=True)
        ]

    def _mistakes(self, rows: list[int]) -> list[Shown]:
        bank, probability = self._report.bank, self._report.probability
        labels, predicted = bank.labels, probability.argmax(axis=1)

        def lines(row: int) -> tuple[str, ...]:
            both = predicted[row], labels[row]
            return tuple(f"{self._names[label]} {probability[row, label]:.2f}" for label in both)

        if not self._run.has_maps:
            return [self._photo(row, lines(row)) for row in rows]
        trunk, shown = self._run.config.model.trunk, []
        for row, pixels, contrast in zip(rows, *self._contrasts(rows), strict=True):
            shown.append(
                Shown(
                    self._pictures.add(pixels),
                    escaped(bank.source.file_names[row]),
                    lines(row),
                    self._pictures.add(overlay(pixels, contrast, trunk=trunk, signed=True)),
                )
            )
        return shown

    def _contrasts(
        self, rows: list[int]
    ) -> tuple[UInt8[np.ndarray, "M H W 3"] | list, Float[np.ndarray, "M h w"] | list]:
        """Return pixels of mistaken images, and maps of the answer against the true class."""
        run, source = self._run, self._report.bank.source
        labels, predicted = self._report.bank.labels, self._report.probability.argmax(axis=1)
        pixels, maps = [], []
        parts = [rows[first : first + _BATCH] for first in range(0, len(rows), _BATCH)]
        for part in tracked(parts, "Drawing contrast maps", len(parts)):
            pixels.append(split_pixels(run, source, np.array(part)))
            # One compiled shape for all batches.
            padded = np.pad(pixels[-1], ((0, _BATCH - len(part)), (0, 0), (0, 0), (0, 0)))
            evidence = run.map_pixels(padded)
            if run.config.eval.flip:
                evidence = mirror_average(evidence, run.map_pixels(padded[:, :, ::-1]))
            classes = predicted[part], labels[part]
            maps.append(contrast_map(evidence[: len(part)], run.kernel, *classes))
        if not parts:
            return [], []
        return np.concatenate(pixels), np.concatenate(maps)

    def _typical(self, label: int) -> Shown | None:
        """Return the image of a class that is named correctly with the highest probability."""
        bank, probability = self._report.bank, self._report.probability
        right = np.flatnonzero((probability.argmax(axis=1) == label) & (bank.labels == label))
        if not right.size:
            return None
        row = int(right[probability[right, label].argmax()])
        return self._photo(row, (f"{self._names[label]} {probability[row, label]:.2f}",))

    def hardest(self) -> list[Shown]:
        """Return the images with the greatest loss."""
        loss, probability = self._report.loss, self._report.probability
        shown = []
        for row in np.argsort(-loss, kind="stable")[:_HARDEST].tolist():
            label, named = int(self._report.bank.labels[row]), int(probability[row].argmax())
            answer = f"named {self._names[named]} {probability[row, named]:.2f}"
            truth = f"is {self._names[label]} {probability[row, label]:.2f}"
            lines = (answer, truth) if named != label else (truth,)
            shown.append(self._photo(row, (*lines, f"loss {loss[row]:.2f}")))
        return shown

    def _photo(self, row: int, lines: tuple[str, ...]) -> Shown:
        source = self._report.bank.source
        picture = source.picture(int(source.rows[row]))
        return Shown(self._pictures.add(picture), escaped(source.file_names[row]), lines)
