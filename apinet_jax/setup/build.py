"""The objects that a configuration describes: data set, network, optimizer, first state."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Key

from apinet_jax.data.catalog import open_dataset
from apinet_jax.data.source import Dataset
from apinet_jax.data.stratify import hold_out
from apinet_jax.method.device_images import DeviceImages, layout_of
from apinet_jax.method.durations import epochs_to_steps, steps_per_epoch
from apinet_jax.method.interaction import APINet
from apinet_jax.method.objective import Objective
from apinet_jax.method.optim import TRUNK, cosine_schedule, make_optimizer
from apinet_jax.method.steps import Preprocess, init_state
from apinet_jax.method.types import TrainState
from apinet_jax.models import make_trunk, trunk_spec
from apinet_jax.models.weights.hub import find_pretrained
from apinet_jax.models.weights.recognise import read_weights
from apinet_jax.models.weights.torch_names import load_torch_tensors
from apinet_jax.system.errors import InputError
from apinet_jax.system.mesh import replicated
from apinet_jax.system.paths import AnyPath, is_remote

MOST_STEPS = 10_000_000  # the batches of all steps are tabulated before the first


class Plan(NamedTuple):
    """Length of a run, in steps.

    Attributes:
        batch_size: Images of the global batch, `B`.
        epoch: Steps of one pass over the training images.
        total: Steps of the run.
        frozen: Steps in which the backbone is frozen.
        save_every: Steps between two checkpoints.
        evaluate_every: Steps between two evaluations on held-out images.
    """

    batch_size: int
    epoch: int
    total: int
    frozen: int
    save_every: int
    evaluate_every: int

    def evaluates(self, step: int) -> bool:
        """Return whether held-out images are evaluated after this step, counted from 1."""
        return step > 0 and (step % self.evaluate_every == 0 or step == self.total)


def make_dataset(
    config: ml_collections.ConfigDict, workdir: AnyPath | None = None, *, all_as_test: bool = False
) -> Dataset:
    """Open the data set, preparing it first where needed, and hold out validation images.

    Args:
        config: The configuration.
        workdir: Folder of the run, which is no class although it may be in the image folder.
        all_as_test: Whether all images of a folder without splits are test images.

    Raises:
        InputError: If something is wrong with the files, or nothing can be held out.
        RunError: If a download fails, or the records cannot be written.
    """
    data = config.data
    dataset = open_dataset(
        data.name,
        data.dir,
        data.manual_dir,
        data.skip_unreadable,
        data.crop_to_box,
        outputs=[] if workdir is None or is_remote(workdir) else [workdir],
        all_as_test=all_as_test,
    )
    if data.val_fraction:
        if dataset.validation is not None:
            raise InputError(
                f"The folder has validation images, and data.val_fraction = {data.val_fraction} "
                "asks to hold out more. Set data.val_fraction=0."
            )
        dataset = hold_out(dataset, data.val_fraction, config.seed)
    return dataset


def make_plan(config: ml_collections.ConfigDict, num_images: int) -> Plan:
    """Turn epochs into steps.

    Raises:
        InputError: The run would be too long.
    """
    batch_size = config.batch.classes * config.batch.images
    epoch = steps_per_epoch(num_images, batch_size)

    def to_steps(epochs: float) -> int:
        return epochs_to_steps(epochs, num_images, batch_size)

    total = max(1, to_steps(config.optim.epochs))
    if total > MOST_STEPS:
        raise InputError(
            f"optim.epochs = {config.optim.epochs:g} are {total:.3g} steps, and a run can have at "
            f"most {MOST_STEPS:g}. Lower optim.epochs."
        )
    cached = config.train.features == "cache"
    frozen = total if cached else min(total, to_steps(config.optim.frozen_epochs))
    save_every, evaluate_every = (
        max(1, to_steps(epochs)) for epochs in (config.checkpoint.every, config.eval.every)
    )
    return Plan(batch_size, epoch, total, frozen, save_every, evaluate_every)


def make_network(
    config: ml_collections.ConfigDict, num_classes: int, num_devices: int = 1
) -> tuple[APINet, Preprocess]:
    """Return the network, without parameters, and the normalisation of its images.

    Args:
        config: Completed configuration.
        num_classes: Classes, `C`.
        num_devices: Devices that share a batch, for BatchNorm per device.
    """
    spec = trunk_spec(config.model.trunk)
    dtype = jnp.dtype(config.model.dtype)
    groups = {"global": 1, "per_device": num_devices, "fixed": 0}[config.model.batch_norm]
    pool = config.model.pool
    model = APINet(
        trunk=make_trunk(
            config.model.trunk, dtype, groups, config.model.remat, pool, config.model.drop_path
        ),
        feature_width=spec.feature_width(pool),
        num_classes=num_classes,
        hidden=config.model.hidden,
        dropout=config.model.dropout,
        mutual_activation=config.model.mutual_activation,
        mutual=config.model.mutual,
        gates=config.model.gates,
        interaction=config.model.interaction if config.method == "apinet" else "none",
    )
    mean, std = config.model.get("mean"), config.model.get("std")  # older checkpoints have none
    return model, Preprocess(tuple(mean or spec.mean), tuple(std or spec.std), dtype)


class Program(NamedTuple):
    """The parts of the compiled steps.

    Attributes:
        model: The network.
        preprocess: Pixel statistics and compute type.
        optimizer: Its optimizer.
        schedule: The learning rate that the optimizer follows.
        objective: The switches of the objective.
        plan: Length of the run.
        device_images: How the training images are stored on the devices, if they are.
    """

    model: APINet
    preprocess: Preprocess
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    objective: Objective
    plan: Plan
    device_images: DeviceImages | None


def make_program(
    config: ml_collections.ConfigDict, num_classes: int, num_images: int, mesh: Mesh
) -> Program:
    """Return the parts of the training step.

    Args:
        config: Completed configuration.
        num_classes: Classes, `C`.
        num_images: Training images, `N`.
        mesh: The data mesh.
    """
    model, preprocess = make_network(config, num_classes, mesh.size)
    plan = make_plan(config, num_images)
    optim = config.optim
    warmup = epochs_to_steps(optim.warmup_epochs, num_images, plan.batch_size)
    schedule = cosine_schedule(optim.lr, plan.total, min(warmup, plan.total - 1))
    optimizer = make_optimizer(
        schedule,
        momentum=optim.momentum,
        weight_decay=optim.weight_decay,
        decay_bn_bias=optim.decay_bn_bias,
        frozen_steps=None if config.train.features == "cache" else plan.frozen,
        rule=optim.rule,
        nesterov=optim.nesterov,
        head_lr_factor=optim.head_lr_factor,
    )
    objective = Objective(
        method=config.method,
        distance=config.pairs.distance,
        choice=config.pairs.choice,
        kinds=config.pairs.kinds,
        reduction=config.loss.reduction,
        rank_weight=config.loss.rank_weight,
        rank_margin=config.loss.rank_margin,
        label_smoothing=config.loss.label_smoothing,
        ungated_weight=config.loss.ungated_weight,
        contrast_weight=config.loss.contrast_weight,
        dropout_samples=config.loss.dropout_samples,
    )
    on_device = config.data.cache == "device" and config.train.features != "cache"
    sizes = (config.data.resize, config.data.crop)
    images = layout_of(num_images, *sizes, mesh.size) if on_device else None
    return Program(model, preprocess, optimizer, schedule, objective, plan, images)


def fresh_state(
    config: ml_collections.ConfigDict, program: Program, mesh: Mesh, *, blank_trunk: bool = False
) -> TrainState:
    """Return a freshly initialised state, replicated over the mesh.

    Args:
        config: Completed configuration.
        program: Network and optimizer.
        mesh: The data mesh.
        blank_trunk: Whether the trunk's parameters are zero, where others replace them: a large
            trunk takes long to compile.
    """
    initialise = state_initializer(config, program)

    def blank(params: dict[str, Any]) -> dict[str, Any]:
        return {**params, TRUNK: jax.tree.map(jnp.zeros_like, params[TRUNK])}

    def draw(key: Key[Array, ""]) -> TrainState:
        state = initialise(key)
        if not blank_trunk:
            return state
        ema = None if state.ema is None else blank(state.ema)
        return state._replace(params=blank(state.params), ema=ema)

    return jax.jit(draw, out_shardings=replicated(mesh))(jax.random.key(config.seed))


def run_key(config: ml_collections.ConfigDict, mesh: Mesh) -> Key[Array, ""]:
    """Return the key of a run, replicated over the mesh."""
    make_key = jax.jit(jax.random.key, out_shardings=replicated(mesh))
    return make_key(np.uint32(config.seed))


def state_initializer(
    config: ml_collections.ConfigDict, program: Program
) -> Callable[[Key[Array, ""]], TrainState]:
    """Return the function from a key to the state before the first step."""
    options = {"crop": config.data.crop, "ema": config.optim.ema}
    return partial(init_state, program.model, program.optimizer, **options)


def load_pretrained(state: TrainState, trunk: str, name: str | Path) -> TrainState:
    """Return `state` with pretrained weights in the trunk, every tensor matched; keep the head.

    Args:
        state: A fresh state.
        trunk: Name of the trunk.
        name: Weights, as for `find_pretrained`.

    Raises:
        InputError: The weights cannot be read or belong to another trunk; the differences are
            listed.
    """
    tensors = read_weights(find_pretrained(str(name)).path, trunk)
    inside = {"params": state.params[TRUNK]}
    if TRUNK in state.batch_stats:
        inside["batch_stats"] = state.batch_stats[TRUNK]
    loaded = load_torch_tensors(tensors, inside, trunk_spec(trunk).classifier_prefixes)
    params = {**state.params, TRUNK: loaded["params"]}
    batch_stats = dict(state.batch_stats)
    if "batch_stats" in loaded:
        batch_stats[TRUNK] = loaded["batch_stats"]
    average = None if state.ema is None else jax.tree.map(jnp.copy, params)
    return state._replace(params=params, batch_stats=batch_stats, ema=average)
