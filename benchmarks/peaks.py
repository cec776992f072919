"""What a device can do at most: matrix products and copies in memory.

    python -m benchmarks.peaks
    python -m benchmarks.peaks --dtype bfloat16 --side 8192

A matrix product of two square matrices, and the time of an array that is read and written once, of
a gigabyte by default. On a CPU the product uses all cores that the process may use; `taskset -c 0`
gives those of one.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from apinet_jax.system.allocator import restart_with_allocator

REPEATS = 7


def median_seconds(compute: Callable[[], jax.Array], repeats: int = REPEATS) -> float:
    """Return the median time of a call, after one that compiles."""
    jax.block_until_ready(compute())
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(compute())
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def product_rate(dtype: str, side: int) -> float:
    """Return the rate of a matrix product, in FLOP/s; a product and a sum are two."""
    left, right = jax.random.normal(jax.random.key(0), (2, side, side), jnp.dtype(dtype))
    product = jax.jit(jnp.matmul)
    return 2 * side**3 / median_seconds(lambda: product(left, right))


def copy_rate(size: int) -> float:
    """Return the bytes that are read and written in a second, by an array of `size` bytes."""
    array = jnp.zeros(size // 4, jnp.float32)
    scale = jax.jit(lambda array: 2 * array)
    return 2 * size / median_seconds(lambda: scale(array))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--side", type=int, default=2048, help="of the matrices (default: 2048)")
    parser.add_argument("--mebibytes", type=int, default=1024, help="of the copy (default: 1024)")
    arguments = parser.parse_args()
    product = product_rate(arguments.dtype, arguments.side)
    copy = copy_rate(arguments.mebibytes * 2**20)
    print(f"{jax.devices()[0].device_kind}")
    print(f"  {product / 1e9:,.0f} GFLOP/s, {arguments.side} x {arguments.side} {arguments.dtype}")
    print(f"  {copy / 1e9:,.1f} GB/s read and written")


if __name__ == "__main__":
    restart_with_allocator()
    main()
