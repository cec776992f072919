"""Prints the trunks with their size, speed on this machine, published accuracy and licence.

    python -m benchmarks.trunk_table
    python -m benchmarks.trunk_table --trunks squeezenet1_1 tf_efficientnet_lite0 --batch 16

Speed is that of features without training, in float32, in images per second of one core: the time
of all cores is counted, which depends less on other work than the time that passes.
"""

import argparse
import statistics
import time

import jax
import numpy as np

from apinet_jax.models import LISTED_TRUNKS, make_trunk, trunk_spec, variable_shapes
from apinet_jax.models.weights.catalogue import PUBLISHED
from apinet_jax.system.compiler_options import compiler_options
from apinet_jax.system.console import say


def images_per_core_second(trunk: str, side: int, batch: int, repeats: int) -> float:
    """Return the median number of images whose features one core computes in a second."""
    module = make_trunk(trunk)
    images = np.random.default_rng(0).standard_normal((batch, side, side, 3), np.float32)
    shapes = variable_shapes(trunk)
    variables = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.01, leaf.dtype), shapes)
    step = jax.jit(
        lambda variables, images: module.apply(variables, images, train=False),
        compiler_options=compiler_options(jax.default_backend()),
    )
    jax.block_until_ready(step(variables, images))  # compiles
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        jax.block_until_ready(step(variables, images))
        seconds.append(time.process_time() - start)
    return batch / statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trunks", nargs="+", default=LISTED_TRUNKS, choices=LISTED_TRUNKS)
    parser.add_argument("--batch", type=int, default=8, help="images at once (default: 8)")
    parser.add_argument("--size", type=int, default=224, help="side of an image (default: 224)")
    parser.add_argument("--repeats", type=int, default=3, help="timed batches (default: 3)")
    arguments = parser.parse_args()
    print("| trunk | million parameters | images/s per core | ImageNet top-1 | weights | licence |")
    print("|---|---:|---:|---:|---|---|")
    for trunk in arguments.trunks:
        say(f"Measuring {trunk} ...")
        params = sum(leaf.size for leaf in jax.tree.leaves(variable_shapes(trunk)["params"]))
        side = max(arguments.size // trunk_spec(trunk).patch, 1) * trunk_spec(trunk).patch
        speed = images_per_core_second(trunk, side, arguments.batch, arguments.repeats)
        known = PUBLISHED.get(trunk)
        cells = (f"{known.accuracy:.1f}", f"`{known.name}`", known.licence) if known else ("",) * 3
        print("|", " | ".join([f"`{trunk}`", f"{params / 1e6:.1f}", f"{speed:.1f}", *cells]), "|")


if __name__ == "__main__":
    main()
