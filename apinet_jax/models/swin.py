"""Swin transformers, equal to timm's; modules and parameters are named as in its state dict.

Attention is within windows of the grid of cells, and every other block shifts the windows by half.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Shaped

from apinet_jax.models.layers import (
    Conv,
    Trunk,
    drop_path,
    layer_norm,
    rematerialised,
    small_normal,
)
from apinet_jax.models.operations import at_least_float32, by_platform, pad_cells, stored

PATCH, MLP_RATIO = 4, 4
EPSILON = 1e-5  # of the norms
APART = -100.0  # added to the logits of cells that are only neighbours after the shift
# timm resamples the position biases of smaller windows at offsets in geometric progression. Its
# bisection for the ratio starts between 1.01 and 1.5, and smaller windows end it after 19 halvings.
RATIO = 1.01 + 0.49 / 2**19

Sides = tuple[int, int]


def window_attention(
    query: Float[Array, "B W T heads E"],
    key: Float[Array, "B W T heads E"],
    value: Float[Array, "B W T heads E"],
    bias: Float[Array, "heads T T"],
    apart: Bool[np.ndarray, "W T T"] | None,
) -> Float[Array, "B W T heads E"]:
    """Return softmax attention within each window, with the softmax in float32 or wider.

    The backward pass recomputes the weights, [B W heads T T], except on CPUs.

    Args:
        query: Queries of the `T` cells of each of `W` windows.
        key: Keys.
        value: Values.
        bias: Added to the logits, by the cells' positions in the window.
        apart: Pairs of cells that are not neighbours in the image; `None` if all are.
    """
    attend = partial(_window_attention, apart)
    return by_platform(cpu=attend, default=jax.checkpoint(attend))(query, key, value, bias)


def _window_attention(
    apart: np.ndarray | None, query: Array, key: Array, value: Array, bias: Array
) -> Array:
    wide = at_least_float32(query).dtype
    query = query * query.shape[-1] ** -0.5
    logits = jnp.einsum("bwqhe,bwkhe->bwhqk", query, key, preferred_element_type=wide)
    logits = logits + bias.astype(wide)[None, None]
    if apart is not None:
        logits = jnp.where(apart[None, :, None], logits + APART, logits)
    return jnp.einsum("bwhqk,bwkhe->bwqhe", nn.softmax(logits).astype(value.dtype), value)


def partition(
    x: Shaped[Array | np.ndarray, "B h w D"], window: Sides
) -> Shaped[Array | np.ndarray, "B W T D"]:
    """Divide maps into windows, row by row, and list the cells of each, row by row."""
    batch, height, width, features = x.shape
    rows, columns = window
    down, across = height // rows, width // columns
    x = x.reshape(batch, down, rows, across, columns, features).swapaxes(2, 3)
    return x.reshape(batch, down * across, rows * columns, features)


def unite(x: Float[Array, "B W T D"], window: Sides, sides: Sides) -> Float[Array, "B h w D"]:
    """Undo `partition`, for maps with these sides."""
    (batch, _, _, features), (rows, columns), (height, width) = x.shape, window, sides
    x = x.reshape(batch, height // rows, width // columns, rows, columns, features)
    return x.swapaxes(2, 3).reshape(batch, height, width, features)


def offset_weights(
    window: int, native: int, resampled: bool
) -> Float[np.ndarray, "side side offsets"]:
    """Return the weight of each native offset in the bias of each query (first) and key of an axis.

    Args:
        window: Side of the window, in cells.
        native: Side of the windows of the weights; its offsets are 1 - native to native - 1.
        resampled: Whether biases are interpolated as by timm's `resize_rel_pos_bias_table`:
            linearly, with native offset k at 1 + r + ... + r^(k-1). Without, weights are 0 or 1.
    """
    places = np.cumsum((RATIO if resampled else 1.0) ** np.arange(native - 1))
    places = np.concatenate([-places[::-1], [0.0], places])
    offsets = np.arange(window)[:, None] - np.arange(window)
    return np.stack([np.interp(offsets, places, one) for one in np.eye(len(places))], axis=-1)


def position_bias(
    table: Float[Array, "offsets heads"], window: Sides, native: int
) -> Float[Array, "heads T T"]:
    """Return the bias of each query (first) and key of a window, by the offset between them.

    It is a matrix product: the gradient of indexing would be summed in any order on GPUs.

    Args:
        table: Biases of all offsets in a native window, by rows, then columns.
        window: Sides of the window; if one is less than `native`, the table is resampled.
        native: Side of a native window.
    """
    grid = table.reshape(2 * native - 1, 2 * native - 1, -1)
    resampled = window != (native, native)
    down, across = (
        jnp.asarray(offset_weights(side, native, resampled), table.dtype) for side in window
    )
    exact = lax.Precision.HIGHEST
    bias = jnp.einsum("qki,rlj,ijh->hqrkl", down, across, grid, precision=exact)
    cells = window[0] * window[1]
    return bias.reshape(-1, cells, cells)


def cells_apart(sides: Sides, window: Sides, shift: Sides) -> Bool[np.ndarray, "W T T"]:
    """Return which cells of a window are only neighbours because the shift is cyclic.

    Args:
        sides: Rows and columns of the map, multiples of the window.
        window: Sides of the window.
        shift: Rows and columns that the map was shifted by; 0 for none.
    """
    ends = zip(sides, window, shift, strict=True)
    # The last windows of a shifted axis have cells of both ends.
    down, across = (
        np.digitize(np.arange(side), [side - w, side - s] if s else []) for side, w, s in ends
    )
    parts = partition((3 * down[:, None] + across)[None, ..., None], window)[0]  # [W T 1]
    return parts != parts.swapaxes(1, 2)


class Block(nn.Module):
    """Attention in windows, then an MLP, each after a LayerNorm and added to its input.

    Attributes:
        heads: Attention heads.
        window: Side of the windows of the weights, in cells.
        shifted: Whether the windows are shifted by half their side.
        drop_path: Rate of `drop_path`, for each of the two.
        dtype: Compute dtype.
    """

    heads: int
    window: int
    shifted: bool
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B h w D"]) -> Float[Array, "B h w D"]:
        """Return the transformed cells."""
        width = x.shape[-1]
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=small_normal)
        y = self.attend(layer_norm(x, "norm1", EPSILON), dense)
        x = stored(x + drop_path(self, y, self.drop_path))
        y = dense(MLP_RATIO * width, name="mlp.fc1")(layer_norm(x, "norm2", EPSILON))
        y = dense(width, name="mlp.fc2")(nn.gelu(y, approximate=False))
        return stored(x + drop_path(self, y, self.drop_path))

    def attend(self, x: Float[Array, "B h w D"], dense: partial) -> Float[Array, "B h w D"]:
        """Return the attention of each cell to its window.

        Windows shrink to a map with fewer rows or columns, and are not shifted where one spans all
        of them. Other maps are padded to whole windows; the padding takes part in the attention.
        """
        _, height, width, features = x.shape
        sides = height, width
        window = tuple(max(1, min(side, self.window)) for side in sides)
        shift = tuple(self.window // 2 * (self.shifted and side > self.window) for side in sides)
        padded = tuple(-(-side // w) * w for side, w in zip(sides, window, strict=True))
        shape = ((2 * self.window - 1) ** 2, self.heads)
        table = self.param("attn.relative_position_bias_table", small_normal, shape, jnp.float32)
        bias = position_bias(table, window, self.window)

        x = jnp.roll(x, tuple(-s for s in shift), axis=(1, 2))
        x = pad_cells(x, ((0, padded[0] - height), (0, padded[1] - width)))
        x = partition(x, window)  # [B W T D]
        qkv = dense(3 * features, name="attn.qkv")(x)
        qkv = qkv.reshape(*x.shape[:3], 3, self.heads, features // self.heads)
        apart = cells_apart(padded, window, shift) if any(shift) else None
        x = window_attention(*jnp.unstack(qkv, axis=3), bias, apart).reshape(x.shape)
        x = unite(dense(features, name="attn.proj")(x), window, padded)[:, :height, :width]
        return jnp.roll(x, shift, axis=(1, 2))


class Merge(nn.Module):
    """Halves the grid: four neighbouring cells become one, with twice the channels.

    Attributes:
        dtype: Compute dtype.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W I"]) -> Float[Array, "B h w O"]:
        """Return the merged cells; an odd side is padded."""
        width = x.shape[-1]
        x = pad_cells(x, ((0, x.shape[1] % 2), (0, x.shape[2] % 2)))
        batch, height, across, _ = x.shape
        x = x.reshape(batch, height // 2, 2, across // 2, 2, width)
        x = x.transpose(0, 1, 3, 4, 2, 5).reshape(batch, height // 2, across // 2, 4 * width)
        reduction = nn.Dense(
            2 * width, use_bias=False, dtype=self.dtype, kernel_init=small_normal, name="reduction"
        )
        return reduction(layer_norm(x, "norm", EPSILON))


class Swin(Trunk):
    """The trunk of a Swin transformer, its cells after the last norm; a cell is 32 pixels wide.

    Images may have any size from 4 pixels. They are processed as by timm's model of this
    `img_size`, with the windows of the weights (timm 1.0.31; 1.0.29 differs where a grid of cells
    has an odd side). There is no BatchNorm.

    Attributes:
        depths: Blocks of each stage.
        heads: Attention heads of each stage.
        width: Channels of the first stage; each later stage doubles them.
        window: Side of a window, in cells.
    """

    depths: Sequence[int]
    heads: Sequence[int]
    width: int = 96
    window: int = 7

    @nn.compact
    def __call__(self, images: Float[Array, "B H W 3"], train: bool) -> Float[Array, "B h w D"]:
        """Return the feature map of normalised `images`, the same in training and evaluation."""
        del train
        x = Conv(
            self.width,
            PATCH,
            stride=PATCH,
            use_bias=True,
            dtype=self.dtype,
            kernel_init=small_normal,
            name="patch_embed.proj",
        )(images)
        x = layer_norm(x, "patch_embed.norm", EPSILON)
        block = rematerialised(Block, self.remat, takes_train=False)
        rates = iter(np.linspace(0, self.drop_path, sum(self.depths)).tolist())
        for stage, (depth, heads) in enumerate(zip(self.depths, self.heads, strict=True)):
            if stage:
                x = Merge(self.dtype, name=f"layers.{stage}.downsample")(x)
            for index in range(depth):
                name = f"layers.{stage}.blocks.{index}"
                shifted = index % 2 == 1
                x = block(heads, self.window, shifted, next(rates), self.dtype, name=name)(x)
        return layer_norm(x, "norm", EPSILON)
