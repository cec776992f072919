"""Comparisons over seeds: mean and spread of each cell, and its difference from a reference.

Differences are paired by seed, which takes out what a seed does to both. An interval is Student's
t at 95 %; where it holds zero, the difference is not resolved. Two seeds resolve nothing: that
their differences are nearly equal, and the interval is small, happens too often by chance. The
intervals are not widened for the number of cells: of twenty that do not differ from the reference,
one is expected to look as if it did.
"""

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

Scores = Mapping[str, Mapping[int, float]]
"""Score of each seed, for each cell; in percent."""

NOT_RUN, NOT_RESOLVED = "not run", "not resolved"
LEAST_PAIRS = 3  # for a verdict


class Difference(NamedTuple):
    """How a cell differs from the reference, over the seeds that both have.

    Attributes:
        mean: Mean of the paired differences, in points.
        low: Lower end of the 95 % interval; minus infinity for a single pair.
        high: Upper end.
        pairs: Seeds that both have.
    """

    mean: float
    low: float
    high: float
    pairs: int

    @property
    def verdict(self) -> str:
        """`better`, `worse` or `not resolved`."""
        if self.pairs < LEAST_PAIRS or self.low <= 0 <= self.high:
            return NOT_RESOLVED
        return "better" if self.low > 0 else "worse"


def paired_difference(
    scores: Mapping[int, float], reference: Mapping[int, float]
) -> Difference | None:
    """Compares two cells seed by seed.

    Args:
        scores: Score of each seed.
        reference: The same of what it is compared with.

    Returns:
        The difference, or `None` where they have no seed in common.
    """
    seeds = sorted(set(scores) & set(reference))
    if not seeds:
        return None
    differences = [scores[seed] - reference[seed] for seed in seeds]
    mean, half = statistics.mean(differences), math.inf
    if len(seeds) > 1:
        from scipy.stats import t  # half a second to import

        quantile = float(t.ppf(0.975, len(seeds) - 1))
        half = quantile * statistics.stdev(differences) / math.sqrt(len(seeds))
    return Difference(mean, mean - half, mean + half, len(seeds))


def mean_and_sd(scores: Mapping[int, float]) -> str:
    """The mean and, from two seeds on, the standard deviation, as text.

    >>> mean_and_sd({0: 70.0, 1: 72.0})
    '71.00 ± 1.41'
    """
    if not scores:
        return NOT_RUN
    values = list(scores.values())
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def _rows(cells: Sequence[str], scores: Scores, reference: str) -> list[tuple[str, ...]]:
    rows = [("cell", "top-1, mean ± sd", "n", "difference", "95 % interval", "verdict")]
    for cell in cells:
        own = scores.get(cell, {})
        difference = paired_difference(own, scores.get(reference, {}))
        text: tuple[str, str, str] = ("", "", "no reference" if own else NOT_RUN)
        if cell == reference:
            text = ("", "", "reference")
        elif difference is not None:
            interval = "one pair"
            if difference.pairs > 1:
                interval = f"{difference.low:+.2f} to {difference.high:+.2f}"
            text = (f"{difference.mean:+.2f}", interval, difference.verdict)
        rows.append((cell, mean_and_sd(own), str(len(own)), *text))
    return rows


def as_markdown(cells: Sequence[str], scores: Scores, reference: str) -> str:
    """The table of a sweep as Markdown.

    Args:
        cells: Names of all cells, run or not, in order.
        scores: What was measured.
        reference: The cell that the others are compared with.
    """
    head, *rows = (" | ".join(row) for row in _rows(cells, scores, reference))
    rule = " | ".join(["---"] * 6)
    return "\n".join(f"| {line} |" for line in (head, rule, *rows)) + "\n"


def as_csv(cells: Sequence[str], scores: Scores, reference: str) -> str:
    """The same table as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(_rows(cells, scores, reference))
    return text.getvalue()


def draw(cells: Sequence[str], scores: Scores, reference: str, path: Path) -> None:
    """Draws every seed as a dot and every mean as a bar, the best on top.

    Args:
        cells: Names of all cells; those without a score are left out.
        scores: What was measured.
        reference: The cell whose mean is drawn as a line through all.
        path: The PNG.
    """
    from matplotlib.figure import Figure

    shown = [cell for cell in cells if scores.get(cell)]
    mean = {cell: statistics.mean(scores[cell].values()) for cell in shown}
    shown.sort(key=mean.get)
    figure = Figure(figsize=(7.5, 0.9 + 0.3 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for height, cell in enumerate(shown):
        colour = "tab:orange" if cell == reference else "tab:blue"
        values = list(scores[cell].values())
        axes.plot(values, [height] * len(values), "o", color=colour, alpha=0.55, markersize=5)
        axes.plot(mean[cell], height, "|", color=colour, markersize=16, markeredgewidth=2.5)
    if reference in mean:
        axes.axvline(mean[reference], color="tab:orange", linewidth=1, alpha=0.6)
    axes.set_yticks(range(len(shown)), shown)
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.set_xlabel("top-1, %  (dots: seeds, bars: means)")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
