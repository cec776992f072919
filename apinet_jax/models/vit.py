"""Vision transformers, equal to timm's; modules and parameters are named as in its state dict."""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.nn import initializers
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from apinet_jax.models.layers import (
    Conv,
    Trunk,
    drop_path,
    layer_norm,
    mean_over_cells,
    rematerialised,
    small_normal,
    torch_default,
)
from apinet_jax.models.operations import at_least_float32, by_platform, stored
from apinet_jax.models.rotary import Rotation, rotary_positions, rotate
from apinet_jax.system.errors import InputError

Pool = Literal["map", "token", "both"]

MLP_RATIO = 4


class ViTSize(NamedTuple):
    """Numbers that set the size of a ViT: channels of a token, blocks, attention heads."""

    width: int
    depth: int
    heads: int


VIT_SMALL = ViTSize(384, 12, 6)
VIT_BASE = ViTSize(768, 12, 12)
VIT_LARGE = ViTSize(1024, 24, 16)


def attention(
    query: Float[Array, "B T heads E"],
    key: Float[Array, "B T heads E"],
    value: Float[Array, "B T heads E"],
) -> Float[Array, "B T heads E"]:
    """Return softmax attention of every token to all, with the softmax in float32 or wider.

    The backward pass recomputes the weights, [B heads T T]: stored for every block, they would be
    half of the memory of a step on large images. On CPUs that takes longer than it is worth.
    """
    return by_platform(cpu=_attention, default=jax.checkpoint(_attention))(query, key, value)


def _attention(query: Array, key: Array, value: Array) -> Array:
    wide = at_least_float32(query).dtype
    query = query * query.shape[-1] ** -0.5
    logits = jnp.einsum("bqhe,bkhe->bhqk", query, key, preferred_element_type=wide)
    return jnp.einsum("bhqk,bkhe->bqhe", nn.softmax(logits).astype(value.dtype), value)


def resample(grid: Float[Array, "h w D"], size: tuple[int, int]) -> Float[Array, "rows columns D"]:
    """Resample a grid of position embeddings to `size`, rows and columns.

    Bicubic (a = -0.5), with a wider kernel where the grid shrinks, as in timm: torch's
    `interpolate(mode="bicubic", antialias=True)`. The same size returns the same values.
    """
    return jax.image.resize(grid, (*size, grid.shape[-1]), "cubic", antialias=True)


def check_sides(patch: int, height: int, width: int) -> None:
    """Refuse images that patches do not fill.

    Raises:
        InputError: A side of the images is not a multiple of the patch.
    """
    if height % patch or width % patch:
        below = max(1, min(height, width) // patch) * patch
        raise InputError(
            f"images of {height}x{width} do not divide into patches of {patch}; choose a multiple,"
            f" for instance data.crop={below}"
        )


class Block(nn.Module):
    """Attention, then an MLP, each after a LayerNorm and added to its input.

    Attributes:
        heads: Attention heads.
        layer_scale: Names of the scales of both residuals per channel, initially 1e-5, if any.
        qkv_bias: Whether queries, keys and values have a bias.
        epsilon: Added to the variance by the norms.
        drop_path: Rate of `drop_path`, for each of the two.
        dtype: Compute dtype.
    """

    heads: int
    layer_scale: tuple[str, str] | None = None
    qkv_bias: bool = True
    epsilon: float = 1e-6
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], rotation: Rotation | None = None
    ) -> Float[Array, "B T D"]:
        """Return the transformed tokens; `rotation` turns queries and keys by their positions."""
        width = x.shape[-1]
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=small_normal)

        def scaled(y: Float[Array, "B T D"], residual: int) -> Float[Array, "B T D"]:
            if self.layer_scale is not None:
                name = self.layer_scale[residual]
                gamma = self.param(name, initializers.constant(1e-5), (width,), jnp.float32)
                y = y * gamma.astype(self.dtype).reshape(1, 1, -1)
            return drop_path(self, y, self.drop_path)

        y = layer_norm(x, "norm1", self.epsilon)
        qkv = dense(3 * width, use_bias=self.qkv_bias, name="attn.qkv")(y)
        query, key, value = jnp.unstack(qkv.reshape(*x.shape[:2], 3, self.heads, -1), axis=2)
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        y = attention(query, key, value).reshape(x.shape)
        x = stored(x + scaled(dense(width, name="attn.proj")(y), 0))
        y = dense(MLP_RATIO * width, name="mlp.fc1")(layer_norm(x, "norm2", self.epsilon))
        y = dense(width, name="mlp.fc2")(nn.gelu(y, approximate=False))
        return stored(x + scaled(y, 1))


