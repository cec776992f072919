"""Comparisons over seeds: mean and spread of each cell, and its difference from a reference.

Differences are paired by seed, which removes what a seed does to both. The interval is Student's t
at 95 %; a difference whose interval contains zero is not resolved. A verdict takes three pairs: two
do not show whether differences are normally distributed, as the interval assumes.
"""

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from apinet_jax.system.fonts import use_printable

Scores = Mapping[str, Mapping[int, float]]
"""Score of each seed, for each cell; in percent, and NaN for a run that diverged."""

NOT_RUN, NOT_RESOLVED, DIVERGED = "not run", "not resolved", "diverged"
NO_REFERENCE, REFERENCE_DIVERGED = "no reference", "reference diverged"
LEAST_PAIRS = 3  # for a verdict
_COLUMNS = (
    *("cell", "mean", "sd", "n", "diverged"),
    *("pairs", "difference", "low", "high", "verdict"),
)
_NOTE = """
`n` is the number of seeds of a cell. Differences are means over the `pairs` of seeds that a cell
shares with the reference, which may be fewer. Intervals show the noise between seeds, not what
other images would give. They are not widened for the number of cells: of twenty cells that do not
differ from the reference, one is expected to look as if it did. A verdict takes three pairs.
"""
_DIVERGED_NOTE = """
A run of the reference diverged, so there are no verdicts: the remaining seeds are the lucky ones.
"""


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


class Line(NamedTuple):
    """One cell of a comparison.

    Attributes:
        cell: Its name.
        scores: Score of each seed whose run finished.
        diverged: Number of runs that diverged.
        difference: From the reference; `None` if they share no seed.
        verdict: In words.
    """

    cell: str
    scores: dict[int, float]
    diverged: int
    difference: Difference | None
    verdict: str

    @property
    def mean(self) -> float | None:
        """Mean of the scores."""
        return statistics.mean(self.scores.values()) if self.scores else None

    @property
    def sd(self) -> float | None:
        """Standard deviation of two scores or more."""
        return statistics.stdev(self.scores.values()) if len(self.scores) > 1 else None


def paired_difference(
    scores: Mapping[int, float], reference: Mapping[int, float]
) -> Difference | None:
    """Return the difference of two cells, paired by seed; `None` if they share no seed.

    Args:
        scores: Score of each seed.
        reference: Score of each seed of the reference.
    """
    seeds = sorted(set(scores) & set(reference))
    if not seeds:
        return None
    # Scores have four decimals: equal differences must not differ by rounding.
    differences = [round(scores[seed] - reference[seed], 9) for seed in seeds]
    mean = statistics.mean(differences)
    if len(seeds) == 1:
        low, high = -math.inf, math.inf
    elif len(set(differences)) == 1:
        low = high = mean
    else:
        from scipy.stats import ttest_1samp  # half a second to import

        low, high = map(float, ttest_1samp(differences, 0.0).confidence_interval(0.95))
    return Difference(mean, low, high, len(seeds))


def compare(cells: Sequence[str], scores: Scores, reference: str) -> list[Line]:
    """Return every cell with its difference from a reference.

    A cell with a diverged run gets no other verdict, as its remaining seeds are the lucky ones. If
    a run of the reference diverged, no cell gets one.

    Args:
        cells: Names of all cells, run or not, in order.
        scores: What was measured.
        reference: Name of the reference.
    """
    finished = {
        cell: {seed: score for seed, score in scores.get(cell, {}).items() if math.isfinite(score)}
        for cell in cells
    }
    diverged = {cell: len(scores.get(cell, {})) - len(finished[cell]) for cell in cells}
    lines = []
    for cell in cells:
        difference = None
        if cell != reference:
            difference = paired_difference(finished[cell], finished[reference])
        if cell == reference:
            verdict = "reference"
        elif diverged[cell]:
            verdict = DIVERGED
        elif not finished[cell]:
            verdict = NOT_RUN
        elif diverged[reference]:
            verdict = REFERENCE_DIVERGED
        else:
            verdict = difference.verdict if difference else NO_REFERENCE
        lines.append(Line(cell, finished[cell], diverged[cell], difference, verdict))
    return lines


def as_markdown(lines: Sequence[Line], metric: str) -> str:
    """Return the table of a comparison as Markdown.

    Args:
        lines: The cells.
        metric: Name of the scores.
    """
    head = (f"{metric}, mean ± sd", "n", "pairs", "difference", "95 % interval", "verdict")
    rows = [("cell", *head), ("---",) * 7, *map(_texts, lines)]
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    no_verdicts = any(line.verdict == REFERENCE_DIVERGED for line in lines)
    return table + _NOTE + (_DIVERGED_NOTE if no_verdicts else "")


def _texts(line: Line) -> tuple[str, ...]:
    score, count, pairs, mean, interval = NOT_RUN, str(len(line.scores)), "", "", ""
    if line.diverged:
        score = DIVERGED
        count += f", {line.diverged} diverged"
    if line.scores:
        score = f"{line.mean:.2f}" + (f" ± {line.sd:.2f}" if line.sd is not None else "")
    if difference := line.difference:
        pairs, mean, interval = str(difference.pairs), f"{difference.mean:+.2f}", "one pair"
        if difference.pairs > 1:
            interval = f"{difference.low:+.2f} to {difference.high:+.2f}"
    return (line.cell, score, count, pairs, mean, interval, line.verdict)


def as_csv(lines: Sequence[Line]) -> str:
    """Return the same table as CSV; columns between name and verdict hold numbers or nothing."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for line in lines:
        found = line.difference or (None, None, None, None)
        mean, low, high, pairs = (x if x is None or math.isfinite(x) else None for x in found)
        count = len(line.scores), line.diverged
        figures = (line.mean, line.sd, *count, pairs, mean, low, high)
        rounded = (round(x, 4) if isinstance(x, float) else x for x in figures)
        writer.writerow((line.cell, *rounded, line.verdict))
    return text.getvalue()


def draw(lines: Sequence[Line], metric: str, path: Path) -> None:
    """Plot every seed with its own marker and every mean as a bar, the best on top.

    Args:
        lines: The cells; those without a score are left out.
        metric: Name of the scores.
        path: The PNG to write.
    """
    from matplotlib.figure import Figure

    shown = sorted((line for line in lines if line.scores), key=lambda line: line.mean)
    seeds = sorted({seed for line in shown for seed in line.scores})
    figure = Figure(figsize=(7.5, 1.1 + 0.3 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for height, line in enumerate(shown):
        colour = "tab:orange" if line.verdict == "reference" else "tab:blue"
        for seed, score in line.scores.items():
            marker = "os^Dv"[seeds.index(seed) % 5]
            axes.plot(score, height, marker, color=colour, alpha=0.55, markersize=5)
        axes.plot(line.mean, height, "|", color=colour, markersize=16, markeredgewidth=2.5)
        if line.verdict == "reference":
            axes.axvline(line.mean, color=colour, linewidth=1, alpha=0.6)
    for seed, marker in zip(seeds, "os^Dv", strict=False):
        axes.plot([], [], marker, color="grey", markersize=5, label=f"seed {seed}")
    axes.plot([], [], "|", color="grey", markersize=12, markeredgewidth=2.5, label="mean")
    figure.legend(loc="outside upper right", ncols=len(seeds) + 1, frameon=False, fontsize="small")
    axes.set_yticks(range(len(shown)), [line.cell for line in shown])
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.set_xlabel(f"{metric}, %")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    use_printable(figure)
    figure.savefig(path, dpi=130)
