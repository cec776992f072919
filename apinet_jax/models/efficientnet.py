"""EfficientNet-Lite trunks, equal to timm's `tf_efficientnet_lite0` to `lite4`, and named alike.

They have no squeeze-and-excitation and no swish. TensorFlow's `SAME` padding adds the odd pixel
after the image, so where a cell is depends on the size of the image.
"""

from functools import partial
from math import ceil

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from apinet_jax.models.activations import relu6
from apinet_jax.models.layers import (
    BatchNorm,
    Conv,
    DepthwiseConv,
    Trunk,
    rematerialised,
)
from apinet_jax.models.operations import pads_of, stored

EPSILON = 1e-3  # of every BatchNorm, as in TensorFlow; timm's momentum is torch's
STEM, HEAD = 32, 1280  # channels, the same in all five
# (kernel size, stride, expansion, channels, blocks) of each stage of Lite0.
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)


def first_cell(side: int) -> float:
    """Return the pixel at the centre of what the first cell sees, in an image of `side` pixels.

    It is the pixel under the middle taps of all kernels: where `SAME` padding adds one zero less
    before an image than after it, all windows are one pixel further.
    """
    pixel, step = 0, 1
    for kernel_size, stride, *_ in ((3, 2), *STAGES):  # later blocks of a stage change nothing
        before, _ = pads_of("SAME", (side, side), kernel_size, stride)[0]
        pixel += step * (kernel_size // 2 - before)
        side, step = ceil(side / stride), step * stride
    return float(pixel)


class InvertedResidual(nn.Module):
    """A 1x1 expansion, a depthwise convolution and a linear 1x1 projection.

    Attributes:
        width: Channels out.
        kernel_size: Side of the depthwise kernel.
        stride: Step of the depthwise convolution.
        expansion: Channels of the depthwise convolution, in units of the channels in; with 1 there
            is no expansion.
        dtype: Compute dtype.
        batch_norm_groups: Equal parts of the batch with separate BatchNorm statistics.
    """

    width: int
    kernel_size: int
    stride: int
    expansion: int
    dtype: DTypeLike = jnp.float32
    batch_norm_groups: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "B H W I"], train: bool) -> Float[Array, "B h w O"]:
        """Return the projection, added to `x` if the block preserves its shape."""
        norm = partial(BatchNorm, self.batch_norm_groups, epsilon=EPSILON, dtype=self.dtype)
        y, expands = x, self.expansion > 1
        if expands:
            y = Conv(self.expansion * x.shape[-1], 1, dtype=self.dtype, name="conv_pw")(y)
            y = relu6(norm(name="bn1")(y, train))
        y = DepthwiseConv(
            self.kernel_size, self.stride, padding="SAME", dtype=self.dtype, name="conv_dw"
        )(y)
        y = relu6(norm(name="bn2" if expands else "bn1")(y, train))
        y = Conv(self.width, 1, dtype=self.dtype, name="conv_pwl" if expands else "conv_pw")(y)
        y = norm(name="bn3" if expands else "bn2")(y, train)
        return stored(x + y) if x.shape == y.shape else y


class EfficientNetLite(Trunk):
    """The trunk of an EfficientNet-Lite: 1280 channels, a cell is 32 pixels wide.

    Attributes:
        width_factor: Channels of the blocks, in units of those of Lite0.
        depth_factor: Blocks of the stages between the first and the last, in units of Lite0's.
    """

    width_factor: float = 1.0
    depth_factor: float = 1.0

    @nn.compact
    def __call__(self, images: Float[Array, "B H W 3"], train: bool) -> Float[Array, "B h w D"]:
        """Return the feature map of normalised `images`; update `batch_stats` when training."""
        norm = partial(BatchNorm, self.batch_norm_groups, epsilon=EPSILON, dtype=self.dtype)
        x = Conv(STEM, 3, stride=2, padding="SAME", dtype=self.dtype, name="conv_stem")(images)
        x = relu6(norm(name="bn1")(x, train))
        block = rematerialised(InvertedResidual, self.remat)
        for stage, (kernel_size, stride, expansion, width, depth) in enumerate(STAGES):
            scaled = 0 < stage < len(STAGES) - 1
            for index in range(ceil(depth * self.depth_factor) if scaled else depth):
                x = block(
                    _multiple_of_8(width * self.width_factor),
                    kernel_size,
                    stride if index == 0 else 1,
                    expansion,
                    self.dtype,
                    self.batch_norm_groups,
                    name=f"blocks.{stage}.{index}",
                )(x, train)
        x = Conv(HEAD, 1, dtype=self.dtype, name="conv_head")(x)
        return relu6(norm(name="bn2")(x, train))


def _multiple_of_8(width: float) -> int:
    """Round a number of channels to a multiple of 8, but not down by more than a tenth."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * width else rounded + 8
