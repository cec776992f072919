"""Rotary positions, as in DINOv3: queries and keys are rotated by where their patch is."""

from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from apinet_jax.models.operations import at_least_float32

BASE = 100.0  # ratio of the longest period to the shortest, nearly


class Rotation(NamedTuple):
    """Cosine and sine of the angles by which the channels of each token are rotated."""

    cos: Float[Array, "T E"]
    sin: Float[Array, "T E"]


def rotary_positions(
    cells: tuple[int, int], prefix: int, channels: int, dtype: DTypeLike
) -> Rotation:
    """Return the rotations of the tokens of an image.

    The centre of a patch has two coordinates, vertical and horizontal, which run from -1 to 1 from
    edge to edge whatever the number of cells. The angles are 2 pi times a coordinate, divided by
    the periods 100^(4 i / E) for i = 0 ... E / 4 - 1.

    Args:
        cells: Rows and columns of the patches.
        prefix: Tokens before the patches; they have no position, and are not rotated.
        channels: Channels of an attention head, `E`, a multiple of 4.
        dtype: Dtype of the arithmetic and of the result.
    """
    periods = BASE ** (4 * jnp.arange(channels // 4, dtype=dtype) / channels)  # [E/4]
    grids = jnp.meshgrid(
        *(2 * (jnp.arange(count, dtype=dtype) + 0.5) / count - 1 for count in cells), indexing="ij"
    )
    coordinates = jnp.stack(grids, axis=-1).reshape(-1, 2, 1)  # [h·w 2 1]
    angles = 2 * jnp.pi * coordinates / periods[None, None]  # [h·w 2 E/4]
    angles = angles.reshape(-1, channels // 2)
    angles = jnp.pad(jnp.tile(angles, (1, 2)), ((prefix, 0), (0, 0)))  # [T E]
    return Rotation(jnp.cos(angles), jnp.sin(angles))


def rotate(x: Float[Array, "B T heads E"], rotation: Rotation) -> Float[Array, "B T heads E"]:
    """Rotate each channel of the first half with its partner in the second half."""
    wide = at_least_float32(x)
    first, second = jnp.split(wide, 2, axis=-1)
    cos, sin = (values.astype(wide.dtype)[None, :, None] for values in rotation)  # [1 T 1 E]
    rotated = wide * cos + jnp.concatenate([-second, first], axis=-1) * sin
    return rotated.astype(x.dtype)
