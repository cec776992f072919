"""The samplers and loaders that a configuration describes."""

from collections.abc import Callable

import ml_collections
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from apinet_jax.config import SAMPLERS
from apinet_jax.data.cache import ImageReader, cached_reader
from apinet_jax.data.crops import CentralCrop, RandomCrop
from apinet_jax.data.pipeline import EvalLoader, TrainLoader
from apinet_jax.data.sampler import BalancedSampler, Sampler, ShuffledSampler
from apinet_jax.data.source import Dataset, Source
from apinet_jax.setup.build import Plan
from apinet_jax.system.mesh import host_rows
from apinet_jax.system.paths import records_root

CACHE = "apinet_jax_cache"
"""Folder next to the prepared records, for resized images and features."""


def eval_batch_size(config: ml_collections.ConfigDict, mesh: Mesh) -> int:
    """Return the evaluation batch size, rounded up to a multiple of the devices."""
    return config.eval.batch_size + -config.eval.batch_size % mesh.size


def batch_workers(config: ml_collections.ConfigDict) -> int:
    """Return the worker processes that load batches of a run: none for features in memory."""
    return 0 if config.train.features == "cache" else config.data.workers


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
    """Return the reader of a split's resized images, from a cache on disk if configured."""
    if config.data.cache != "disk":
        return ImageReader(source, config.data.resize)
    folder = records_root() / CACHE
    return cached_reader(source, config.data.resize, folder, fingerprint)


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
        reader = make_reader(config, dataset.train, dataset.fingerprint)
        image = random_crop(config, reader, config.seed)
    labels = dataset.train.labels
    sampler = make_sampler(config, labels, plan)
    return TrainLoader(image, labels, sampler, host_rows(plan.batch_size, mesh))


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
