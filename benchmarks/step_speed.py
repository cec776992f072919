"""Measures time and memory of the complete training step, on images of noise.

    python -m benchmarks.step_speed --trunk resnet50 --classes 2 --images 4 --crop 224

A step includes pixels to floats, trunk, pair mining, interaction, losses, gradients and the update,
but not loading images. Several trunks, stages or settings take turns step by step, so that their
ratio holds on a noisy machine:

    python -m benchmarks.step_speed --stage full frozen --also method=softmax
    python -m benchmarks.step_speed --dtype bfloat16 --also model.remat=full train.microbatches=4

With `--also data.cache=device` a step begins on the host, which draws the place of each crop.
Operations are counted in the program as it is written: what a device recomputes to save memory is
not work done.
"""

import argparse
import itertools
import statistics
import time

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh

from apinet_jax.config import default_config
from apinet_jax.data.batch import Batch
from apinet_jax.data.crops import CropPlace
from apinet_jax.method.steps import Stage
from apinet_jax.models import TRUNKS
from apinet_jax.setup import memory
from apinet_jax.setup.build import fresh_state, make_program, run_key
from apinet_jax.setup.compile import lower_train_step
from apinet_jax.setup.config_file import parse_change
from apinet_jax.system.allocator import restart_with_allocator
from apinet_jax.system.mesh import make_mesh, to_global

BATCHES_OF_IMAGES = 10  # that are on the device with `data.cache=device`


class TimedStep:
    """A compiled step with its state and its batches.

    Attributes:
        flops: Operations of a step; a product and a sum are two.
        bytes: Memory of the program on each device.
    """

    def __init__(self, config: ml_collections.ConfigDict, stage: Stage, mesh: Mesh):
        """Compile the step of a stage."""
        classes, images = config.batch.classes, config.batch.images
        self._config, self._mesh, self._number = config, mesh, 0
        self._count = classes * images
        self._labels = np.repeat(np.arange(classes, dtype=np.int32), images)
        stored = BATCHES_OF_IMAGES * self._count
        program = make_program(config, max(200, classes), stored, mesh)
        lowered = lower_train_step(config, program, mesh, stage)
        self.flops = lowered.cost_analysis()["flops"]
        self._step = lowered.compile()
        self.bytes = memory.program_bytes(self._step)
        self._state, self._key = fresh_state(config, program, mesh), run_key(config, mesh)
        self._images: tuple[jax.Array, ...] = ()
        if (layout := program.device_images) is None:
            shape = (self._count, config.data.crop, config.data.crop, 3)
            pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
            self._batch = to_global(self._rows(pixels), mesh)
        else:
            blank = jax.jit(
                lambda: jnp.zeros(layout.shape, jnp.uint8), out_shardings=layout.sharding(mesh)
            )
            self._batch, self._images = None, (blank(),)

    def __call__(self) -> float:
        """Return the seconds of one more step."""
        start = time.perf_counter()
        batch = self._batch or to_global(self._rows(self._places()), self._mesh)
        self._state, metrics = self._step(self._state, batch, self._key, *self._images)
        jax.block_until_ready((self._state, metrics))
        self._number += 1
        return time.perf_counter() - start

    def _places(self) -> np.ndarray:
        data = self._config.data
        place = CropPlace(data.resize, data.crop, self._config.seed)
        chosen = np.random.default_rng(self._number).integers(
            0, BATCHES_OF_IMAGES * self._count, self._count
        )
        return np.stack([place(index, self._number, slot) for slot, index in enumerate(chosen)])

    def _rows(self, image: np.ndarray) -> Batch:
        ids = np.arange(self._count, dtype=np.int32)
        return Batch(image, self._labels, ids, np.ones(self._count, bool))


def take_turns(steps: dict[str, TimedStep], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of steps that take turns, after one of each that warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(repeats + 1):
        for name, step in steps.items():
            taken = step()
            if repeat:
                seconds[name].append(taken)
    return seconds


def step_config(
    trunk: str, classes: int, images: int, crop: int, dtype: str, change: str = ""
) -> ml_collections.ConfigDict:
    """Return the configuration of a step; `change` is one more `FIELD=VALUE`."""
    config = default_config()
    config.model.trunk, config.model.dtype = trunk, dtype
    config.data.crop, config.data.resize = crop, crop * 8 // 7
    config.batch.classes, config.batch.images = classes, images
    if change:
        config.update_from_flattened_dict(dict([parse_change(change, config)]))
    return config


def print_steps(steps: dict[str, TimedStep], seconds: dict[str, list[float]], count: int) -> None:
    """Print a line for each step; ratios are those of medians, to the first one."""
    width, first = max(map(len, seconds)), statistics.median(next(iter(seconds.values())))
    for name, values in seconds.items():
        median = statistics.median(values)
        print(
            f"  {name:{width}}  {median:.4f} s ({min(values):.4f} to {max(values):.4f}), "
            f"{median / first:.2f} of the first, {count / median:.1f} images/s, "
            f"{steps[name].flops / median / 1e12:.2f} TFLOP/s, "
            f"{memory.format_bytes(steps[name].bytes)} a device"
        )


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
    parser.add_argument("--stage", nargs="+", default=["full"], choices=["full", "frozen"])
    parser.add_argument("--repeats", type=int, default=5, help="timed steps each (default: 5)")
    arguments = parser.parse_args()

    mesh = make_mesh()
    steps = {}
    for trunk, stage in itertools.product(arguments.trunk, arguments.stage):
        for change in ("", *arguments.also) if stage == arguments.stage[0] else ("",):
            shape = (arguments.classes, arguments.images, arguments.crop, arguments.dtype)
            name = " ".join(filter(None, (trunk, stage, change)))
            steps[name] = TimedStep(step_config(trunk, *shape, change), stage, mesh)
    device = f"{mesh.size} x {jax.devices()[0].device_kind}"
    shape = f"{arguments.classes} x {arguments.images} at {arguments.crop}, {arguments.dtype}"
    print(f"Training step, {shape}, on {device}")
    count = arguments.classes * arguments.images
    print_steps(steps, take_turns(steps, arguments.repeats), count)


if __name__ == "__main__":
    restart_with_allocator()
    main()
