"""Compiles the steps of a configuration from shapes alone, for devices that need not be there."""

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh

from apinet_jax.data.batch import Batch
from apinet_jax.method.steps import Stage, make_eval_step, make_train_step
from apinet_jax.method.types import TrainState
from apinet_jax.setup.build import Program, eval_batch_size, state_initializer
from apinet_jax.system.mesh import replicated, sharded_by_batch


def compile_train_step(
    config: ml_collections.ConfigDict, program: Program, mesh: Mesh, stage: Stage
) -> jax.stages.Compiled:
    """Compiles the step of a stage from shapes alone, before there are weights or images."""
    step = make_train_step(
        mesh,
        model=program.model,
        optimizer=program.optimizer,
        objective=program.objective,
        preprocess=program.preprocess,
        seed=config.seed,
        stage=stage,
        ema=config.optim.ema,
        microbatches=config.train.microbatches,
    )
    state = _state_shapes(config, program, mesh)
    batch = _batch_shapes(config.data.crop, program.plan.batch_size, mesh)
    return step.lower(state, batch).compile()


def compile_eval_step(
    config: ml_collections.ConfigDict, program: Program, mesh: Mesh
) -> jax.stages.Compiled:
    """Compiles the evaluation step from shapes alone."""
    step = make_eval_step(
        mesh, model=program.model, preprocess=program.preprocess, flip=bool(config.eval.flip)
    )
    state = _state_shapes(config, program, mesh)
    batch = _batch_shapes(config.data.crop, eval_batch_size(config, mesh), mesh)
    return step.lower(state.inference_params, state.batch_stats, batch).compile()


def _state_shapes(config: ml_collections.ConfigDict, program: Program, mesh: Mesh) -> TrainState:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated(mesh)),
        jax.eval_shape(state_initializer(config, program), jax.random.key(0)),
    )


def _batch_shapes(crop: int, batch_size: int, mesh: Mesh) -> Batch:
    rows = sharded_by_batch(mesh)
    fields = Batch(
        image=((crop, crop, 3), jnp.uint8),
        label=((), jnp.int32),
        image_id=((), jnp.int32),
        mask=((), jnp.bool_),
    )
    return Batch(
        *(jax.ShapeDtypeStruct((batch_size, *row), kind, sharding=rows) for row, kind in fields)
    )
