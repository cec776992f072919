"""The samplers and loaders that a configuration describes."""

import math
from collections.abc import Callable

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int, UInt8

from apinet_jax.config import SAMPLERS
from apinet_jax.data.cache import ImageReader, cached_reader
from apinet_jax.data.crops import CentralCrop, CropPlace, RandomCrop
from apinet_jax.data.decoding import least_side
from apinet_jax.data.pipeline import EvalLoader, TrainLoader
from apinet_jax.data.sampler import BalancedSampler, Sampler, ShuffledSampler
from apinet_jax.data.source import Dataset, Source
from apinet_jax.method.device_images import DeviceImages
from apinet_jax.setup.build import Plan
from apinet_jax.setup.memory import format_bytes
from apinet_jax.system import hosts
from apinet_jax.system.console import say
from apinet_jax.system.mesh import host_rows
from apinet_jax.system.paths import records_root

CACHE = "apinet_jax_cache"
"""Folder next to the prepared records, for resized images and features."""


def eval_batch_size(config: ml_collections.ConfigDict, mesh: Mesh) -> int:
    """Return the evaluation batch size, rounded up to a multiple of the devices."""
    return config.eval.batch_size + -config.eval.batch_size % mesh.size


def batch_workers(config: ml_collections.ConfigDict) -> int:
    """Return the worker processes that load training batches: none for what is in memory."""
    in_memory = config.train.features == "cache" or config.data.cache == "device"
    return 0 if in_memory else config.data.workers


def make_sampler(
    config: ml_collections.ConfigDict, labels: Int[np.ndarray, " N"], plan: Plan
) -> Sampler:
    """Return the sampler of `batch.sampler`: K x S images of K classes, or a plain shuffle."""
    if (config.batch.sampler or SAMPLERS[config.method]) == "shuffled":
        return ShuffledSampler(
            len(labels), batch_size=plan.batch_size, num_steps=plan.total, seed=config.seed
        )
    return BalancedSampler(
        labels,
        classes=config.batch.classes,
        images=config.batch.images,
        num_steps=plan.total,
        seed=config.seed,
        tail=config.batch.tail,
    )


def make_reader(config: ml_collections.ConfigDict, source: Source, fingerprint: str) -> ImageReader:
    """Return the reader of a split's resized images, from a cache on disk unless it is off."""
    size = config.data.resize
    least = least_side(config.data.decode, size) if source.windows is None else None
    if config.data.cache == "off":
        return ImageReader(source, size, least=least)
    return cached_reader(source, size, records_root() / CACHE, fingerprint, least)


def random_crop(config: ml_collections.ConfigDict, reader: ImageReader, seed: int) -> RandomCrop:
    """Return the augmentation of the configuration."""
    random_resized = config.data.augmentation == "random_resized"
    return RandomCrop(
        reader, config.data.crop, seed, config.data.min_area if random_resized else None
    )


def make_train_loader(
    config: ml_collections.ConfigDict,
    dataset: Dataset,
    plan: Plan,
    mesh: Mesh,
    image: Callable[[int, int, int], np.ndarray] | None = None,
) -> TrainLoader:
    """Return the loader of this host's rows of each training batch.

    Args:
        config: Completed configuration.
        dataset: The images.
        plan: Length of the run.
        mesh: The data mesh.
        image: See `TrainLoader`; random crops by default.
    """
    if image is None:
        if config.data.cache == "device":
            image = CropPlace(config.data.resize, config.data.crop, config.seed)
        else:
            reader = make_reader(config, dataset.train, dataset.fingerprint)
            image = random_crop(config, reader, config.seed)
    labels = dataset.train.labels
    sampler = make_sampler(config, labels, plan)
    return TrainLoader(image, labels, sampler, host_rows(plan.batch_size, mesh))


def images_on_device(
    config: ml_collections.ConfigDict, dataset: Dataset, layout: DeviceImages, mesh: Mesh
) -> UInt8[jax.Array, "N R R*3"]:
    """Copy the resized training images to the devices, in the order of their indices.

    Raises:
        RunError: If the cache of resized images cannot be written.
    """
    reader = hosts.run_on_primary_first(
        lambda: make_reader(config, dataset.train, dataset.fingerprint)
    )

    def part(index: tuple[slice, ...]) -> UInt8[np.ndarray, "n R R*3"]:
        rows = range(layout.count)[index[0]]
        images = np.zeros((len(rows), *layout.shape[1:]), np.uint8)
        for place, row in enumerate(rows):
            if row < len(dataset.train):  # the rest are rows that no batch names
                images[place] = reader(row).reshape(layout.shape[1:])
        return images

    size = format_bytes(math.prod(layout.shape))
    say(f"Copying {len(dataset.train):,} resized images to the device ({size}) ...")
    return jax.make_array_from_callback(layout.shape, layout.sharding(mesh), part)


def make_eval_loader(
    config: ml_collections.ConfigDict,
    source: Source,
    fingerprint: str,
    mesh: Mesh,
    image: Callable[[int], np.ndarray] | None = None,
) -> EvalLoader:
    """Return the loader of this host's rows of each evaluation batch; central crops by default."""
    batch_size = eval_batch_size(config, mesh)
    if image is None:
        image = CentralCrop(make_reader(config, source, fingerprint), config.data.crop)
    return EvalLoader(image, source.labels, batch_size, host_rows(batch_size, mesh))
