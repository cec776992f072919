"""The layers that the trunks are built of, as torch defines them, on NHWC arrays.

Parameters and BatchNorm's arithmetic are float32 whatever the compute `dtype`.
"""

from collections.abc import Sequence
from typing import Any, Literal

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.nn import initializers
from jax.typing import DTypeLike
from jaxtyping import Array, Float, UInt8

from apinet_jax.models.operations import at_least_float32, conv
from apinet_jax.system.errors import InputError

he_normal_fan_out = initializers.variance_scaling(2.0, "fan_out", "normal")
"""torch's `kaiming_normal_(mode="fan_out", nonlinearity="relu")`, not truncated."""

he_normal_fan_in = initializers.variance_scaling(2.0, "fan_in", "normal")
"""torch's `kaiming_normal_()`, not truncated."""

he_uniform = initializers.he_uniform()
"""torch's `kaiming_uniform_(nonlinearity="relu")`."""

torch_default = initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""How torch's layers start by themselves: `kaiming_uniform_(a=sqrt(5))`, +-1/sqrt(fan_in)."""


Remat = Literal["none", "dots", "full"]


def _is_dot(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive in (lax.dot_general_p, lax.conv_general_dilated_p)


def rematerialised(
    block: type[nn.Module], remat: Remat, takes_train: bool = True
) -> type[nn.Module]:
    """A block whose backward pass makes again what the forward pass does not keep.

    Args:
        block: Its class.
        remat: `none` keeps everything; `dots` keeps what convolutions and matrix products return,
            and makes norms and activations again; `full` keeps the block's input alone.
        takes_train: Whether `train` is the second argument of its call.
    """
    if remat == "none":
        return block
    policy = _is_dot if remat == "dots" else None
    return nn.remat(block, static_argnums=(2,) if takes_train else (), policy=policy)


class Conv(nn.Module):
    """torch's `Conv2d` on NHWC, with a square kernel.

    Attributes:
        features: Channels out.
        kernel_size: Side of the kernel.
        stride: Step in both directions.
        padding: Zeros on each of the four sides.
        use_bias: Whether a bias is added.
        dtype: Compute dtype; parameters stay float32.
        kernel_init: Initializer of the kernel; the bias starts at zero.
    """

    features: int
    kernel_size: int
    stride: int = 1
    padding: int = 0
    use_bias: bool = False
    dtype: DTypeLike = jnp.float32
    kernel_init: initializers.Initializer = he_normal_fan_out

    @nn.compact
    def __call__(self, x: Float[Array, "B H W I"]) -> Float[Array, "B h w O"]:
        """Convolves `x`."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        y = conv(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, self.padding)
        if self.use_bias:
            bias = self.param("bias", initializers.zeros, (self.features,), jnp.float32)
            y = y + bias.astype(self.dtype).reshape(1, 1, 1, -1)
        return y


class BatchNorm(nn.Module):
    """torch's `BatchNorm2d`, whose running variance is unbiased, in float32 or wider.

    Attributes:
        groups: Consecutive, equal parts of the batch that are normalised by their own statistics,
            as the devices of torch's `DataParallel` do. The running statistics move once, by the
            mean over the groups.
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
        """Normalises by the batch's statistics when training, else by the running ones.

        Raises:
            InputError: When training, `groups` does not divide the batch, or a group has a single
                value a channel, whose variance says nothing.
        """
        width = x.shape[-1]
        scale = self.param("scale", initializers.ones, (width,), jnp.float32)
        bias = self.param("bias", initializers.zeros, (width,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (width,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (width,), jnp.float32)

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
                    "BatchNorm cannot train on one value a channel;"
                    " use larger images or more of them a device"
                )
            mean = y.mean((1, 2, 3), keepdims=True)  # [G 1 1 1 D]
            if x.dtype.itemsize < 4:
                # One pass, as memory is what bounds it. What E[y²] - E[y]² cancels in float32 is
                # far below what x lost when it was rounded; below zero it must not get.
                var = jnp.maximum(jnp.square(y).mean((1, 2, 3), keepdims=True) - mean**2, 0.0)
            else:
                # The mean's part of the gradient is zero, and a pass over the batch to compute.
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


def normalise(
    images: UInt8[Array, "B H W 3"],
    mean: Sequence[float],
    std: Sequence[float],
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "B H W 3"]:
    """Maps bytes to what a trunk was trained on: (images / 255 - mean) / std.

    Args:
        images: Pixels, 0 to 255.
        mean: Mean of each channel, of pixels in [0, 1].
        std: Standard deviation of each channel.
        dtype: Dtype of the result; the arithmetic is float32.

    Returns:
        The normalised images.
    """
    mean, std = (jnp.asarray(v, jnp.float32).reshape(1, 1, 1, 3) for v in (mean, std))
    return ((images.astype(jnp.float32) / 255.0 - mean) / std).astype(dtype)
