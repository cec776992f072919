"""The picture of an explanation: photo, contrast map, and the nearest training photos."""

import io
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np

from apinet_jax.answers.explanation.explain import Exemplar, Explanation
from apinet_jax.answers.pictures import SIGNED, overlay
from apinet_jax.data.records.walk import escaped
from apinet_jax.system.fonts import use_printable

_RED, _BLUE, _GREY = "#b2182b", "#2166ac", "#555555"  # dark enough for text
_WIDTH = 9.0  # inches


def draw_explanation(found: Explanation, name: str) -> bytes:
    """Draw an explanation as a PNG file.

    Args:
        found: The explanation.
        name: What the photo is called in the picture.
    """
    # Names with two dollar signs are not formulas.
    with matplotlib.rc_context({"text.parse_math": False}):
        return _draw(found, escaped(name))


def _draw(found: Explanation, name: str) -> bytes:
    from matplotlib.figure import Figure  # no pyplot: no window, no global state

    has_gates = any(exemplar.gates is not None for exemplar in found.exemplars)
    sides = [
        [exemplar for exemplar in found.exemplars if exemplar.class_name == class_name]
        for class_name in (found.predicted, found.against)
    ]
    columns = max(3, *map(len, sides))
    lower = (3 if has_gates else 1) * _WIDTH / 2 / columns + 0.6 if found.exemplars else 0.5
    upper = 4.8
    figure = Figure(figsize=(_WIDTH, upper + lower), dpi=130, layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[upper, lower])
    _draw_photo(above, found, name)
    if not found.exemplars:
        reason = textwrap.fill(f"No training photos are shown: {found.no_exemplars}", 120)
        below.text(0.02, 0.95, reason, va="top", fontsize=8, color=_GREY)
    else:
        for part, exemplars, class_name, colour in zip(
            below.subfigures(1, 2),
            sides,
            (found.predicted, found.against),
            (_RED, _BLUE),
            strict=True,
        ):
            part.suptitle(f"nearest training photos of {class_name}", fontsize=9, color=colour)
            _draw_exemplars(part, found, exemplars, columns, has_gates)
    use_printable(figure)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def _draw_photo(figure: Any, found: Explanation, name: str) -> None:
    """Draw the photo and its contrast map, with the figures above."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    figure.suptitle(
        f"Why {found.predicted} ({found.probability:.2f}) and not {found.against} "
        f"({found.rival_probability:.2f})?",
        fontsize=12,
    )
    photo, contrast = figure.subplots(1, 2)
    photo.imshow(found.pixels, interpolation="bicubic")
    photo.set_title(textwrap.shorten(name, 60), fontsize=9, color=_GREY)
    limit = float(np.abs(found.contrast).max()) or 1.0
    contrast.imshow(
        overlay(found.pixels, found.contrast, limit, trunk=found.trunk, signed=True),
        interpolation="bicubic",
    )
    contrast.set_title(
        f"difference of the logits: {found.difference:+.2f} = {found.contrast.sum():+.2f} (sum of "
        f"the map) {found.bias:+.2f} ({found.bias_source})",
        fontsize=8,
        color=_GREY,
    )
    for axes in (photo, contrast):
        axes.set_axis_off()
    for axes in (photo, contrast):
        # Under the photo an invisible one, so that both pictures have the same size.
        bar = figure.colorbar(
            ScalarMappable(Normalize(-limit, limit), SIGNED),
            ax=axes,
            location="bottom",
            aspect=40,
            pad=0.03,
            ticks=[-limit, 0, limit],
        )
        bar.ax.set_xticklabels([f"{-limit:+.2g}", "0", f"{limit:+.2g}"])
        bar.ax.tick_params(labelsize=8)
        bar.outline.set_visible(False)
        bar.ax.set_visible(axes is contrast)
    for place, side, class_name, colour in (
        (0.06, "left", found.against, _BLUE),
        (0.94, "right", found.predicted, _RED),
    ):
        label = f"for {textwrap.shorten(class_name, 26, placeholder=' ...')}"
        bar.ax.text(
            place, -0.9, label, ha=side, va="top", color=colour, fontsize=8,
            transform=bar.ax.transAxes,
        )  # fmt: skip


def _draw_exemplars(
    figure: Any, found: Explanation, exemplars: Sequence[Exemplar], columns: int, has_gates: bool
) -> None:
    """Draw the training photos of one class, and below each the gates of the pair."""
    rows = 3 if has_gates else 1
    all_axes = figure.subplots(rows, columns, squeeze=False)
    for axes in all_axes.flat:
        axes.set_axis_off()
    style = {"fontsize": 8, "color": _GREY}
    for axes, exemplar in zip(all_axes[0], exemplars, strict=False):
        axes.imshow(exemplar.pixels, interpolation="bicubic")
        axes.set_title(f"cosine {exemplar.similarity:.2f}", **style)
    gates = [exemplar.gates for exemplar in found.exemplars if exemplar.gates is not None]
    for row, part, title in zip(
        all_axes[1:], ("exemplar", "photo"), ("these photos", "the explained photo"), strict=False
    ):
        # One scale for both classes.
        limit = max(float(np.abs(getattr(one, part)).max()) for one in gates)
        row[columns // 2].set_title(f"added by the gates of {title}, up to {limit:.2g}", **style)
        for axes, exemplar in zip(row, exemplars, strict=False):
            pixels = exemplar.pixels if part == "exemplar" else found.pixels
            values = getattr(exemplar.gates, part)
            drawn = overlay(pixels, values, limit, trunk=found.trunk, signed=True)
            axes.imshow(drawn, interpolation="bicubic")