class ViT(Trunk):
    """The trunk of a vision transformer: its patch tokens after the last norm, as a feature map.

    Class and register tokens take part in the attention; registers are then dropped. The sides of
    the images may be any multiples of the patch: the position embeddings are resampled to their
    grid, or positions are rotations. There is no BatchNorm.

    Attributes:
        patch: Side of a patch, in pixels.
        grid: Side of the grid of position embeddings in the weights, in cells; `None` for
            rotary positions instead, as in DINOv3.
        registers: Register tokens, besides the class token.
        layer_scale: As for `Block`.
        qkv_bias: As for `Block`.
        epsilon: As for `Block`.
        embed_prefix: Whether class and register tokens have position embeddings, the first ones.
        width: Channels of a token.
        depth: Blocks.
        heads: Attention heads.
        pool: What `features` returns: the mean of the patch tokens (`map`), the class token
            (`token`), or `both`, the mean first.
    """

    patch: int
    grid: int | None
    registers: int = 0
    layer_scale: tuple[str, str] | None = None
    qkv_bias: bool = True
    epsilon: float = 1e-6
    embed_prefix: bool = True
    width: int = 768
    depth: int = 12
    heads: int = 12
    pool: Pool = "map"

    def __call__(self, images: Float[Array, "B H W 3"], train: bool) -> Float[Array, "B h w D"]:
        """Return the feature map of normalised `images`, the same in training and evaluation.

        Raises:
            InputError: A side of the images is not a multiple of the patch.
        """
        del train
        feature_map, _ = self.tokens(images)
        return feature_map

    def features(self, images: Float[Array, "B H W 3"], train: bool) -> Float[Array, "B F"]:
        """Return what `pool` says, in float32 or wider.

        Raises:
            InputError: A side of the images is not a multiple of the patch.
        """
        del train
        feature_map, token = self.tokens(images)
        mean, token = mean_over_cells(feature_map), at_least_float32(token)
        if self.pool == "both":
            return jnp.concatenate([mean, token], axis=-1)
        return mean if self.pool == "map" else token

    @nn.compact
    def tokens(
        self, images: Float[Array, "B H W 3"]
    ) -> tuple[Float[Array, "B h w D"], Float[Array, "B D"]]:
        """Return the patch tokens of normalised `images` as a feature map, and the class token."""
        batch, height, width, _ = images.shape
        check_sides(self.patch, height, width)
        cells = height // self.patch, width // self.patch
        x = Conv(
            self.width,
            self.patch,
            stride=self.patch,
            use_bias=True,
            dtype=self.dtype,
            kernel_init=torch_default,
            name="patch_embed.proj",
        )(images)

        def learned(name: str, count: int, spread: float) -> Float[Array, "1 T D"]:
            shape = (1, count, self.width)
            return self.param(name, initializers.normal(spread), shape, jnp.float32)

        spread = 0.02 if self.grid is None else 1e-6
        prefix = learned("cls_token", 1, spread)
        if self.registers:
            registers = learned("reg_token", self.registers, spread)
            prefix = jnp.concatenate([prefix, registers], axis=1)
        ahead = prefix.shape[1]
        if self.grid is None:
            wide = at_least_float32(x).dtype
            rotation = rotary_positions(cells, ahead, self.width // self.heads, wide)
        else:
            rotation, embedded = None, ahead if self.embed_prefix else 0
            positions = learned("pos_embed", embedded + self.grid**2, 0.02)
            if self.embed_prefix:
                prefix = prefix + positions[:, :embedded]
            native = positions[0, embedded:].reshape(self.grid, self.grid, self.width)
            x = x + resample(native, cells).astype(self.dtype)[None]

        prefix = jnp.broadcast_to(prefix.astype(self.dtype), (batch, *prefix.shape[1:]))
        x = jnp.concatenate([prefix, x.reshape(batch, -1, self.width)], axis=1)  # [B T D]
        block = partial(
            rematerialised(Block, self.remat, takes_train=False),
            self.heads,
            self.layer_scale,
            self.qkv_bias,
            self.epsilon,
            dtype=self.dtype,
        )
        for index, rate in enumerate(np.linspace(0, self.drop_path, self.depth).tolist()):
            x = block(rate, name=f"blocks.{index}")(x, rotation)
        x = layer_norm(x, "norm", self.epsilon)
        return x[:, ahead:].reshape(batch, *cells, self.width), x[:, 0]
