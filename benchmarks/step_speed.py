"""Measures time and memory of the complete training step, on images of noise.

    python -m benchmarks.step_speed --trunk resnet50 --classes 2 --images 4 --crop 224

A step includes pixels to floats, trunk, pair mining, interaction, losses, gradients and the update,
but not loading images. Several trunks or settings take turns step by step, so that their ratio
holds on a noisy machine:

    python -m benchmarks.step_speed --dtype bfloat16 --also model.remat=full train.microbatches=4
"""

import argparse
import itertools
import statistics
import time

import jax
import numpy as np

from apinet_jax.config import default_config
from apinet_jax.data.batch import Batch
from apinet_jax.models import TRUNKS
from apinet_jax.setup import memory
from apinet_jax.setup.build import fresh_state, make_program, run_key
from apinet_jax.setup.compile import compile_train_step
from apinet_jax.setup.config_file import parse_change
from apinet_jax.system.allocator import keep_freed_memory
from apinet_jax.system.mesh import make_mesh, to_global


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trunk", nargs="+", default=["resnet50"], choices=sorted(TRUNKS))
    parser.add_argument("--classes", type=int, default=30, help="K (default: 30)")
    parser.add_argument("--images", type=int, default=4, help="S (default: 4)")
    parser.add_argument("--crop", type=int, default=448, help="side of an image (default: 448)")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument(
        "--also", nargs="+", default=[], metavar="FIELD=VALUE", help="settings to time as well"
    )
    parser.add_argument("--stage", default="full", choices=["full", "frozen"])
    parser.add_argument("--repeats", type=int, default=5, help="timed steps each (default: 5)")
    arguments = parser.parse_args()

    keep_freed_memory()
    mesh = make_mesh()
    count = arguments.classes * arguments.images
    pixels = np.random.default_rng(0).integers(
        0, 256, (count, arguments.crop, arguments.crop, 3), np.uint8
    )
    labels = np.repeat(np.arange(arguments.classes), arguments.images).astype(np.int32)
    batch = to_global(
        Batch(pixels, labels, np.arange(count, dtype=np.int32), np.ones(count, bool)), mesh
    )

    key = run_key(default_config(), mesh)
    steps, states, need = {}, {}, {}
    for trunk, also in itertools.product(arguments.trunk, ["", *arguments.also]):
        config = default_config()
        config.model.trunk, config.model.dtype = trunk, arguments.dtype
        config.data.crop = config.data.resize = arguments.crop
        config.batch.classes, config.batch.images = arguments.classes, arguments.images
        if also:
            config.update_from_flattened_dict(dict([parse_change(also, config)]))
        program = make_program(config, max(200, arguments.classes), 100 * count, mesh)
        name = f"{trunk} {also}".rstrip()
        steps[name] = compile_train_step(config, program, mesh, arguments.stage)
        states[name] = fresh_state(config, program, mesh)
        need[name] = memory.program_bytes(steps[name])

    seconds = {name: [] for name in steps}
    for repeat in range(arguments.repeats + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            states[name], metrics = step(states[name], batch, key)
            jax.block_until_ready(metrics)
            if repeat:  # the first one warms up
                seconds[name].append(time.perf_counter() - start)

    device = f"{mesh.size} x {jax.devices()[0].device_kind}"
    shape = f"{arguments.classes} x {arguments.images} at {arguments.crop}, {arguments.dtype}"
    print(f"Training step ({arguments.stage}), {shape}, on {device}")
    width = max(map(len, seconds))
    for name, values in seconds.items():
        median = statistics.median(values)
        print(
            f"  {name:{width}}  {median:.4f} s ({min(values):.4f} to {max(values):.4f}), "
            f"{count / median:.1f} images/s, {memory.format_bytes(need[name])} a device"
        )


if __name__ == "__main__":
    main()
