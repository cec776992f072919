"""Vision transformers, equal to timm's; every module and parameter has its name in timm's."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn import initializers
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from apinet_jax.models.layers import Conv, Remat, rematerialised, torch_default
from apinet_jax.models.operations import at_least_float32
from apinet_jax.system.errors import InputError

MLP_RATIO = 4
small_normal = initializers.normal(0.02)


@jax.checkpoint
def attention(
    query: Float[Array, "B T heads E"],
    key: Float[Array, "B T heads E"],
    value: Float[Array, "B T heads E"],
) -> Float[Array, "B T heads E"]:
    """Softmax attention of every token to all, with the softmax in float32 or wider.

    The weights, [B heads T T], are made again in the backward pass: kept for every block, they
    would be half of the memory of a step on large images. (Compilers for CPUs keep them all the
    same.)
    """
    wide = at_least_float32(query).dtype
    query = query * query.shape[-1] ** -0.5
    logits = jnp.einsum("bqhe,bkhe->bhqk", query, key, preferred_element_type=wide)
    return jnp.einsum("bhqk,bkhe->bqhe", nn.softmax(logits).astype(value.dtype), value)


def resample(grid: Float[Array, "h w D"], size: tuple[int, int]) -> Float[Array, "rows columns D"]:
    """Stretches a grid of position embeddings over another number of cells.

    Bicubic (a = -0.5), with a wider kernel where the grid shrinks, as timm does it: torch's
    `interpolate(mode="bicubic", antialias=True)`.

    Args:
        grid: The embeddings that the weights hold.
        size: Rows and columns to make.

    Returns:
        The embeddings of the new cells; those of `grid` where the size is its own.
    """
    return jax.image.resize(grid, (*size, grid.shape[-1]), "cubic", antialias=True)


def check_sides(patch: int, height: int, width: int) -> None:
    """Refuses images that patches do not fill.

    Raises:
        InputError: A side of the images is no multiple of the patch.
    """
    if height % patch or width % patch:
        below = max(1, min(height, width) // patch) * patch
        raise InputError(
            f"images of {height}x{width} do not divide into patches of {patch}; choose a multiple,"
            f" for instance --config.data.crop={below}"
        )


def layer_norm(x: Float[Array, "*B D"], name: str) -> Float[Array, "*B D"]:
    """Normalises the channels of each token, in float32 or wider, with parameters under `name`."""
    norm = nn.LayerNorm(1e-6, use_fast_variance=False, name=name)  # the fast formula cancels
    return norm(at_least_float32(x)).astype(x.dtype)


class Block(nn.Module):
    """Attention, then an MLP, each after a LayerNorm and added to what came in.

    Attributes:
        heads: Attention heads.
        layer_scale: Whether what is added is scaled by channel, almost to nothing at first.
        dtype: Compute dtype.
    """

    heads: int
    layer_scale: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Maps the tokens `x`."""
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


class ViT(nn.Module):
    """The trunk of a vision transformer: its patch tokens after the last norm, as a feature map.

    Class and register tokens take part in the attention and are then left out. Images may have any
    sides that are multiples of the patch: the position embeddings are resampled to their grid.

    Attributes:
        patch: Side of a patch; so many times fewer cells a side.
        grid: Cells a side that the weights have position embeddings for.
        registers: Register tokens, beside the class token.
        layer_scale: Whether the blocks scale by channel what they add.
        embed_prefix: Whether class and register tokens have position embeddings, the first ones.
        width: Channels of a token.
        depth: Blocks.
        heads: Attention heads.
        dtype: Compute dtype.
        batch_norm_groups: Part of every trunk's interface; this one has no BatchNorm.
        remat: What a block keeps for its backward pass.
    """

    patch: int
    grid: int
    registers: int = 0
    layer_scale: bool = False
    embed_prefix: bool = True
    width: int = 768
    depth: int = 12
    heads: int = 12
    dtype: DTypeLike = jnp.float32
    batch_norm_groups: int = 1
    remat: Remat = "none"

    @nn.compact
    def __call__(self, images: Float[Array, "B H W 3"], train: bool) -> Float[Array, "B h w D"]:
        """Returns the feature map of normalised `images`, the same whether training or not.

        Raises:
            InputError: A side of the images is no multiple of the patch.
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
