"""Measures time and memory of a complete run on generated images.

    python -m benchmarks.run_speed --steps 50 --config configs/cub.py --config.model.dtype=bfloat16

All options but --steps are those of `python -m apinet_jax.main`. The data set is a folder of 200
classes of noisy JPEGs as large as CUB's. The backbone is never frozen. Loading, augmentation,
checkpoints and the final evaluation are those of any run. Images per second are counted from the
eleventh step on.
"""

import argparse
import json
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import jax
import numpy as np
from absl import flags

from apinet_jax import main as program
from apinet_jax.commands.cli import parse_flags
from apinet_jax.method.durations import steps_per_epoch
from apinet_jax.setup import memory, sizing

CLASSES, TRAIN_IMAGES, TEST_IMAGES = 200, 8, 1
HEIGHT, WIDTH = 375, 500
WARM_UP = 10


def write_photos(folder: Path) -> None:
    """Write blurred noise under a little sharp noise, about 50 KB per file, as in photos."""

    def write(number: int) -> None:
        label, index = divmod(number, TRAIN_IMAGES + TEST_IMAGES)
        split = "train" if index < TRAIN_IMAGES else "test"
        draw = np.random.default_rng(number)
        coarse = draw.integers(0, 256, (12, 16, 3), np.uint8)
        photo = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        photo = np.clip(photo + draw.normal(0, 8, photo.shape), 0, 255).astype(np.uint8)
        path = folder / split / f"{label:03}" / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), photo)

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, range(CLASSES * (TRAIN_IMAGES + TEST_IMAGES))))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=50, help="steps of the run (default: 50)")
    arguments, options = parser.parse_known_args()

    with tempfile.TemporaryDirectory() as folder:
        photos, workdir = Path(folder) / "photos", Path(folder) / "run"
        write_photos(photos)
        os.environ["TFDS_DATA_DIR"] = f"{folder}/records"
        parse_flags(["run_speed", *options, f"--workdir={workdir}"])
        config = flags.FLAGS["config"].value
        config.data.name, config.data.dir = "folder", str(photos)
        batch_size = config.batch.classes * config.batch.images
        config.optim.frozen_epochs = 0.0
        config.optim.epochs = arguments.steps / steps_per_epoch(CLASSES * TRAIN_IMAGES, batch_size)
        config.checkpoint.every = config.optim.epochs
        program.main(sys.argv[:1])
        rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
        steps = [row for row in rows if row["kind"] == "train"]

    timed = steps[WARM_UP:]
    seconds = [batch_size / row["images_per_s"] for row in timed]
    waited = sum(s * row["data_wait"] for s, row in zip(seconds, timed, strict=True))
    per_device = batch_size // jax.device_count()
    rough = sizing.step_bytes(
        config.model.trunk,
        config.data.crop,
        config.model.dtype,
        per_device,
        jax.devices()[0].platform,
        config.model.remat,
        config.train.microbatches,
    )
    print(
        f"{len(steps)} steps of {batch_size} images at {config.data.crop} in {config.model.dtype} "
        f"on {jax.device_count()} x {jax.devices()[0].device_kind}"
    )
    print(f"  {len(timed) * batch_size / sum(seconds):.1f} images/s, steps 11 to {len(steps)}")
    print(f"  {np.median(seconds):.4f} s a step (median), {max(seconds):.4f} the longest")
    print(f"  {100 * waited / sum(seconds):.2f} % of the time waiting for images")
    print(f"  first loss {steps[0]['loss']:.4f}, last {steps[-1]['loss']:.4f}")
    print(f"  {memory.format_bytes(rough)} a device, estimated from shapes")
    if stats := jax.local_devices()[0].memory_stats():
        print(f"  {memory.format_bytes(stats['peak_bytes_in_use'])} a device at most in use")


if __name__ == "__main__":
    main()
