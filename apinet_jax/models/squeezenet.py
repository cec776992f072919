"""SqueezeNet 1.1, equal to torchvision's; modules are named as in its state dict."""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from apinet_jax.models.activations import relu
from apinet_jax.models.layers import Conv, Trunk, he_uniform, rematerialised
from apinet_jax.models.operations import max_pool


class Fire(nn.Module):
    """A module that squeezes to few channels, then expands with parallel 1x1 and 3x3 kernels.

    Attributes:
        squeeze: Channels after squeezing.
        expand: Channels of each of the two expansions, half of the output.
        dtype: Compute dtype.
    """

    squeeze: int
    expand: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B h w I"]) -> Float[Array, "B h w O"]:
        """Return the features of `x`."""

        def conv(features: int, kernel_size: int, name: str) -> Conv:
            return Conv(
                features,
                kernel_size,
                padding=kernel_size // 2,
                use_bias=True,
                dtype=self.dtype,
                kernel_init=he_uniform,
                name=name,
            )

        x = relu(conv(self.squeeze, 1, "squeeze")(x))
        pointwise = conv(self.expand, 1, "expand1x1")(x)
        spatial = conv(self.expand, 3, "expand3x3")(x)
        return relu(jnp.concatenate([pointwise, spatial], axis=-1))


class SqueezeNet(Trunk):
    """The trunk of SqueezeNet 1.1: 512 channels, a cell is 16 pixels wide, no BatchNorm."""

    @nn.compact
    def __call__(self, images: Float[Array, "B H W 3"], train: bool) -> Float[Array, "B h w D"]:
        """Return the feature map of normalised `images`, the same in training and evaluation."""
        del train

        def fire(index: int, squeeze: int, expand: int) -> Fire:
            block = rematerialised(Fire, self.remat, takes_train=False)
            return block(squeeze, expand, self.dtype, name=f"features.{index}")

        x = Conv(
            64,
            kernel_size=3,
            stride=2,
            use_bias=True,
            dtype=self.dtype,
            kernel_init=he_uniform,
            name="features.0",
        )(images)
        x = max_pool(relu(x), window=3, stride=2, ceil_mode=True)
        x = fire(3, 16, 64)(x)
        x = fire(4, 16, 64)(x)
        x = max_pool(x, window=3, stride=2, ceil_mode=True)
        x = fire(6, 32, 128)(x)
        x = fire(7, 32, 128)(x)
        x = max_pool(x, window=3, stride=2, ceil_mode=True)
        x = fire(9, 48, 192)(x)
        x = fire(10, 48, 192)(x)
        x = fire(11, 64, 256)(x)
        return fire(12, 64, 256)(x)
