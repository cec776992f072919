"""Our side: the compiled step, evaluation step and objective of a run."""

import os
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from apinet_jax.config import default_config
from apinet_jax.data.batch import Batch
from apinet_jax.data.pipeline import stream
from apinet_jax.method.objective import evaluate_objective
from apinet_jax.method.steps import make_eval_step
from apinet_jax.setup.build import (
    fresh_state,
    make_dataset,
    make_plan,
    make_program,
    run_key,
)
from apinet_jax.setup.compile import compile_train_step
from apinet_jax.setup.loaders import make_train_loader
from apinet_jax.system.allocator import keep_freed_memory
from apinet_jax.system.mesh import make_mesh, to_global
from benchmarks.against.cases import (
    BATCHES,
    DECAY,
    HIDDEN,
    MOMENTUM,
    NUM_CLASSES,
    RATE,
    WIDTH,
    Case,
    draw_photos,
)


def make_call(case: Case, variant: str) -> Callable[[], float | None]:
    """Return a function that computes a case once; it returns when the numbers exist."""
    del variant  # there is one
    keep_freed_memory()
    if case.kind == "input":
        return _input_call(case)
    mesh, config = make_mesh(), default_config()
    trunk = case.trunk or "resnet50"
    changes = {
        **{"model.trunk": trunk, "model.dtype": "float32", "model.hidden": HIDDEN},
        **{"data.crop": case.side, "data.resize": case.side},
        **{"batch.classes": case.classes, "batch.images": case.images},
        **{"optim.lr": RATE, "optim.momentum": MOMENTUM, "optim.weight_decay": DECAY},
    }
    config.update_from_flattened_dict(changes)
    count = case.classes * case.images
    program = make_program(config, max(NUM_CLASSES, case.classes), 100 * count, mesh)
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(case.classes, dtype=np.int32), case.images)
    rest = (labels, np.arange(count, dtype=np.int32), np.ones(count, bool))
    if case.kind == "head":
        return _head_call(program, Batch(draw.standard_normal((count, WIDTH), np.float32), *rest))
    pixels = draw.integers(0, 256, (count, case.side, case.side, 3), np.uint8)
    batch = to_global(Batch(pixels, *rest), mesh)
    state = fresh_state(config, program, mesh)
    if case.kind == "infer":
        step = make_eval_step(mesh, model=program.model, preprocess=program.preprocess)
        return lambda: jax.block_until_ready(step(state.params, state.batch_stats, batch.image))
    step, key = compile_train_step(config, program, mesh, "full"), run_key(config, mesh)
    states = [state]

    def call() -> None:
        states[0], metrics = step(states[0], batch, key)
        jax.block_until_ready((states[0], metrics))

    return call


def _input_call(case: Case) -> Callable[[], float]:
    """Crops of batches from a prepared photo folder; the time of one batch of a stream."""
    folder = draw_photos(case)
    os.environ["TFDS_DATA_DIR"] = str(folder / "records")
    mesh, config = make_mesh(), default_config()
    config.update_from_flattened_dict(
        {
            **{"data.name": "folder", "data.dir": str(folder), "data.cache": case.trunk},
            **{"data.crop": case.side, "data.resize": 512},
            **{"batch.sampler": "shuffled", "batch.classes": case.classes},
            **{"batch.images": case.images, "optim.epochs": 100.0},
        }
    )
    dataset = make_dataset(config, folder)
    plan = make_plan(config, len(dataset.train))
    loader = make_train_loader(config, dataset, plan, mesh)

    def call() -> float:
        with stream(loader, 0, BATCHES + 1) as batches:
            to_global(next(batches), mesh)  # starts the threads
            start = time.perf_counter()
            for batch in batches:
                jax.block_until_ready(to_global(batch, mesh))
            return (time.perf_counter() - start) / BATCHES

    return call


def _head_call(program, batch: Batch) -> Callable[[], None]:
    """Mining, interaction, loss, and gradients of features and head."""
    model, key = program.model, jax.random.key(0)
    batch = Batch(*map(jnp.asarray, batch))

    def init(key):
        features = jnp.zeros((2, WIDTH))
        made = model.init(key, features, features, train=False, method="interact")
        return made["params"]

    def loss(params, features, key):
        terms, *_ = evaluate_objective(model, params, features, batch, program.objective, key)
        return terms.total

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    params, features = jax.jit(init)(key), batch.image
    return lambda: jax.block_until_ready(step(params, features, key))
