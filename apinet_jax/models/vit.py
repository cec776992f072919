"""Vision transformers, equal to timm's; modules and parameters are named as in its state dict."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn import initializers
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from apinet_jax.models.layers import (
    Conv,
    Trunk,
    layer_norm,
    rematerialised,
    small_normal,
    torch_default,
)
from apinet_jax.models.operations import at_least_float32
from apinet_jax.system.errors import InputError

MLP_RATIO = 4


@jax.checkpoint
def attention(
    query: Float[Array, "B T heads E"],
    key: Float[Array, "B T heads E"],
    value: Float[Array, "B T heads E"],
) -> Float[Array, "B T heads E"]:
    """Return softmax attention of every token to all, with the softmax in float32 or wider.

    The backward pass recomputes the weights, [B heads T T]: stored for every block, they would be
    half of the memory of a step on large images. (Compilers for CPUs store them anyway.)
    """
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
        layer_scale: Whether both residuals are scaled per channel, initially by 1e-5.
        dtype: Compute dtype.
    """

    heads: int
    layer_scale: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Return the transformed tokens."""
        width = x.shape[-1]
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=small_normal)

        def scaled(y: Float[Array, "B T D"], name: str) -> Float[Array, "B T D"]:
            if not self.layer_scale:
                return y
            gamma = self.param(name, initializers.constant(1e-5), (width,), jnp.float32)
            return y * gamma.astype(self.dtype).reshape(1, 1, -1)

        qkv = dense(3 * width, name="attn.qkv")(layer_norm(x, "norm1"))
        qkv = qkv.reshape(*x.shape[:2], 3, self.heads, -1)
        y = attention(*jnp.unstack(qkv, axis=2)).reshape(x.shape)
        x = x + scaled(dense(width, name="attn.proj")(y), "ls1.gamma")
        y = dense(MLP_RATIO * width, name="mlp.fc1")(layer_norm(x, "norm2"))
        y = dense(width, name="mlp.fc2")(nn.gelu(y, approximate=False))
        return x + scaled(y, "ls2.gamma")


class ViT(Trunk):
    """The trunk of a vision transformer: its patch tokens after the last norm, as a feature map.

    Class and register tokens take part in the attention and are then dropped. The sides of the
    images may be any multiples of the patch: the position embeddings are resampled to their grid.
    There is no BatchNorm.

    Attributes:
        patch: Side of a patch, in pixels.
        grid: Side of the grid of position embeddings in the weights, in cells.
        registers: Register tokens, besides the class token.
        layer_scale: Whether the residuals of the blocks are scaled per channel.
        embed_prefix: Whether class and register tokens have position embeddings, the first ones.
        width: Channels of a token.
        depth: Blocks.
        heads: Attention heads.
    """

    patch: int
    grid: int
    registers: int = 0
    layer_scale: bool = False
    embed_prefix: bool = True
    width: int = 768
    depth: int = 12
    heads: int = 12

    @nn.compact
    def __call__(self, images: Float[Array, "B H W 3"], train: bool) -> Float[Array, "B h w D"]:
        """Return the feature map of normalised `images`, the same in training and evaluation.

        Raises:
            InputError: A side of the images is not a multiple of the patch.
        """
        del train
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

        def tokens(name: str, count: int, spread: float) -> Float[Array, "1 T D"]:
            shape = (1, count, self.width)
            return self.param(name, initializers.normal(spread), shape, jnp.float32)

        prefix = tokens("cls_token", 1, 1e-6)
        if self.registers:
            registers = tokens("reg_token", self.registers, 1e-6)
            prefix = jnp.concatenate([prefix, registers], axis=1)
        ahead = prefix.shape[1]
        embedded = ahead if self.embed_prefix else 0
        positions = tokens("pos_embed", embedded + self.grid**2, 0.02)
        if self.embed_prefix:
            prefix = prefix + positions[:, :embedded]
        prefix = jnp.broadcast_to(prefix.astype(self.dtype), (batch, *prefix.shape[1:]))

        native = positions[0, embedded:].reshape(self.grid, self.grid, self.width)
        x = x + resample(native, cells).astype(self.dtype)[None]
        x = jnp.concatenate([prefix, x.reshape(batch, -1, self.width)], axis=1)  # [B T D]
        block = rematerialised(Block, self.remat, takes_train=False)
        for index in range(self.depth):
            x = block(self.heads, self.layer_scale, self.dtype, name=f"blocks.{index}")(x)
        x = x[:, ahead:].reshape(batch, *cells, self.width)
        return layer_norm(x, "norm")
