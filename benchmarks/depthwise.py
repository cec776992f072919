"""Times depthwise convolutions: one grouped XLA convolution against ours, and against torch.

    taskset -c 0 python -m benchmarks.depthwise --batch 32

The layers are those of EfficientNet-Lite0 with 3x3 and 5x5 kernels and strides 1 and 2, for images
of 224 pixels. Prints milliseconds of processor time, as wall-clock time is misleading on a busy
machine: medians of the forward pass, the gradient of the image, and that of the kernel. On one core
no thread spends processor time on waiting for another. torch, where it is installed, computes on
`channels_last` arrays. On platforms other than CPUs the first two are the same program.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from apinet_jax.models.depthwise import depthwise_conv, plain_depthwise_conv
from apinet_jax.models.operations import pads_of

# Side of the image, channels, side of the kernel, stride.
LAYERS = (
    (112, 32, 3, 1),
    (112, 96, 3, 2),
    (56, 144, 3, 1),
    (56, 144, 5, 2),
    (28, 240, 5, 1),
    (28, 240, 3, 2),
    (14, 480, 3, 1),
    (14, 672, 5, 1),
    (14, 672, 5, 2),
    (7, 1152, 5, 1),
)


def milliseconds(function: Callable, repeats: int) -> float:
    """Return the median processor time of a function that returns when it has finished."""
    function()  # warms up
    found = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        found.append(1000 * (time.process_time() - start))
    return statistics.median(found)


def jax_times(convolve: Callable, arrays: list[np.ndarray], repeats: int) -> list[float]:
    x, kernel, cotangent = map(jnp.asarray, arrays)

    def gradient(index: int) -> Callable:
        return lambda x, kernel, cotangent: jax.vjp(convolve, x, kernel)[1](cotangent)[index]

    found = []
    for function in (lambda x, kernel, _: convolve(x, kernel), gradient(0), gradient(1)):
        compiled = jax.jit(function).lower(x, kernel, cotangent).compile()
        found.append(
            milliseconds(
                lambda run=compiled: jax.block_until_ready(run(x, kernel, cotangent)), repeats
            )
        )
    return found


def torch_times(
    arrays: list[np.ndarray], stride: int, pads: tuple, repeats: int
) -> list[float] | None:
    try:
        import torch
    except ImportError:
        return None
    x, kernel, cotangent = (torch.from_numpy(array) for array in arrays)
    (top, bottom), (left, right) = pads
    x = torch.nn.functional.pad(x.permute(0, 3, 1, 2), (left, right, top, bottom))
    x = x.contiguous(memory_format=torch.channels_last)
    kernel = kernel.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    cotangent = cotangent.permute(0, 3, 1, 2)
    options = ([stride, stride], [0, 0], [1, 1], False, [0, 0], x.shape[1])

    def gradient(*mask: bool) -> Callable:
        return lambda: torch.ops.aten.convolution_backward(
            cotangent, x, kernel, None, *options, [*mask, False]
        )

    def forward() -> torch.Tensor:
        return torch.nn.functional.conv2d(x, kernel, stride=stride, groups=x.shape[1])

    functions = forward, gradient(True, False), gradient(False, True)
    return [milliseconds(function, repeats) for function in functions]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=32, help="images (default: 32)")
    parser.add_argument("--repeats", type=int, default=3, help="timed calls each (default: 3)")
    arguments = parser.parse_args()
    generator = np.random.default_rng(0)
    print("layer, then ms: forward, gradient of the image, gradient of the kernel")
    totals: dict[str, list[float]] = {}
    for size, channels, side, stride in LAYERS:
        pads = pads_of("SAME", (size, size), side, stride)
        shapes = (size, channels), (-(-size // stride), channels)
        x, cotangent = (
            generator.standard_normal((arguments.batch, n, n, depth), np.float32)
            for n, depth in shapes
        )
        kernel = generator.standard_normal((side, side, 1, channels), np.float32)
        arrays = [x, kernel, cotangent]

        def plain(x: jax.Array, kernel: jax.Array, stride=stride, pads=pads) -> jax.Array:
            return plain_depthwise_conv(x, kernel, stride, pads)

        def ours(x: jax.Array, kernel: jax.Array, stride=stride) -> jax.Array:
            return depthwise_conv(x, kernel, stride, "SAME")

        times = {
            "XLA": jax_times(plain, arrays, arguments.repeats),
            "ours": jax_times(ours, arrays, arguments.repeats),
            "torch": torch_times(arrays, stride, pads, arguments.repeats),
        }
        times = {name: values for name, values in times.items() if values}
        text = "; ".join(
            f"{name} {', '.join(f'{value:.0f}' for value in values)}"
            for name, values in times.items()
        )
        print(f"{size}x{size}x{channels}, {side}x{side}, stride {stride}: {text}", flush=True)
        for name, values in times.items():
            totals.setdefault(name, []).append(sum(values))
    print("all:", ", ".join(f"{name} {sum(values):.0f}" for name, values in totals.items()))


if __name__ == "__main__":
    main()
