"""Training on images or features in memory, without grain, TFDS, checkpoints or a workdir.

The steps, batches and crops are those of `apinet_jax.train`. A configuration is compiled once and
then trained with many seeds.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Float, Int

from apinet_jax.data.batch import Batch
from apinet_jax.data.crops import ArrayReader, CachedViews, RandomCrop
from apinet_jax.data.pipeline import TrainLoader
from apinet_jax.data.transforms import center_crop
from apinet_jax.method.classify import image_features
from apinet_jax.method.optim import TRUNK
from apinet_jax.method.steps import Stage, init_state, make_eval_step, make_train_step
from apinet_jax.method.types import TrainState
from apinet_jax.models.layers import Trunk
from apinet_jax.setup.build import load_pretrained, make_program
from apinet_jax.setup.loaders import make_sampler
from apinet_jax.system.mesh import make_mesh, replicated

_EVAL_BATCH = 120


class Trainer:
    """A configuration that was compiled once, for one number of training images.

    Attributes:
        config: The completed configuration.
        program: Network, optimizer and length of the run.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        num_images: int,
        num_classes: int,
    ):
        """Prepare the steps; they are compiled when the first seed needs them.

        Args:
            config: The configuration; with `train.features=cache` it trains on features.
            num_images: Training images, `N`.
            num_classes: Classes, `C`.
        """
        self.config = config
        self._mesh = make_mesh(jax.devices()[:1])
        self.program = make_program(config, num_classes, num_images, self._mesh)
        self.on_features = config.train.features == "cache"
        if self.on_features:
            model = self.program.model.clone(trunk=Trunk())
            self.program = self.program._replace(model=model)
        settings = {"model": self.program.model, "preprocess": self.program.preprocess}
        stages: tuple[Stage, ...] = ("frozen", "full")
        self._steps = {
            stage: make_train_step(
                self._mesh,
                **settings,
                optimizer=self.program.optimizer,
                objective=self.program.objective,
                stage=stage,
                ema=config.optim.ema,
                microbatches=config.train.microbatches,
                deterministic=False,
            )
            for stage in stages
        }
        self._classify = make_eval_step(self._mesh, **settings, flip=bool(config.eval.flip))
        self._features = make_eval_step(self._mesh, image_features, **settings)
        self._start = jax.jit(self._fresh_state, out_shardings=replicated(self._mesh))

    def _fresh_state(self, key: jax.Array) -> TrainState:
        config, program = self.config, self.program
        if not self.on_features:
            options = {"crop": config.data.crop, "ema": config.optim.ema}
            return init_state(program.model, program.optimizer, key, **options)
        features = jnp.zeros((1, program.model.feature_width))
        if config.method == "softmax":
            head = program.model.init(key, features, train=False, method="classify")
        else:
            head = program.model.init(key, features, features, train=False, method="interact")
        params = {TRUNK: {}, **head["params"]}
        average = jax.tree.map(jnp.copy, params) if config.optim.ema else None
        step = jnp.zeros((), jnp.int32)
        return TrainState(step, params, {}, program.optimizer.init(params), average)

    def first_state(self, seed: int) -> TrainState:
        """Return the state before the first step, its trunk pretrained if configured."""
        state = self._start(jax.random.key(seed))
        if not self.on_features and self.config.model.pretrained:
            name, file = self.config.model.trunk, self.config.model.pretrained
            state = jax.device_put(load_pretrained(state, name, file), replicated(self._mesh))
        return state

    def train(self, images: np.ndarray, labels: Int[np.ndarray, " N"], seed: int) -> TrainState:
        """Train with a seed.

        Args:
            images: Resized images [N R R 3], or features of each view [V N D].
            labels: Class of each image.
            seed: Seed of weights, batches, crops and dropout.
        """
        config, plan = self.config.copy_and_resolve_references(), self.program.plan
        config.seed = seed
        sampler = make_sampler(config, labels, plan)
        image = CachedViews(images, seed) if self.on_features else self._crop(images, seed)
        loader = TrainLoader(image, labels, sampler, np.arange(plan.batch_size))
        state, key = self.first_state(seed), jax.random.key(seed)
        for step, batch in enumerate(_ahead(loader, plan.total)):
            stage: Stage = "frozen" if step < plan.frozen else "full"
            state, _ = self._steps[stage](state, Batch(*map(jnp.asarray, batch)), key)
        return state

    def _crop(self, images: np.ndarray, seed: int) -> RandomCrop:
        data = self.config.data
        min_area = data.min_area if data.augmentation == "random_resized" else None
        return RandomCrop(ArrayReader(images), data.crop, seed, min_area)

    def logits(self, state: TrainState, images: np.ndarray) -> Float[np.ndarray, "N C"]:
        """Return the logits of central crops of images [N R R 3], or of features [N D]."""
        if not self.on_features:
            images = np.stack([center_crop(image, self.config.data.crop) for image in images])
        return _in_batches(self._classify, state, images)

    def features(self, state: TrainState, crops: np.ndarray) -> Float[np.ndarray, "N D"]:
        """Return the pooled features of crops."""
        return _in_batches(self._features, state, crops)


def _ahead(load: Callable[[int], Batch], count: int) -> Iterator[Batch]:
    """Load the batches of all steps in threads, a few ahead of time."""
    threads = max(1, min(8, (os.cpu_count() or 2) - 1))
    with ThreadPoolExecutor(threads) as pool:
        waiting = deque(pool.submit(load, step) for step in range(min(2 * threads, count)))
        for step in range(count):
            batch = waiting.popleft().result()
            if step + 2 * threads < count:
                waiting.append(pool.submit(load, step + 2 * threads))
            yield batch


def _in_batches(step: Callable[..., Any], state: TrainState, images: np.ndarray) -> np.ndarray:
    """Apply a compiled step to batches of one size; the last one repeats its last image."""
    results = []
    for first in range(0, len(images), _EVAL_BATCH):
        rows = np.minimum(np.arange(first, first + _EVAL_BATCH), len(images) - 1)
        results.append(np.asarray(step(state.inference_params, state.batch_stats, images[rows])))
    return np.concatenate(results)[: len(images)]
