"""ConvNeXt trunks, equal to timm's; modules and parameters are named as in its state dict."""

from collections.abc import Sequence
from functools import partial

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.nn import initializers
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from apinet_jax.models.layers import (
    Conv,
    DepthwiseConv,
    Trunk,
    drop_path,
    layer_norm,
    rematerialised,
    small_normal,
)
from apinet_jax.models.operations import at_least_float32, stored

PATCH, KERNEL, MLP_RATIO = 4, 7, 4
EPSILON = 1e-6  # of the norms


class Block(nn.Module):
    """A depthwise convolution and an MLP on each cell, scaled per channel, added to the input.

    Attributes:
        drop_path: Rate of `drop_path`.
        dtype: Compute dtype.
    """

    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B h w D"]) -> Float[Array, "B h w D"]:
        """Add the residual to `x`."""
        width = x.shape[-1]
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=small_normal)
        depthwise = DepthwiseConv(
            KERNEL,
            padding=KERNEL // 2,
            use_bias=True,
            dtype=self.dtype,
            kernel_init=small_normal,
            name="conv_dw",
        )
        y = depthwise(x)
        y = dense(MLP_RATIO * width, name="mlp.fc1")(layer_norm(y, "norm", EPSILON))
        y = dense(width, name="mlp.fc2")(nn.gelu(y, approximate=False))
        gamma = self.param("gamma", initializers.constant(1e-6), (width,), jnp.float32)
        y = y * gamma.astype(self.dtype).reshape(1, 1, 1, -1)
        return stored(x + drop_path(self, y, self.drop_path))


class ConvNeXt(Trunk):
    """The trunk of a ConvNeXt; a cell is 32 pixels wide. There is no BatchNorm.

    Rows and columns of pixels or cells that fill no patch are left out, as in timm.

    Attributes:
        depths: Blocks of each stage.
        widths: Channels of each stage.
    """

    depths: Sequence[int]
    widths: Sequence[int]

    def setup(self) -> None:
        """Define the parameters of the norm after pooling."""
        shape = (self.widths[-1],)
        self.head_scale = self.param("head.norm.weight", initializers.ones, shape, jnp.float32)
        self.head_bias = self.param("head.norm.bias", initializers.zeros, shape, jnp.float32)

    @nn.compact
    def __call__(self, images: Float[Array, "B H W 3"], train: bool) -> Float[Array, "B h w D"]:
        """Return timm's `forward_features`, before the last norm; it ignores `train`."""
        del train
        patches = partial(Conv, use_bias=True, dtype=self.dtype, kernel_init=small_normal)
        x = patches(self.widths[0], PATCH, stride=PATCH, name="stem.0")(images)
        x = layer_norm(x, "stem.1", EPSILON)
        block = rematerialised(Block, self.remat, takes_train=False)
        rates = iter(np.linspace(0, self.drop_path, sum(self.depths)).tolist())
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            name = f"stages.{stage}"
            if stage:
                x = layer_norm(x, f"{name}.downsample.0", EPSILON)
                x = patches(width, 2, stride=2, name=f"{name}.downsample.1")(x)
            for index in range(depth):
                x = block(next(rates), self.dtype, name=f"{name}.blocks.{index}")(x)
        return x

    def before_pooling(self, feature_map: Float[Array, "B h w D"]) -> Float[Array, "B h w D"]:
        """Return the feature map, normalised so that its mean is timm's pooled feature.

        timm applies a LayerNorm to the mean over the cells. It divides by the deviation of the
        mean, one number for each image. Dividing each cell by this number instead has the same
        mean, so a linear classifier is a sum over cells here too.
        """
        x = at_least_float32(feature_map)
        x = x - x.mean(-1, keepdims=True)
        mean = x.mean((1, 2), keepdims=True)  # [B 1 1 D]
        deviation = jnp.sqrt(jnp.square(mean).mean(-1, keepdims=True) + EPSILON)
        scale, bias = (
            values.astype(x.dtype).reshape(1, 1, 1, -1)
            for values in (self.head_scale, self.head_bias)
        )
        return x / deviation * scale + bias
