"""Convolution and pooling as pure functions, with torch's arithmetic, fast on every platform.

Padding is torch's, symmetric and integer. Trunks from TensorFlow ask for its `SAME`, which shifts a
strided window by a pixel. The gradients of some operations are slow on XLA's CPU backend, so these
have a second formulation for it. `lax.platform_dependent` selects it when a program is lowered: a
program compiled for a TPU on a host without one gets the TPU's formulation.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

KERNEL_LAYOUT = ("NHWC", "HWIO", "NHWC")

Padding = int | Literal["SAME"]
"""Zeros on each of the four sides, or as many as TensorFlow adds, the odd one after the image."""

Pads = tuple[tuple[int, int], tuple[int, int]]
"""Zeros before and after, vertically and horizontally."""


_PORTABLE: ContextVar[bool] = ContextVar("portable", default=False)


@contextmanager
def portable_operations() -> Iterator[None]:
    """Trace only operations that other runtimes have, whatever the platform; not differentiable."""
    token = _PORTABLE.set(True)
    try:
        yield
    finally:
        _PORTABLE.reset(token)


def is_portable() -> bool:
    """Return whether `portable_operations` is in effect."""
    return _PORTABLE.get()


def by_platform(cpu: Callable, default: Callable, portable: Callable | None = None) -> Callable:
    """Return a function that selects one of two formulations by platform; reverse-mode only.

    Differentiating through `platform_dependent` would store the residuals of both branches. Here
    only the arguments are stored, and the backward pass differentiates the selected branch.

    Args:
        cpu: The formulation that is fast on CPUs.
        default: The formulation for every other platform, with the same values and gradients.
        portable: The formulation for other runtimes; `default` if not given.
    """
    if is_portable():
        return portable or default

    @jax.custom_vjp
    def function(*arguments):
        return lax.platform_dependent(*arguments, cpu=cpu, default=default)

    def forward(*arguments):
        return function(*arguments), arguments

    def backward(arguments, cotangent):
        def pull_back(branch, cotangent, *arguments):
            return jax.vjp(branch, *arguments)[1](cotangent)

        return lax.platform_dependent(
            cotangent,
            *arguments,
            cpu=partial(pull_back, cpu),
            default=partial(pull_back, default),
        )

    function.defvjp(forward, backward)
    return function


def stored(x: Float[Array, "*S"]) -> Float[Array, "*S"]:
    """Return `x`; on CPUs, neither it nor its gradient is computed again by whatever reads it.

    XLA's CPU backend fuses elementwise operations into all that read them. In a trunk with
    residuals, each block would then sum those of all blocks before it, and each gradient those of
    all blocks after it. `compiler_options` has XLA keep this barrier until it has fused.
    """
    return by_platform(cpu=lax.optimization_barrier, default=_same)(x)


def _same(x: Array) -> Array:
    return x


def pads_of(padding: Padding, size: tuple[int, int], kernel_size: int, stride: int) -> Pads:
    """Return the zeros that a convolution adds around images of a size (height, width)."""
    if padding == "SAME":
        return tuple(lax.padtype_to_pads(size, (kernel_size,) * 2, (stride,) * 2, padding))
    return ((padding, padding),) * 2


def plain_conv(
    x: Float[Array, "B H W I"], kernel: Float[Array, "kh kw I O"], stride: int, padding: Padding
) -> Float[Array, "B h w O"]:
    """Convolve as torch, or with TensorFlow's `SAME`, as one XLA convolution."""
    pads = pads_of(padding, x.shape[1:3], kernel.shape[0], stride)
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), pads, dimension_numbers=KERNEL_LAYOUT
    )


def pointwise_conv(
    x: Float[Array, "B H W I"], kernel: Float[Array, "1 1 I O"], stride: int
) -> Float[Array, "B h w O"]:
    """Convolve with a 1x1 kernel as one matrix product over all cells."""
    x = x[:, ::stride, ::stride]
    cells = x.reshape(-1, x.shape[-1])  # [B·h·w I]
    return (cells @ kernel[0, 0]).reshape(*x.shape[:-1], kernel.shape[-1])


def classifier_product(
    x: Float[Array, "*P D"], kernel: Float[Array, "D C"], *_: Any, **__: Any
) -> Float[Array, "*P C"]:
    """Multiply features by the kernel of a classifier, in the fastest formulation."""
    return by_platform(cpu=_narrow_product, default=jnp.matmul)(x, kernel)


@jax.custom_vjp
def _narrow_product(x: Float[Array, "*P D"], kernel: Float[Array, "D C"]) -> Float[Array, "*P C"]:
    """Multiply by a matrix of few columns.

    XLA's CPU backend is slow at products whose left side is transposed, as in the gradient of the
    kernel. Here the narrow gradient of the result is transposed in memory, which is cheap.
    """
    return x @ kernel


