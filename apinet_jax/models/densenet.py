"""DenseNet trunks, equal to torchvision's; modules are named as in its state dict."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from apinet_jax.models.activations import relu
from apinet_jax.models.layers import BatchNorm, Conv, Trunk, he_normal_fan_in, rematerialised
from apinet_jax.models.operations import avg_pool, max_pool

BOTTLENECK = 4  # channels between the two convolutions of a layer, as a multiple of the growth


class DenseLayer(nn.Module):
    """A layer that computes a few new channels from all previous ones, with a 1x1 bottleneck.

    Attributes:
        growth: Channels out.
        dtype: Compute dtype.
        batch_norm_groups: Equal parts of the batch with separate BatchNorm statistics.
    """

    growth: int
    dtype: DTypeLike = jnp.float32
    batch_norm_groups: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "B h w I"], train: bool) -> Float[Array, "B h w O"]:
        """Return the new channels only."""
        for index, (features, kernel_size) in enumerate(
            [(BOTTLENECK * self.growth, 1), (self.growth, 3)], start=1
        ):
            norm = BatchNorm(self.batch_norm_groups, dtype=self.dtype, name=f"norm{index}")
            x = Conv(
                features,
                kernel_size,
                padding=kernel_size // 2,
                dtype=self.dtype,
                kernel_init=he_normal_fan_in,
                name=f"conv{index}",
            )(relu(norm(x, train)))
        return x


class DenseNet(Trunk):
    """The trunk of a DenseNet, up to its last ReLU; a cell is 32 pixels wide.

    Attributes:
        depths: Layers in each dense block.
        growth: Channels that every layer adds.
        width: Channels of the stem.
    """

    depths: Sequence[int]
    growth: int = 32
    width: int = 64

    @nn.compact
    def __call__(self, images: Float[Array, "B H W 3"], train: bool) -> Float[Array, "B h w D"]:
        """Return the feature map of normalised `images`; update `batch_stats` when training."""
        shared = {"dtype": self.dtype, "kernel_init": he_normal_fan_in}

        def norm_relu(x: Float[Array, "B h w D"], name: str) -> Float[Array, "B h w D"]:
            norm = BatchNorm(self.batch_norm_groups, dtype=self.dtype, name=f"features.{name}")
            return relu(norm(x, train))

        x = Conv(self.width, 7, stride=2, padding=3, name="features.conv0", **shared)(images)
        x = max_pool(norm_relu(x, "norm0"), window=3, stride=2, padding=1)
        dense_layer = rematerialised(DenseLayer, self.remat)
        for block, depth in enumerate(self.depths, start=1):
            for index in range(1, depth + 1):
                layer = dense_layer(
                    self.growth,
                    self.dtype,
                    self.batch_norm_groups,
                    name=f"features.denseblock{block}.denselayer{index}",
                )
                x = jnp.concatenate([x, layer(x, train)], axis=-1)
            if block < len(self.depths):  # a transition: half the channels, half the side
                x = norm_relu(x, f"transition{block}.norm")
                name = f"features.transition{block}.conv"
                x = avg_pool(Conv(x.shape[-1] // 2, 1, name=name, **shared)(x), window=2)
        return norm_relu(x, "norm5")
