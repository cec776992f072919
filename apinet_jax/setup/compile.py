"""Compilation of the steps from shapes only, for devices that need not exist."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh

from apinet_jax.data.batch import Batch
from apinet_jax.method.steps import Stage, make_eval_step, make_train_step
from apinet_jax.method.types import TrainState
from apinet_jax.setup.build import Program, state_initializer
from apinet_jax.setup.loaders import eval_batch_size
from apinet_jax.system.mesh import replicated, sharded_by_batch

T = TypeVar("T")


def compile_train_step(
    config: ml_collections.ConfigDict, program: Program, mesh: Mesh, stage: Stage
) -> jax.stages.Compiled:
    """Compile the step of a stage from shapes, before weights or images exist.

    The program does not depend on the seed: the step takes the key of the run as an argument.
    """
    return lower_train_step(config, program, mesh, stage).compile()


def lower_train_step(
    config: ml_collections.ConfigDict, program: Program, mesh: Mesh, stage: Stage
) -> jax.stages.Lowered:
    """Trace the step of a stage from shapes; its cost can be counted before it is compiled."""
    step = make_train_step(
        mesh,
        model=program.model,
        optimizer=program.optimizer,
        objective=program.objective,
        preprocess=program.preprocess,
        stage=stage,
        ema=config.optim.ema,
        microbatches=config.train.microbatches,
        deterministic=config.train.deterministic,
        device_images=program.device_images,
    )
    state = _state_shapes(config, program, mesh)
    crop = config.data.crop
    image: tuple[tuple[int, ...], Any] = ((crop, crop, 3), jnp.uint8)
    if config.train.features == "cache":
        image = ((program.model.feature_width,), jnp.float32)
    images: tuple[jax.ShapeDtypeStruct, ...] = ()
    if (layout := program.device_images) is not None:
        image = ((4,), jnp.int32)
        sharding = layout.sharding(mesh)
        images = (jax.ShapeDtypeStruct(layout.shape, jnp.uint8, sharding=sharding),)
    batch = _batch_shapes(image, program.plan.batch_size, mesh)
    key = _replicated_shapes(jax.eval_shape(jax.random.key, 0), mesh)
    return step.lower(state, batch, key, *images)


def compile_eval_step(
    config: ml_collections.ConfigDict, program: Program, mesh: Mesh
) -> jax.stages.Compiled:
    """Compile the evaluation step from shapes."""
    step = make_eval_step(
        mesh, model=program.model, preprocess=program.preprocess, flip=bool(config.eval.flip)
    )
    state = _state_shapes(config, program, mesh)
    image = ((config.data.crop, config.data.crop, 3), jnp.uint8)
    batch = _batch_shapes(image, eval_batch_size(config, mesh), mesh)
    return step.lower(state.inference_params, state.batch_stats, batch.image).compile()


def _state_shapes(config: ml_collections.ConfigDict, program: Program, mesh: Mesh) -> TrainState:
    shapes = jax.eval_shape(state_initializer(config, program), jax.random.key(0))
    return _replicated_shapes(shapes, mesh)


def _replicated_shapes(shapes: T, mesh: Mesh) -> T:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated(mesh)),
        shapes,
    )


def _batch_shapes(image: tuple[tuple[int, ...], Any], batch_size: int, mesh: Mesh) -> Batch:
    rows = sharded_by_batch(mesh)
    fields = Batch(
        image=image,
        label=((), jnp.int32),
        image_id=((), jnp.int32),
        mask=((), jnp.bool_),
    )
    return Batch(
        *(jax.ShapeDtypeStruct((batch_size, *row), kind, sharding=rows) for row, kind in fields)
    )