def _keep_factors(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return x @ kernel, (x, kernel)


def _narrow_backward(kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = kept
    columns = lax.optimization_barrier(jnp.moveaxis(gradient, -1, 0))  # [C *P]
    rows = range(x.ndim - 1)
    of_kernel = lax.dot_general(columns, x, (([1 + axis for axis in rows], rows), ((), ())))
    return gradient @ kernel.T, of_kernel.T


_narrow_product.defvjp(_keep_factors, _narrow_backward)


def patch_conv(
    x: Float[Array, "B H W I"], kernel: Float[Array, "p p I O"]
) -> Float[Array, "B h w O"]:
    """Convolve patches without overlap or gap as one matrix product."""
    batch, height, width, channels = x.shape
    p, _, _, features = kernel.shape
    h, w = height // p, width // p
    x = x.reshape(batch, h, p, w, p, channels).swapaxes(2, 3)  # [B h w p p I]
    patches = x.reshape(batch * h * w, p * p * channels)  # -1 fails where there is no patch
    return (patches @ kernel.reshape(-1, features)).reshape(batch, h, w, features)


def conv(
    x: Float[Array, "B H W I"], kernel: Float[Array, "kh kw I O"], stride: int, padding: Padding
) -> Float[Array, "B h w O"]:
    """Convolve as `plain_conv`, in the formulation that is fastest on the platform."""
    plain = partial(plain_conv, stride=stride, padding=padding)
    if kernel.shape[:2] == (1, 1) and padding == 0:
        return by_platform(cpu=partial(pointwise_conv, stride=stride), default=plain)(x, kernel)
    if (
        kernel.shape[:2] == (stride, stride)
        and padding == x.shape[1] % stride == x.shape[2] % stride == 0
    ):
        return by_platform(cpu=patch_conv, default=plain)(x, kernel)
    return plain(x, kernel)


def plain_max_pool(
    x: Float[Array, "B H W D"], window: int, stride: int, pads: Sequence[tuple[int, int]]
) -> Float[Array, "B h w D"]:
    """Take window maxima as one XLA `reduce_window`; `pads` are (before, after) of H and W."""
    lowest = np.array(-np.inf, x.dtype)
    return lax.reduce_window(
        x, lowest, lax.max, (1, window, window, 1), (1, stride, stride, 1), ((0, 0), *pads, (0, 0))
    )


def chained_max_pool(
    x: Float[Array, "B H W D"], window: int, stride: int, pads: Sequence[tuple[int, int]]
) -> Float[Array, "B h w D"]:
    """Take window maxima tap by tap, over columns and then rows: elementwise code, both ways.

    A later tap wins only if it is greater, so the gradient of a tie goes to the first maximum by
    rows. NaN always wins, so it is never hidden. Both agree with `plain_max_pool` and torch.
    """
    x = pad_cells(x, pads, -np.inf)
    of_rows = stored(_chained_maximum(x, window, stride, axis=2))
    return _chained_maximum(of_rows, window, stride, axis=1)


def _chained_maximum(
    x: Float[Array, "B H W D"], window: int, stride: int, axis: int
) -> Float[Array, "B h w D"]:
    """Take the maxima of windows along one axis."""
    last = stride * ((x.shape[axis] - window) // stride) + 1
    taps = [lax.slice_in_dim(x, first, first + last, stride, axis) for first in range(window)]
    y = taps[0]
    for tap in taps[1:]:
        y = jnp.where((tap > y) | jnp.isnan(tap), tap, y)
    return y


def max_pool(
    x: Float[Array, "B H W D"], window: int, stride: int, padding: int = 0, ceil_mode: bool = False
) -> Float[Array, "B h w D"]:
    """Return the maximum of each window, as torch's `max_pool2d`: the padding never wins.

    Args:
        x: Feature maps.
        window: Side of the window.
        stride: Step in both directions.
        padding: Cells of minus infinity on each of the four sides.
        ceil_mode: Whether a last window may extend beyond the padding, if it starts inside.
    """

    def pads(size: int) -> tuple[int, int]:
        span = size + 2 * padding - window
        steps = -(-span // stride) if ceil_mode else span // stride
        if steps * stride >= size + padding:  # the window would contain only padding
            steps -= 1
        return padding, max(0, steps * stride + window - size - padding)

    geometry = {"window": window, "stride": stride, "pads": [pads(x.shape[1]), pads(x.shape[2])]}
    chained = partial(chained_max_pool, **geometry)
    plain = partial(plain_max_pool, **geometry)
    return by_platform(cpu=chained, default=plain, portable=chained)(x)


def avg_pool(x: Float[Array, "B H W D"], window: int) -> Float[Array, "B h w D"]:
    """Average disjoint windows, as torch's `avg_pool2d(window)`, which drops incomplete ones."""
    batch, height, width, features = x.shape
    h, w = height // window, width // window
    x = x[:, : h * window, : w * window]
    return x.reshape(batch, h, window, w, window, features).mean((2, 4))


def pad_cells(
    x: Float[Array, "B H W D"], pads: Sequence[tuple[int, int]], value: float = 0.0
) -> Float[Array, "B h w D"]:
    """Add cells of one value before and after the rows and the columns of feature maps."""
    if not is_portable():
        return jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=value)
    for axis, (before, after) in enumerate(pads, start=1):
        cells = lax.slice_in_dim(x, 0, 1, axis=axis)
        filled = jnp.full_like(cells, value)
        x = jnp.concatenate([*[filled] * before, x, *[filled] * after], axis=axis)
    return x


def at_least_float32(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Widen half-precision values to float32; leave float32 and float64 unchanged."""
    return x if jnp.finfo(x.dtype).bits >= 32 else x.astype(jnp.float32)
