"""Maps over photos: where a network looks, drawn for people."""

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

SIGNED, POSITIVE = "RdBu_r", "inferno"  # of matplotlib
_MOST_OPAQUE = 0.85


def overlay(
    pixels: UInt8[np.ndarray, "H W 3"],
    values: Float[np.ndarray, "h w"],
    limit: float | None = None,
    *,
    signed: bool = False,
) -> UInt8[np.ndarray, "H W 3"]:
    """Draw a map over a photo: the larger a value, the more its colour covers the photo.

    Args:
        pixels: The photo.
        values: A map over it, of any size; it is enlarged smoothly.
        limit: The value that is drawn in full colour; the largest magnitude by default.
        signed: Whether negative values have their own colour (blue; positive ones are red).
            Otherwise they are not drawn.
    """
    height, width = pixels.shape[:2]
    enlarged = np.asarray(
        Image.fromarray(values.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    )
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
