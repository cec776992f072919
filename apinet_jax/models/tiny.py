"""A trunk for tests of everything around it: it compiles fast and learns little."""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from apinet_jax.models.activations import relu
from apinet_jax.models.layers import BatchNorm, Conv, Trunk, rematerialised


class Layer(nn.Module):
    """A strided convolution, BatchNorm and ReLU.

    Attributes:
        width: Channels out.
        dtype: Compute dtype.
        batch_norm_groups: Equal parts of the batch with separate BatchNorm statistics.
    """

    width: int
    dtype: DTypeLike = jnp.float32
    batch_norm_groups: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "B H W I"], train: bool) -> Float[Array, "B h w O"]:
        """Return the features of `x`."""
        x = Conv(self.width, 3, stride=4, padding=1, dtype=self.dtype, name="conv1")(x)
        return relu(BatchNorm(self.batch_norm_groups, dtype=self.dtype, name="bn1")(x, train))


class Tiny(Trunk):
    """One layer with the interface and parameter names of a ResNet; a cell is 4 pixels wide.

    Attributes:
        width: Channels of the feature map.
    """

    width: int = 16

    @nn.compact
    def __call__(self, images: Float[Array, "B H W 3"], train: bool) -> Float[Array, "B h w D"]:
        """Return the feature map of normalised `images`."""
        layer = rematerialised(Layer, self.remat)
        return layer(self.width, self.dtype, self.batch_norm_groups, name="layer1.0")(images, train)
