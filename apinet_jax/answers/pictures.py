"""Maps over photos: where a network looks, drawn for people."""

import math

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from apinet_jax.models import trunk_spec

SIGNED, POSITIVE = "RdBu_r", "inferno"  # of matplotlib
_MOST_OPAQUE = 0.85


def overlay(
    pixels: UInt8[np.ndarray, "H W 3"],
    values: Float[np.ndarray, "h w"],
    limit: float | None = None,
    *,
    trunk: str,
    signed: bool = False,
) -> UInt8[np.ndarray, "H W 3"]:
    """Draw a map over a photo: the larger a value, the more its colour covers the photo.

    Args:
        pixels: The photo.
        values: The value of each cell of its feature map; enlarged smoothly.
        limit: The value that is drawn in full colour; the largest magnitude by default.
        trunk: Name of the trunk, which knows where the cells are; see `enlarge`.
        signed: Whether negative values have their own colour (blue; positive ones are red).
            Otherwise they are not drawn.
    """
    height, width = pixels.shape[:2]
    enlarged = enlarge(values, height, width, trunk)
    limit = float(np.abs(values).max()) if limit is None else limit
    scaled = np.clip(enlarged / limit if limit > 0 else np.zeros_like(enlarged), -1, 1)
    if signed:
        colour = matplotlib.colormaps[SIGNED](0.5 + scaled / 2)[..., :3]
    else:
        scaled = np.maximum(scaled, 0)
        colour = matplotlib.colormaps[POSITIVE](scaled)[..., :3]
    opacity = _MOST_OPAQUE * np.abs(scaled)[..., None]
    # A grey photo, so that its own colours are not taken for the map's.
    grey = pixels.mean(axis=-1, keepdims=True) / 255
    return np.rint(255 * ((1 - opacity) * grey + opacity * colour)).astype(np.uint8)


def enlarge(
    values: Float[np.ndarray, "h w"], height: int, width: int, trunk: str
) -> Float[np.ndarray, "H W"]:
    """Return a map in the size of the photo, interpolated smoothly.

    Each cell is placed at the centre of what it sees. A ResNet's cells are 15.5 pixels further up
    and left than a division of the photo into equal cells.

    Args:
        values: The value of each cell of the feature map.
        height: Height of the photo in pixels.
        width: Its width.
        trunk: Name of the trunk.
    """
    spec, (rows, columns) = trunk_spec(trunk), values.shape
    sides = width, height
    # Photo pixel p is at (p - first_centre) / cell_step cells from the centre of the first cell.
    left, top = ((-0.5 - spec.first_centre(side)) / spec.cell_step + 0.5 for side in sides)
    right, below = (
        side / spec.cell_step + low for side, low in zip(sides, (left, top), strict=True)
    )
    beyond = (-left, -top, right - columns, below - rows)
    margin = max(0, *map(math.ceil, beyond))
    picture = Image.fromarray(np.pad(values.astype(np.float32), margin, mode="edge"))
    box = tuple(edge + margin for edge in (left, top, right, below))
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC, box))
