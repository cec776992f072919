"""A training run in four stages: decide, build, fit, report."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh

from apinet_jax.data.crops import CachedViews
from apinet_jax.data.pipeline import TrainLoader
from apinet_jax.data.source import Dataset
from apinet_jax.evaluation import Evaluation, evaluate_split
from apinet_jax.feature_cache import Features, cached_features
from apinet_jax.loop import Run, fit
from apinet_jax.method.steps import Stage, make_eval_step
from apinet_jax.method.types import TrainState
from apinet_jax.results import TrainResult, report_results
from apinet_jax.setup import memory
from apinet_jax.setup.build import (
    Program,
    fresh_state,
    load_pretrained,
    make_program,
)
from apinet_jax.setup.compile import compile_train_step
from apinet_jax.setup.decide import decide
from apinet_jax.setup.loaders import (
    batch_workers,
    images_on_device,
    make_eval_loader,
    make_train_loader,
)
from apinet_jax.system import hosts
from apinet_jax.system.console import say
from apinet_jax.system.mesh import make_mesh, replicated
from apinet_jax.system.paths import AnyPath, to_path
from apinet_jax.system.signals import stop_requests
from apinet_jax.workdir.checkpoint import Checkpoints
from apinet_jax.workdir.lock import lock_workdir_for_job
from apinet_jax.workdir.metrics_log import MetricsRows, MetricsWriter
from apinet_jax.workdir.record import begin_session


def train(
    config: ml_collections.ConfigDict,
    workdir: AnyPath | str,
    *,
    extend: bool = False,
    devices: Sequence[jax.Device] | None = None,
) -> TrainResult:
    """Train in `workdir`, or resume the run that stopped there, and report the results.

    Args:
        config: The configuration; fields that are `None` are chosen from the data and the devices.
        workdir: Folder of the run, created where missing.
        extend: Whether a run may continue over more epochs than planned.
        devices: Devices that share each batch; all by default.

    Returns:
        The chosen checkpoint with its figures, and the history of the run.

    Raises:
        InputError: If the configuration, the data or the workdir do not fit, or another process
            trains there.
        RunError: If the program does not fit the device, the loss is no longer finite, or the disk
            refuses a write.
        Interrupted: After SIGTERM, SIGHUP or Ctrl-C, with the state saved.
    """
    workdir, mesh = to_path(workdir), make_mesh(devices)
    decision, dataset = decide(config, workdir, mesh, extend=extend)
    with (
        lock_workdir_for_job(workdir, decision.recorded),
        jax.set_mesh(mesh),
        stop_requests() as check_signals,
        Checkpoints(workdir, decision.config.checkpoint.keep) as checkpoints,
    ):
        built = build(decision.config, dataset, mesh, checkpoints, check_signals)
        begin_session(workdir, decision.record, built.start)
        metrics = MetricsWriter if hosts.is_primary() else MetricsRows
        with (
            checkpoints.name_last_checkpoint_in_errors(),
            metrics(workdir, built.start) as writer,
        ):
            program = built.program
            steps = jnp.arange(program.plan.total)
            run = Run(
                config=decision.config,
                workdir=workdir,
                dataset=dataset,
                mesh=mesh,
                plan=program.plan,
                learning_rate=np.asarray(jax.vmap(program.schedule)(steps)),
                checkpoints=checkpoints,
                writer=writer,
                metadata={
                    "config": decision.config.to_dict(),
                    "class_names": list(dataset.class_names),
                },
                evaluate=_evaluator(decision.config, dataset, built, mesh, check_signals),
                check_signals=check_signals,
            )
            state = fit(run, built.state, built.loader, built.stages)
            return report_results(run, state)


class Built(NamedTuple):
    """What a run needs before its first step.

    Attributes:
        program: Network, optimizer, objective and plan.
        loader: Makes the batch of a step.
        features: Features of all images, with `train.features=cache`.
        start: Steps done.
        state: State to continue from.
        stages: The compiled step of each stage that is still ahead.
    """

    program: Program
    loader: TrainLoader
    features: Features | None
    start: int
    state: TrainState
    stages: dict[Stage, Callable[..., Any]]


def build(
    config: ml_collections.ConfigDict,
    dataset: Dataset,
    mesh: Mesh,
    checkpoints: Checkpoints,
    check_signals: Callable[[], None],
) -> Built:
    """Build the program, the loader and the first state, and compile the steps.

    Raises:
        InputError: If weights or a checkpoint cannot be read.
        RunError: If the step needs more memory than the device has.
    """
    program = make_program(config, len(dataset.class_names), len(dataset.train), mesh)
    saved = hosts.broadcast_from_primary(checkpoints.latest_step)
    state = _first_state(config, program, mesh, checkpoints, saved)
    features = image = None
    if config.train.features == "cache":
        features = cached_features(config, dataset, program, state, mesh, check_signals)
        image = CachedViews(features.train, config.seed)
    loader = hosts.run_on_primary_first(
        lambda: make_train_loader(config, dataset, program.plan, mesh, image)
    )
    start = saved or 0
    stages = _compile(config, dataset, program, mesh, start)
    if stages and program.device_images is not None:
        images = images_on_device(config, dataset, program.device_images, mesh)
        stages = {name: _on_images(step, images) for name, step in stages.items()}
    return Built(program, loader, features, start, state, stages)


def _on_images(step: Callable[..., Any], images: jax.Array) -> Callable[..., Any]:
    """Return a step with the images that it cuts its crops from."""
    return lambda state, batch, key: step(state, batch, key, images)


def _first_state(
    config: ml_collections.ConfigDict,
    program: Program,
    mesh: Mesh,
    checkpoints: Checkpoints,
    saved: int | None,
) -> TrainState:
    """Return the newest checkpoint; else a fresh state, its trunk pretrained where asked for."""
    replaced = saved is not None or bool(config.model.pretrained)
    state = fresh_state(config, program, mesh, blank_trunk=replaced)
    if saved is not None:
        say(f"Continuing after step {saved} of {program.plan.total}.")
        return checkpoints.restore(saved, state)
    if config.model.pretrained:
        say(f"The trunk starts from {config.model.pretrained}.")
        state = load_pretrained(state, config.model.trunk, config.model.pretrained)
    return jax.device_put(state, replicated(mesh))


def _compile(
    config: ml_collections.ConfigDict,
    dataset: Dataset,
    program: Program,
    mesh: Mesh,
    start: int,
) -> dict[Stage, Callable[..., Any]]:
    """Compile the stages that are ahead, print their memory and refuse what does not fit.

    The full stage needs the most memory, so it is compiled first even where it runs last.
    """
    plan = program.plan
    if start >= plan.total:
        return {}
    say(
        f"{plan.total} steps of {plan.batch_size} images: {plan.total / plan.epoch:g} epochs of "
        f"{len(dataset.train)}, the backbone frozen for {plan.frozen} steps. Compiling ..."
    )
    ahead: list[Stage] = ["full"] if plan.frozen < plan.total else []
    if start < plan.frozen:
        ahead.append("frozen")

    def compiled(changes: dict[str, Any], stage: Stage) -> jax.stages.Compiled | None:
        other = config.copy_and_resolve_references()
        other.update_from_flattened_dict(changes)
        program = make_program(other, len(dataset.class_names), len(dataset.train), mesh)
        return memory.compile_unless_too_large(
            partial(compile_train_step, other, program, mesh, stage)
        )

    stages = {stage: compiled({}, stage) for stage in ahead}
    fits = all(stages.values())
    needed = max(map(memory.program_bytes, stages.values())) if fits else None
    device = mesh.local_devices[0]
    available = memory.device_bytes(device)
    if needed is not None:
        say(
            f"A step needs {memory.format_bytes(needed)} of the {memory.format_bytes(available)} "
            f"of each device ({mesh.size} x {device.device_kind})."
        )
    options = memory.memory_saving_options(config, mesh.size, device.platform)
    # The compiler for GPUs shares its timings among the processes of a job: one that compiles what
    # the others do not would wait for them.
    try_option = None if hosts.is_multiprocess() else lambda changes: compiled(changes, ahead[0])
    hosts.broadcast_from_primary(lambda: memory.check_fits(needed, available, options, try_option))
    hosts.wait_for_all_processes()  # the first collective times out if a slow compiler is late
    return stages


def _evaluator(
    config: ml_collections.ConfigDict,
    dataset: Dataset,
    built: Built,
    mesh: Mesh,
    check_signals: Callable[[], None],
) -> Callable[[TrainState, str], Evaluation]:
    """Return a function that evaluates a state on a split; its step is compiled once."""
    program, features = built.program, built.features
    eval_step = make_eval_step(
        mesh, model=program.model, preprocess=program.preprocess, flip=bool(config.eval.flip)
    )

    def evaluate_on(state: TrainState, split: str) -> Evaluation:
        source = getattr(dataset, split)
        image = None if features is None else features.evaluated[split].__getitem__
        loader = hosts.run_on_primary_first(
            lambda: make_eval_loader(config, source, dataset.fingerprint, mesh, image)
        )
        return evaluate_split(
            eval_step,
            state.inference_params,
            state.batch_stats,
            loader,
            mesh,
            title=f"Evaluating {split} images",
            workers=batch_workers(config),
            before_batch=check_signals,
        )

    return evaluate_on
