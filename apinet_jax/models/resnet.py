"""ResNet trunks, equal to torchvision's; modules are named as in its state dict."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from apinet_jax.models.activations import relu
from apinet_jax.models.layers import BatchNorm, Conv, Trunk, rematerialised
from apinet_jax.models.operations import max_pool


class Block(nn.Module):
    """The common part of the two kinds of residual block.

    Attributes:
        width: Channels of its 3x3 convolution.
        stride: Step of its 3x3 convolution and of its shortcut.
        dtype: Compute dtype.
        batch_norm_groups: Equal parts of the batch with separate BatchNorm statistics.
    """

    width: int
    stride: int = 1
    dtype: DTypeLike = jnp.float32
    batch_norm_groups: int = 1

    expansion = 1  # channels out, in units of `width`

    def conv(self, features: int, kernel_size: int, name: str, stride: int = 1) -> Conv:
        """Return a convolution that preserves the size up to `stride`."""
        padding = kernel_size // 2
        return Conv(features, kernel_size, stride, padding, dtype=self.dtype, name=name)

    def norm(self, name: str) -> BatchNorm:
        """Return a BatchNorm."""
        return BatchNorm(self.batch_norm_groups, dtype=self.dtype, name=name)

    def shortcut(self, x: Float[Array, "B H W I"], train: bool) -> Float[Array, "B h w O"]:
        """Return `x`, projected where the block changes its shape."""
        features = self.width * self.expansion
        if self.stride == 1 and x.shape[-1] == features:
            return x
        x = self.conv(features, 1, "downsample.0", self.stride)(x)
        return self.norm("downsample.1")(x, train)


class BasicBlock(Block):
    """Two 3x3 convolutions (ResNet-18 and -34)."""

    @nn.compact
    def __call__(self, x: Float[Array, "B H W I"], train: bool) -> Float[Array, "B h w O"]:
        """Add the residual to `x`."""
        y = self.conv(self.width, 3, "conv1", self.stride)(x)
        y = relu(self.norm("bn1")(y, train))
        y = self.conv(self.width, 3, "conv2")(y)
        y = self.norm("bn2")(y, train)
        return relu(y + self.shortcut(x, train))


class Bottleneck(Block):
    """1x1, 3x3 and 1x1 convolutions; the stride is on the 3x3, as in torchvision."""

    expansion = 4

    @nn.compact
    def __call__(self, x: Float[Array, "B H W I"], train: bool) -> Float[Array, "B h w O"]:
        """Add the residual to `x`."""
        y = self.conv(self.width, 1, "conv1")(x)
        y = relu(self.norm("bn1")(y, train))
        y = self.conv(self.width, 3, "conv2", self.stride)(y)
        y = relu(self.norm("bn2")(y, train))
        y = self.conv(self.width * self.expansion, 1, "conv3")(y)
        y = self.norm("bn3")(y, train)
        return relu(y + self.shortcut(x, train))


class ResNet(Trunk):
    """The trunk of a ResNet; a cell is 32 pixels wide.

    Attributes:
        block: Class of the blocks.
        depths: Blocks in each stage.
        width: Channels of the stem and the first stage; every later stage doubles them.
    """

    block: type[Block]
    depths: Sequence[int]
    width: int = 64

    @nn.compact
    def __call__(self, images: Float[Array, "B H W 3"], train: bool) -> Float[Array, "B h w D"]:
        """Return the feature map of normalised `images`; update `batch_stats` when training."""
        x = Conv(self.width, 7, stride=2, padding=3, dtype=self.dtype, name="conv1")(images)
        x = BatchNorm(self.batch_norm_groups, dtype=self.dtype, name="bn1")(x, train)
        x = max_pool(relu(x), window=3, stride=2, padding=1)
        block = rematerialised(self.block, self.remat)
        for stage, depth in enumerate(self.depths):
            for index in range(depth):
                x = block(
                    width=self.width * 2**stage,
                    stride=2 if stage > 0 and index == 0 else 1,
                    dtype=self.dtype,
                    batch_norm_groups=self.batch_norm_groups,
                    name=f"layer{stage + 1}.{index}",
                )(x, train)
        return x
