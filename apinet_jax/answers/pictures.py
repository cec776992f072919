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
    signed: bool = False,
    trunk: str | None = None,
) -> UInt8[np.ndarray, "H W 3"]:
    """Draw a map over a photo: the larger a value, the more its colour covers the photo.

    Args:
        pixels: The photo.
        values: A map over it, of any size; it is enlarged smoothly.
        limit: The value that is drawn in full colour; the largest magnitude by default.
        signed: Whether negative values have their own colour (blue; positive ones are red).
            Otherwise they are not drawn.
        trunk: Name of the trunk of whose feature map the values are; see `enlarge`.
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
    values: Float[np.ndarray, "h w"], height: int, width: int, trunk: str | None = None
) -> Float[np.ndarray, "H W"]:
    """Return a map in the size of the photo, interpolated smoothly.

    Args:
        values: A map over the photo.
        height: Height of the photo in pixels.
        width: Its width.
        trunk: Name of the trunk of whose feature map the values are: each is placed at the centre
            of what its cell sees. A ResNet's are 15.5 pixels further up and left than a division of
            the photo into equal cells. Without a name, the cells divide the photo.
    """
    picture, box = Image.fromarray(values.astype(np.float32)), None
    if trunk is not None:
        spec = trunk_spec(trunk)
        # Photo pixel p is at (p - first_cell) / cell_step cells from the centre of the first cell.
        sides = (width, height)
        low = (-0.5 - spec.first_cell) / spec.cell_step + 0.5
        margin = max(
            0,
            *(
                math.ceil(side / spec.cell_step + low - cells)
                for side, cells in zip(sides, picture.size, strict=True)
            ),
            math.ceil(-low),
        )
        picture = Image.fromarray(np.pad(values.astype(np.float32), margin, mode="edge"))
        box = (*[low + margin] * 2, *(side / spec.cell_step + low + margin for side in sides))
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC, box))
