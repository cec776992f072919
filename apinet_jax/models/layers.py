"""Layers of the trunks, as torch defines them, on NHWC arrays.

Parameters and the arithmetic of BatchNorm are float32 whatever the compute `dtype`.
"""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.nn import initializers
from jax.typing import DTypeLike
from jaxtyping import Array, Float, UInt8

from apinet_jax.models.depthwise import depthwise_conv
from apinet_jax.models.operations import Padding, at_least_float32, conv
from apinet_jax.system.errors import InputError

he_normal_fan_out = initializers.variance_scaling(2.0, "fan_out", "normal")
"""torch's `kaiming_normal_(mode="fan_out", nonlinearity="relu")`, not truncated."""

he_normal_fan_in = initializers.variance_scaling(2.0, "fan_in", "normal")
"""torch's `kaiming_normal_()`, not truncated."""

he_uniform = initializers.he_uniform()
"""torch's `kaiming_uniform_(nonlinearity="relu")`."""

torch_default = initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""torch's default: `kaiming_uniform_(a=sqrt(5))`, uniform in +-1/sqrt(fan_in)."""

small_normal = initializers.normal(0.02)
"""timm's `trunc_normal_(std=0.02)`, which truncates at 100 standard deviations."""

Remat = Literal["none", "dots", "full"]


