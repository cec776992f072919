"""Plots of the report as inline SVG, in the colours of the page: legible in both themes."""

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float

from apinet_jax.answers.report.figures import Bin, Share
from apinet_jax.workdir.curves import smooth

# Colours that the page replaces by variables of its style sheet.
_VARIABLES = {
    "#010101": "var(--ink)",
    "#020202": "var(--muted)",
    "#030303": "var(--line)",
    "#040404": "var(--accent)",
    "#050505": "var(--second)",
}
_INK, _MUTED, _LINE, ACCENT, SECOND = _VARIABLES
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "apinet_jax",
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _MUTED,
    "axes.edgecolor": _LINE,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
    "legend.frameon": False,
    "legend.labelcolor": _MUTED,
}
_MOST_POINTS = 300  # of a curve
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))


def _svg(draw: Callable[[Any], None], title: str, height: float = 2.7) -> str:
    """Return what a function draws on axes as an SVG element with a title for screen readers."""
    from matplotlib.figure import Figure  # no pyplot: no window, no global state

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4.1, height), layout="constrained")
        draw(figure)
        content = io.StringIO()
        figure.savefig(content, format="svg", transparent=True, metadata=_NO_METADATA)
    text = content.getvalue()
    text = text[text.index("<svg") :]
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    return text.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)


def plot_curves(rows: Sequence[dict[str, Any]], split: str) -> dict[str, str]:
    """Return the curves of a run by name, from the rows of `metrics.jsonl`; empty without rows.

    Args:
        rows: The rows.
        split: What the validation rows are called in the legend.
    """
    train = [row for row in rows if row["kind"] == "train"]
    held_out = [row for row in rows if row["kind"] == "validation"]
    if not train:
        return {}
    steps = np.array([row["step"] for row in train])
    shown = np.unique(np.linspace(0, len(train) - 1, _MOST_POINTS).astype(int))

    def series(name: str) -> Float[np.ndarray, " T"]:
        values = np.array([row[name] for row in train], float)
        return smooth(values, max(1, len(train) // 50))[shown]

    def loss(figure: Any) -> None:
        axes = figure.subplots()
        axes.plot(steps[shown], series("cross_entropy"), color=ACCENT, label="cross-entropy")
        if (ranking := series("ranking")).any():
            axes.plot(steps[shown], ranking, color=SECOND, label="ranking")
        axes.set(xlabel="step", ylabel="loss", ylim=(0, None))
        axes.legend()

    def accuracy(figure: Any) -> None:
        axes = figure.subplots()
        axes.plot(steps[shown], 100 * series("top1"), color=SECOND, label="training rows")
        if held_out:
            x, y = zip(*[(row["step"], 100 * row["top1"]) for row in held_out], strict=True)
            axes.plot(x, y, color=ACCENT, marker="o", markersize=2.5, label=split)
        axes.set(xlabel="step", ylabel="top-1, %", ylim=(0, 102))
        axes.legend(loc="lower right")

    return {
        "Loss": _svg(loss, "Loss over the steps"),
        "Accuracy": _svg(accuracy, "Accuracy over the steps"),
    }


def plot_reliability(bins: Sequence[Bin], title: str) -> str:
    """Return the reliability plot: accuracy against confidence, the area of a dot is its images."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        confidence, accuracy = (
            100 * np.array([getattr(one, name) for one in bins])
            for name in ("confidence", "accuracy")
        )
        images = np.array([one.images for one in bins])
        axes.plot([0, 100], [0, 100], color=_MUTED, linewidth=0.8, linestyle="--")
        axes.plot(confidence, accuracy, color=ACCENT, linewidth=1)
        axes.scatter(confidence, accuracy, 8 + 120 * images / images.max(), color=ACCENT, alpha=0.7)
        axes.set(xlabel="mean probability, %", ylabel="right, %", xlim=(0, 102), ylim=(0, 102))

    return _svg(draw, title)


def plot_coverage(points: Sequence[tuple[float, Share]]) -> str:
    """Return accuracy against coverage, with its 95 % interval."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        covered = [100 * share for share, _ in points]
        accuracy, low, high = (
            [100 * value for value in values]
            for values in zip(*[(part.accuracy, *part.interval) for _, part in points], strict=True)
        )
        axes.fill_between(covered, low, high, color=ACCENT, alpha=0.18, linewidth=0)
        axes.plot(covered, accuracy, color=ACCENT, marker="o", markersize=3)
        axes.set(xlabel="answered, % of the images", ylabel="right, %", xlim=(5, 102))
        axes.set_ylim(max(0, min(low) - 3), 101)

    return _svg(draw, "Accuracy if only the surest images are answered")
