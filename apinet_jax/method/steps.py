"""The training step, a pure function compiled once per stage, and the compiled evaluation step."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key, UInt8

from apinet_jax.data.batch import Batch
from apinet_jax.method.classify import classify_images
from apinet_jax.method.device_images import DeviceImages, cut_crops
from apinet_jax.method.interaction import APINet
from apinet_jax.method.objective import Objective, evaluate_objective
from apinet_jax.method.optim import TRUNK
from apinet_jax.method.trunk_pass import Preprocess, trunk_features
from apinet_jax.method.types import StepMetrics, TrainState
from apinet_jax.system.compiler_options import compiler_options
from apinet_jax.system.mesh import replicated, sharded_by_batch

Stage = Literal["frozen", "full"]

# Separates the drop path from the objective, which uses the key of the step.
_DROP_PATH = 2


def init_state(
    model: APINet,
    optimizer: optax.GradientTransformation,
    key: Key[Array, ""],
    crop: int,
    ema: float = 0.0,
) -> TrainState:
    """Return a freshly initialised state, before the first step.

    Args:
        model: The network.
        optimizer: Its optimizer.
        key: Key of the parameters.
        crop: Height and width of an image; parameters do not depend on it.
        ema: Decay of the average of the parameters; 0 for no average.
    """
    variables = model.init(key, jnp.zeros((1, crop, crop, 3)))
    params = variables["params"]
    batch_stats = variables.get("batch_stats", {})
    average = jax.tree.map(jnp.copy, params) if ema else None
    opt_state = optimizer.init(params)
    return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, opt_state, average)


def train_step(
    state: TrainState,
    batch: Batch,
    key: Key[Array, ""],
    *,
    model: APINet,
    optimizer: optax.GradientTransformation,
    objective: Objective,
    preprocess: Preprocess,
    stage: Stage,
    ema: float = 0.0,
    microbatches: int = 1,
    shards: int = 1,
) -> tuple[TrainState, StepMetrics]:
    """Return the state after one update on one global batch, and the metrics before it.

    In the `frozen` stage the trunk only runs forward: its BatchNorm statistics are updated, no
    gradient flows through it, and the optimizer ignores the zero gradient that it gets. A batch of
    features that were computed before does not run it at all.

    Args:
        state: State before the step; its buffers are donated when compiled by `make_train_step`.
        batch: The global batch.
        key: Key of the run, for dropout, drop path and random partners; the step is folded in.
        model: The network.
        optimizer: Its optimizer.
        objective: Switches of the objective.
        preprocess: Pixel statistics and compute type.
        stage: `frozen` or `full`.
        ema: Decay of the average of the parameters, if the state has one. In the first steps it
            is smaller, (1 + t) / (10 + t), to forget the initial parameters.
        microbatches: Parts of the batch that the trunk processes in sequence; pairs are mined
            over the complete batch.
        shards: Devices that share the batch.
    """
    key = jax.random.fold_in(key, state.step)
    trunk = {TRUNK: state.params[TRUNK]}
    head = {name: leaves for name, leaves in state.params.items() if name != TRUNK}
    trained, fixed = (head, trunk) if stage == "frozen" else (state.params, {})
    # A trunk that does not learn needs no regularisation.
    drop_key = None if stage == "frozen" else jax.random.fold_in(key, _DROP_PATH)

    def loss_fn(trained: dict[str, Any]) -> tuple[Float[Array, ""], Any]:
        params = {**trained, **fixed}
        variables = {"params": params, "batch_stats": state.batch_stats}
        features, mutated = trunk_features(
            model, variables, batch.image, preprocess, microbatches, shards, drop_key
        )
        terms, top1, pairs = evaluate_objective(model, params, features, batch, objective, key)
        return terms.total, (terms, top1, pairs, mutated)

    (_, (terms, top1, pairs, mutated)), grads = jax.value_and_grad(loss_fn, has_aux=True)(trained)
    grads = {**grads, **jax.tree.map(jnp.zeros_like, fixed)}
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = {**optax.apply_updates(state.params, updates), **fixed}
    average = state.ema
    if average is not None:
        done = state.step.astype(jnp.float32)
        keep = jnp.minimum(ema, (1 + done) / (10 + done))
        still = {name: average[name] for name in fixed}
        average = {**optax.incremental_update(params, average, 1 - keep), **still}
    new_state = TrainState(
        step=state.step + 1,
        params=params,
        batch_stats=mutated.get("batch_stats", {}),
        opt_state=opt_state,
        ema=average,
    )
    grad_norm = optax.tree.norm(grads)
    return new_state, StepMetrics(*terms, top1, grad_norm, pairs)


def step_on_places(
    step: Callable[..., tuple[TrainState, StepMetrics]],
    cut: Callable[..., UInt8[Array, "B H W 3"]],
    state: TrainState,
    batch: Batch,
    key: Key[Array, ""],
    images: UInt8[Array, "N R R*3"],
) -> tuple[TrainState, StepMetrics]:
    """Return the result of a step on crops of images that are on the device."""
    return step(state, batch._replace(image=cut(images, batch.image)), key)


def make_train_step(
    mesh: Mesh,
    *,
    deterministic: bool = True,
    device_images: DeviceImages | None = None,
    **settings: Any,
) -> Callable[..., tuple[TrainState, StepMetrics]]:
    """Compile `train_step` for `mesh`: batch by rows, the rest replicated, the state donated.

    Args:
        mesh: The data mesh.
        deterministic: Whether a GPU must compute the same bits in every run.
        device_images: For images that stay on the devices: the step takes them as its fourth
            argument, and its batch has the places of the crops.
        **settings: The keyword arguments of `train_step` except `shards`.
    """
    everywhere = replicated(mesh)
    step = partial(train_step, **settings, shards=mesh.size)
    shardings = (everywhere, sharded_by_batch(mesh), everywhere)
    if device_images is not None:
        step = partial(step_on_places, step, partial(cut_crops, layout=device_images, mesh=mesh))
        shardings = (*shardings, device_images.sharding(mesh))
    return jax.jit(
        step,
        in_shardings=shardings,
        out_shardings=(everywhere, everywhere),
        donate_argnums=0,
        compiler_options=compiler_options(mesh.devices.flat[0].platform, deterministic),
    )


def make_eval_step(
    mesh: Mesh, function: Callable[..., Float[Array, "B _"]] = classify_images, **settings: Any
) -> Callable[[dict[str, Any], dict[str, Any], UInt8[Array, "B H W 3"]], Float[Array, "B _"]]:
    """Compile a function of single images for `mesh`: images by rows, its results replicated.

    A GPU computes the same bits in every run, whatever `train.deterministic` says.

    Args:
        mesh: The data mesh.
        function: `classify_images` or `image_features`.
        **settings: Its keyword arguments.
    """
    everywhere = replicated(mesh)
    return jax.jit(
        partial(function, **settings),
        in_shardings=(everywhere, everywhere, sharded_by_batch(mesh)),
        out_shardings=everywhere,
        compiler_options=compiler_options(mesh.devices.flat[0].platform, deterministic=True),
    )