def _is_dot(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive in (lax.dot_general_p, lax.conv_general_dilated_p)


def rematerialised(
    block: type[nn.Module], remat: Remat, takes_train: bool = True
) -> type[nn.Module]:
    """Return a block with rematerialisation: its backward pass recomputes what is not stored.

    Args:
        block: Class of the block.
        remat: `none` stores every activation; `dots` stores the results of convolutions and matrix
            products, and recomputes norms and activations; `full` stores the input of the block.
        takes_train: Whether `train` is the second argument of its call.
    """
    if remat == "none":
        return block
    policy = _is_dot if remat == "dots" else None
    return nn.remat(block, static_argnums=(2,) if takes_train else (), policy=policy)


class Trunk(nn.Module, kw_only=True):
    """A network from normalised images to a feature map, `(images, train) -> [B h w D]`.

    Attributes:
        dtype: Compute dtype.
        batch_norm_groups: Equal parts of the batch with separate BatchNorm statistics; see
            `BatchNorm`.
        remat: Rematerialisation of each block, as for `rematerialised`.
        drop_path: Rate of `drop_path` in the last block, in trunks that have it; it rises linearly
            from 0 in the first block.
    """

    dtype: DTypeLike = jnp.float32
    batch_norm_groups: int = 1
    remat: Remat = "none"
    drop_path: float = 0.0

    def before_pooling(self, feature_map: Float[Array, "B h w D"]) -> Float[Array, "B h w D"]:
        """Return the map whose mean over the cells is the feature of an image.

        This is the feature map, unless the trunk normalises after pooling.
        """
        return feature_map

    def features(self, images: Float[Array, "B H W _"], train: bool) -> Float[Array, "B F"]:
        """Return the features of single images, in float32 or wider: the mean over the cells.

        Raises:
            InputError: The images are so small that the feature map has no cell.
        """
        feature_map = self(images, train)  # [B h w D]
        check_cells(feature_map, images)
        return mean_over_cells(self.before_pooling(feature_map))


def mean_over_cells(feature_map: Float[Array, "B h w D"]) -> Float[Array, "B D"]:
    """Return the mean over the cells of each feature map, in float32 or wider."""
    return jnp.mean(at_least_float32(feature_map), axis=(1, 2))


def check_cells(feature_map: Float[Array, "B h w D"], images: Float[Array, "B H W _"]) -> None:
    """Refuse images that are so small that their feature map has no cell."""
    if 0 in feature_map.shape:
        raise InputError(
            f"images of {images.shape[1]}x{images.shape[2]} are too small for this trunk: its"
            " feature map has no cells; use larger images (data.crop)"
        )


class Conv(nn.Module):
    """torch's `Conv2d` on NHWC, with a square kernel.

    Attributes:
        features: Channels out.
        kernel_size: Side of the kernel.
        stride: Step in both directions.
        padding: Zeros on each of the four sides, or TensorFlow's `SAME`.
        use_bias: Whether a bias is added.
        dtype: Compute dtype; parameters stay float32.
        kernel_init: Initializer of the kernel; the bias starts at zero.
    """

    features: int
    kernel_size: int
    stride: int = 1
    padding: Padding = 0
    use_bias: bool = False
    dtype: DTypeLike = jnp.float32
    kernel_init: initializers.Initializer = he_normal_fan_out

    @nn.compact
    def __call__(self, x: Float[Array, "B H W I"]) -> Float[Array, "B h w O"]:
        """Convolve `x`."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        y = conv(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, self.padding)
        if self.use_bias:
            bias = self.param("bias", initializers.zeros, (self.features,), jnp.float32)
            y = y + bias.astype(self.dtype).reshape(1, 1, 1, -1)
        return y


class DepthwiseConv(nn.Module):
    """torch's `Conv2d` with as many groups as channels: each channel has its own square kernel.

    Attributes:
        kernel_size: Side of the kernels.
        stride: Step in both directions.
        padding: Zeros on each of the four sides, or TensorFlow's `SAME`.
        use_bias: Whether a bias is added.
        dtype: Compute dtype; parameters stay float32.
        kernel_init: Initializer of the kernels; a kernel has `kernel_size`² inputs and outputs.
    """

    kernel_size: int
    stride: int = 1
    padding: Padding = 0
    use_bias: bool = False
    dtype: DTypeLike = jnp.float32
    kernel_init: initializers.Initializer = he_normal_fan_in

    @nn.compact
    def __call__(self, x: Float[Array, "B H W D"]) -> Float[Array, "B h w D"]:
        """Convolve each channel of `x`."""
        shape = (self.kernel_size, self.kernel_size, 1, x.shape[-1])
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        y = depthwise_conv(x, kernel, self.stride, self.padding)
        if self.use_bias:
            bias = self.param("bias", initializers.zeros, (x.shape[-1],), jnp.float32)
            y = y + bias.astype(self.dtype).reshape(1, 1, 1, -1)
        return y


class BatchNorm(nn.Module):
    """torch's `BatchNorm2d`, whose running variance is unbiased, in float32 or wider.

    Attributes:
        groups: Consecutive, equal parts of the batch with separate statistics, as on the devices
            of torch's `DataParallel`. The mean over the groups updates the running statistics. With
            0 groups training uses the running statistics too, and leaves them as they are.
        momentum: Weight of the new batch in the running statistics.
        epsilon: Added to the variance.
        dtype: Dtype of the output.
    """

    groups: int = 1
    momentum: float = 0.1
    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B h w D"], train: bool) -> Float[Array, "B h w D"]:
        """Normalise by the batch statistics when training, otherwise by the running ones.

        Raises:
            InputError: When training, `groups` does not divide the batch, or a group has only one
                value per channel, and so no variance.
        """
        width = x.shape[-1]
        scale = self.param("scale", initializers.ones, (width,), jnp.float32)
        bias = self.param("bias", initializers.zeros, (width,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (width,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (width,), jnp.float32)

        train = train and self.groups > 0
        groups = self.groups if train else 1
        if x.shape[0] % groups:
            raise InputError(
                f"a batch of {x.shape[0]} images does not divide into {groups} BatchNorm groups;"
                " choose a batch size that is a multiple"
            )
        y = at_least_float32(x).reshape(groups, -1, *x.shape[1:])  # [G B/G h w D]

        def by_channel(values: Float[Array, " D"]) -> Float[Array, "1 1 1 1 D"]:
            return values.astype(y.dtype).reshape(1, 1, 1, 1, -1)

        if train:
            count = y[0, ..., 0].size
            if count < 2:
                raise InputError(
                    "BatchNorm cannot train on one value per channel;"
                    " use larger images, or more of them per device"
                )
            mean = y.mean((1, 2, 3), keepdims=True)  # [G 1 1 1 D]
            if x.dtype.itemsize < 4:
                # One pass over memory, which is the bottleneck. The cancellation of E[y²] - E[y]²
                # in float32 is far below the rounding of x, but must not make it negative.
                var = jnp.maximum(jnp.square(y).mean((1, 2, 3), keepdims=True) - mean**2, 0.0)
            else:
                # The gradient through this mean is zero, but would cost a pass over the batch.
                spread = y - lax.stop_gradient(mean)
                var = jnp.square(spread).mean((1, 2, 3), keepdims=True)
            if not self.is_initializing():
                batch_mean = mean.mean((0, 1, 2, 3))  # [D]
                batch_var = var.mean((0, 1, 2, 3)) * (count / (count - 1))
                for running, batch in ((running_mean, batch_mean), (running_var, batch_var)):
                    change = batch.astype(running.value.dtype) - running.value
                    running.value += self.momentum * change
        else:
            mean, var = by_channel(running_mean.value), by_channel(running_var.value)

        factor = by_channel(scale) * lax.rsqrt(var + self.epsilon)
        y = y * factor + (by_channel(bias) - mean * factor)  # torch's order
        return y.reshape(x.shape).astype(self.dtype)


def layer_norm(x: Float[Array, "*B D"], name: str, epsilon: float = 1e-6) -> Float[Array, "*B D"]:
    """Normalise the channels of each cell, in float32 or wider, with parameters under `name`."""
    norm = nn.LayerNorm(epsilon, use_fast_variance=False, name=name)  # the fast formula cancels
    return norm(at_least_float32(x)).astype(x.dtype)


def drop_path(
    block: nn.Module, residual: Float[Array, "B *D"], rate: float
) -> Float[Array, "B *D"]:
    """Drop the residual of some images (stochastic depth, Huang et al., 2016).

    The others are divided by the probability of being kept, so that the mean is the same. Nothing
    is dropped without a `drop_path` random stream, as in evaluation.

    Args:
        block: The module whose residual this is.
        residual: What it adds to its input.
        rate: Probability that the residual of an image is dropped.
    """
    if not rate or not block.has_rng("drop_path"):
        return residual
    shape = (len(residual), *[1] * (residual.ndim - 1))
    kept = jax.random.bernoulli(block.make_rng("drop_path"), 1 - rate, shape)
    return jnp.where(kept, residual / (1 - rate), 0)


def normalise(
    images: UInt8[Array, "B H W 3"] | Float[Array, "B H W 3"],
    mean: Sequence[float],
    std: Sequence[float],
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "B H W 3"]:
    """Return (images / 255 - mean) / std.

    Args:
        images: Pixels, 0 to 255.
        mean: Mean of each channel, for pixels from 0 to 1.
        std: Standard deviation of each channel.
        dtype: Dtype of the result; the arithmetic is float32.
    """
    mean, std = (jnp.asarray(v, jnp.float32).reshape(1, 1, 1, 3) for v in (mean, std))
    return ((images.astype(jnp.float32) / 255.0 - mean) / std).astype(dtype)
