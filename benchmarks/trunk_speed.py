"""Times a trunk's training step with plain XLA operations against ours.

    python -m benchmarks.trunk_speed --trunk squeezenet1_1 --batch 60 --size 224

A step is the forward pass and the gradient of every parameter. The two formulations take turns, so
that both see the same machine. Processor seconds are printed too, as wall-clock time is misleading
on a busy machine. On platforms other than CPUs both are the same program: the ratio should be 1.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from unittest import mock

import jax
import jax.numpy as jnp

from apinet_jax.models import TRUNKS, make_trunk, operations
from apinet_jax.system.compiler_options import compiler_options


def compiled_step(arguments: argparse.Namespace) -> tuple[Callable, tuple]:
    trunk = make_trunk(arguments.trunk, jnp.dtype(arguments.dtype))
    images = jax.random.normal(
        jax.random.key(0), (arguments.batch, arguments.size, arguments.size, 3)
    )
    variables = jax.jit(lambda key: trunk.init(key, images[:1], train=False))(jax.random.key(1))

    def loss(params, state, images):
        features, _ = trunk.apply(
            {"params": params, **state}, images, train=True, mutable=["batch_stats"]
        )
        return jnp.square(features.mean((1, 2))).sum()

    params = variables.pop("params")
    inputs = (params, variables, images)
    options = compiler_options(jax.default_backend())
    return jax.jit(jax.grad(loss), compiler_options=options).lower(*inputs).compile(), inputs


def plain_only(cpu: Callable, default: Callable) -> Callable:
    del cpu
    return default


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trunk", default="squeezenet1_1", choices=sorted(TRUNKS))
    parser.add_argument("--batch", type=int, default=60, help="images a step (default: 60)")
    parser.add_argument("--size", type=int, default=224, help="side of an image (default: 224)")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=5, help="timed steps each (default: 5)")
    arguments = parser.parse_args()

    with mock.patch.object(operations, "by_platform", plain_only):
        plain, inputs = compiled_step(arguments)
    ours, _ = compiled_step(arguments)

    wall = {"plain": [], "ours": []}
    processor = {"plain": [], "ours": []}
    for repeat in range(arguments.repeats + 1):
        for name, step in (("plain", plain), ("ours", ours)):
            start, processor_start = time.perf_counter(), time.process_time()
            jax.block_until_ready(step(*inputs))
            if repeat:  # the first one warms up
                wall[name].append(time.perf_counter() - start)
                processor[name].append(time.process_time() - processor_start)

    shape = f"{arguments.batch} x {arguments.size} x {arguments.size}, {arguments.dtype}"
    print(f"{arguments.trunk}, {shape}, on {jax.devices()[0].device_kind}")
    for kind, seconds in (("wall", wall), ("processor", processor)):
        median = {name: statistics.median(values) for name, values in seconds.items()}
        print(
            f"  {kind:9}  plain {median['plain']:.3f} s, ours {median['ours']:.3f} s a step,"
            f" plain / ours = {median['plain'] / median['ours']:.2f}"
            f" (ours {min(seconds['ours']):.3f} to {max(seconds['ours']):.3f})"
        )


if __name__ == "__main__":
    main()
