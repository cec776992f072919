"""Depthwise convolution, fast on CPUs too: each channel has its own kernel.

XLA's CPU backend computes grouped convolutions and their gradients with slow loops. There the sum
over the taps of the kernel is elementwise code, and so are both gradients. `by_platform` selects.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from apinet_jax.models.operations import (
    KERNEL_LAYOUT,
    Padding,
    Pads,
    at_least_float32,
    by_platform,
    pads_of,
)


def depthwise_conv(
    x: Float[Array, "B H W D"], kernel: Float[Array, "k k 1 D"], stride: int, padding: Padding
) -> Float[Array, "B h w D"]:
    """Convolve each channel with its own kernel, in the fastest formulation for the platform."""
    pads = pads_of(padding, x.shape[1:3], kernel.shape[0], stride)
    return by_platform(
        cpu=lambda x, kernel: summed_depthwise_conv(x, kernel, stride, pads),
        default=partial(plain_depthwise_conv, stride=stride, pads=pads),
    )(x, kernel)


def plain_depthwise_conv(
    x: Float[Array, "B H W D"], kernel: Float[Array, "k k 1 D"], stride: int, pads: Pads
) -> Float[Array, "B h w D"]:
    """Convolve as one grouped XLA convolution; `pads` are (before, after) of H and W."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        pads,
        dimension_numbers=KERNEL_LAYOUT,
        feature_group_count=x.shape[-1],
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def summed_depthwise_conv(
    x: Float[Array, "B H W D"], kernel: Float[Array, "k k 1 D"], stride: int, pads: Pads
) -> Float[Array, "B h w D"]:
    """Convolve as a sum of shifted images, one for each tap of the kernel, in float32 or wider."""
    return _sum_of_taps(jnp.pad(x, ((0, 0), *pads, (0, 0))), kernel, stride)


def _forward(x, kernel, stride, pads):
    return summed_depthwise_conv(x, kernel, stride, pads), (x, kernel)


def _backward(stride, pads, residuals, cotangent):
    x, kernel = residuals
    return (
        _image_gradient(cotangent, kernel, stride, pads, x.shape[1:3]),
        _kernel_gradient(cotangent, x, stride, pads, kernel.shape[0]).astype(kernel.dtype),
    )


summed_depthwise_conv.defvjp(_forward, _backward)


def _sum_of_taps(
    x: Float[Array, "B H W D"], kernel: Float[Array, "k k 1 D"], stride: int
) -> Float[Array, "B h w D"]:
    """Convolve an image that has its padding."""
    side = kernel.shape[0]
    h, w = ((size - side) // stride + 1 for size in x.shape[1:3])
    taps = at_least_float32(kernel)[:, :, :, None, None]  # [k k 1 1 1 D]
    y = None
    for top in range(side):
        rows = slice(top, top + stride * (h - 1) + 1, stride)
        for left in range(side):
            columns = slice(left, left + stride * (w - 1) + 1, stride)
            product = at_least_float32(x[:, rows, columns]) * taps[top, left]  # [B h w D]
            y = product if y is None else y + product
    return y.astype(x.dtype)


def _image_gradient(
    cotangent: Float[Array, "B h w D"],
    kernel: Float[Array, "k k 1 D"],
    stride: int,
    pads: Pads,
    size: tuple[int, int],
) -> Float[Array, "B H W D"]:
    """Convolve the cotangent, spread out by the stride, with the turned kernel."""
    side = kernel.shape[0]
    zeros = [(0, 0, 0)]
    for (before, _), length, cells in zip(pads, size, cotangent.shape[1:3], strict=True):
        low, spread = side - 1 - before, stride * (cells - 1) + 1
        zeros.append((low, length + side - 1 - low - spread, stride - 1))
    spread_out = lax.pad(cotangent, cotangent.dtype.type(0), [*zeros, (0, 0, 0)])
    return _sum_of_taps(spread_out, kernel[::-1, ::-1], stride=1)


def _kernel_gradient(
    cotangent: Float[Array, "B h w D"],
    x: Float[Array, "B H W D"],
    stride: int,
    pads: Pads,
    side: int,
) -> Float[Array, "k k 1 D"]:
    """Sum the products of cotangent and shifted images, row by row of four images at a time.

    A loop over rows stays within the processor's cache, and adds whole rows: a plain `sum` over
    images, rows and columns would write each shifted image to memory, and add number by number.
    One row is too little work for XLA to divide among threads. The images of a loop's step are a
    quarter of the batch apart, so that devices that share the batch have their own.
    """
    batch, h, w, features = cotangent.shape
    at_once = math.gcd(batch, 4)
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    x, cotangent = (
        rows.reshape(at_once, batch // at_once, *rows.shape[1:]) for rows in (x, cotangent)
    )

    def add_row(index, sums):
        image, row = index // h, index % h
        window = lax.dynamic_slice_in_dim(x, image, 1, axis=1)[:, 0]
        window = lax.dynamic_slice_in_dim(window, stride * row, side, axis=1)  # [n k W D]
        size = (at_once, 1, 1, w, features)
        row = lax.dynamic_slice(cotangent, (0, image, row, 0, 0), size)[:, 0]  # [n 1 w D]
        window, row = at_least_float32(window), at_least_float32(row)
        return tuple(
            total + window[:, :, left : left + stride * (w - 1) + 1 : stride] * row
            for left, total in enumerate(sums)
        )

    zeros = jnp.zeros((at_once, side, w, features), at_least_float32(cotangent).dtype)
    sums = lax.fori_loop(0, batch // at_once * h, add_row, (zeros,) * side)
    return jnp.stack([total.sum((0, 2)) for total in sums], 1)[:, :, None]
