"""The curves of a run as one picture, drawn from the rows of `metrics.jsonl`."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from apinet_jax.system.paths import AnyPath


def smooth(values: Float[np.ndarray, " T"], window: int) -> Float[np.ndarray, " T"]:
    """Return the mean over the last `window` values, over fewer at the start."""
    total = np.cumsum(np.concatenate([[0.0], values]))
    end = np.arange(1, len(values) + 1)
    begin = np.maximum(end - window, 0)
    return (total[end] - total[begin]) / (end - begin)


def draw_curves(rows: Sequence[dict[str, Any]], frozen_steps: int, path: AnyPath) -> None:
    """Draw loss terms, accuracies and learning rate over the steps.

    Args:
        rows: Rows of `metrics.jsonl`.
        frozen_steps: Steps of the frozen stage, which is shaded.
        path: PNG to write.
    """
    from matplotlib.figure import Figure  # no pyplot: no window, no global state

    train = [row for row in rows if row["kind"] == "train"]
    held_out = [row for row in rows if row["kind"] == "validation"]
    step = np.array([row["step"] for row in train])

    def series(name: str) -> Float[np.ndarray, " T"]:
        return np.array([row[name] for row in train], float)

    figure = Figure(figsize=(9, 7.5), layout="constrained")
    loss, accuracy, rate = figure.subplots(3, 1, sharex=True, height_ratios=[3, 3, 1])
    window = max(1, len(train) // 50)
    for name, colour in (("cross_entropy", "tab:blue"), ("ranking", "tab:orange")):
        values = series(name)
        loss.plot(step, values, color=colour, alpha=0.2, linewidth=0.7)
        loss.plot(step, smooth(values, window), color=colour, label=name.replace("_", "-"))
    loss.set_ylabel("loss")
    loss.set_yscale("symlog", linthresh=0.01)
    accuracy.plot(
        step, 100 * smooth(series("top1"), window), color="tab:blue", label="training rows"
    )
    if held_out:
        accuracy.plot(
            [row["step"] for row in held_out],
            [100 * row["top1"] for row in held_out],
            "o-",
            color="tab:green",
            markersize=3,
            label="held-out images",
        )
    accuracy.set_ylabel("top-1, %")
    accuracy.set_ylim(0, 101)
    rate.plot(step, series("lr"), color="tab:gray")
    rate.set_ylabel("learning rate")
    rate.set_xlabel("step")
    for axes in (loss, accuracy, rate):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if frozen_steps:
            axes.axvspan(0, frozen_steps, color="tab:blue", alpha=0.06, label="backbone frozen")
    loss.legend(frameon=False)
    accuracy.legend(frameon=False, loc="lower right")
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120, format="png")
    path.write_bytes(picture.getvalue())
