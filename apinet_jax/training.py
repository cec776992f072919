"""A training run, from an empty or interrupted workdir to its results."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh

from apinet_jax.config import check_config, flatten
from apinet_jax.data.source import Dataset
from apinet_jax.evaluation import Evaluation, evaluate
from apinet_jax.loop import Run, fit
from apinet_jax.method.steps import Stage, make_eval_step
from apinet_jax.method.types import TrainState
from apinet_jax.models import check_trunk
from apinet_jax.models.weights.hub import find_pretrained, pin_source
from apinet_jax.models.weights.recognise import check_weights
from apinet_jax.report import report_results
from apinet_jax.setup import memory
from apinet_jax.setup.auto import choose
from apinet_jax.setup.build import (
    Program,
    fresh_state,
    load_pretrained,
    make_dataset,
    make_eval_loader,
    make_program,
    make_train_loader,
)
from apinet_jax.setup.compile import compile_train_step
from apinet_jax.system import hosts
from apinet_jax.system.console import say
from apinet_jax.system.errors import InputError
from apinet_jax.system.mesh import check_divisible, make_mesh, replicated
from apinet_jax.system.paths import AnyPath, is_remote, to_path
from apinet_jax.system.signals import stop_requests
from apinet_jax.workdir.checkpoint import Checkpoints
from apinet_jax.workdir.lock import lock_workdir_for_job
from apinet_jax.workdir.metrics_log import MetricsRows, MetricsWriter
from apinet_jax.workdir.record import begin_session, check_same_run, new_record, read_record


def train(
    config: ml_collections.ConfigDict, workdir: AnyPath | str, *, extend: bool = False
) -> None:
    """Trains in `workdir`, or goes on where a run there stopped, and reports the results.

    Args:
        config: The configuration; fields that are `None` are chosen here.
        workdir: Folder of the run, made where missing.
        extend: Whether a run may be continued over more epochs than it was planned for.

    Raises:
        InputError: If the configuration, the data or the workdir do not fit, or another process
            trains there.
        RunError: If the program does not fit the device, the loss is no longer finite, or the disk
            does not take what is written.
        Interrupted: After SIGTERM or Ctrl-C, with the state saved.
    """
    workdir = to_path(workdir)
    recorded = hosts.broadcast_from_primary(lambda: _read_checked(config, workdir))
    config = _with_lasting_names(config, recorded)
    if recorded is None and config.model.pretrained:
        hosts.run_on_primary_first(
            lambda: check_weights(find_pretrained(config.model.pretrained).path, config.model.trunk)
        )
    mesh = make_mesh()
    dataset = hosts.run_on_primary_first(lambda: make_dataset(config))
    _check_same_images(dataset)
    config = _completed(config, dataset, mesh, recorded)
    record = hosts.broadcast_from_primary(
        lambda: _record(config, dataset, mesh, recorded, workdir, extend=extend)
    )
    program = make_program(config, len(dataset.class_names), len(dataset.train), mesh)
    loader = hosts.run_on_primary_first(
        lambda: make_train_loader(config, dataset, program.plan, mesh)
    )
    with (
        lock_workdir_for_job(workdir, recorded),
        jax.set_mesh(mesh),
        stop_requests() as check_signals,
        Checkpoints(workdir, config.checkpoint.keep) as checkpoints,
    ):
        start = hosts.broadcast_from_primary(checkpoints.latest_step)
        state = _first_state(config, program, mesh, checkpoints, start)
        stages = _compiled_stages(config, dataset, program, mesh, start or 0)
        begin_session(workdir, record, start or 0)
        metrics = MetricsWriter if hosts.is_primary() else MetricsRows
        with checkpoints.name_last_checkpoint_in_errors(), metrics(workdir, start or 0) as writer:
            run = Run(
                config=config,
                workdir=workdir,
                dataset=dataset,
                mesh=mesh,
                plan=program.plan,
                learning_rate=np.asarray(
                    jax.vmap(program.schedule)(jnp.arange(program.plan.total))
                ),
                checkpoints=checkpoints,
                writer=writer,
                metadata={
                    "config": config.to_dict(),
                    "class_names": list(dataset.class_names),
                },
                evaluate=_evaluator(config, dataset, program, mesh, check_signals),
                check_signals=check_signals,
            )
            state = fit(run, state, loader, stages)
            report_results(run, state)


def _read_checked(config: ml_collections.ConfigDict, workdir: AnyPath) -> dict[str, Any] | None:
    """The record of the run that is there, once the settings are known to make sense."""
    check_config(config)
    check_trunk(config.model.trunk, config.data.crop)
    return read_record(workdir)


def _with_lasting_names(
    config: ml_collections.ConfigDict, record: dict[str, Any] | None
) -> ml_collections.ConfigDict:
    """A copy whose files are found from any folder, and whose weights stay what they are now.

    The run's record and its checkpoints keep these names.
    """
    config = config.copy_and_resolve_references()
    for name in ("dir", "manual_dir"):
        if config.data[name] and not is_remote(config.data[name]):
            config.data[name] = os.path.abspath(os.path.expanduser(config.data[name]))
    if config.model.pretrained:
        known = (record and record["pretrained"]) or {}
        config.model.pretrained = hosts.broadcast_from_primary(
            lambda: pin_source(config.model.pretrained, known.get("source"))
        )
    return config


def _completed(
    config: ml_collections.ConfigDict,
    dataset: Dataset,
    mesh: Mesh,
    record: dict[str, Any] | None,
) -> ml_collections.ConfigDict:
    """Fills the open fields, from the record of the run where there is one, and says how."""
    splits = (dataset.train, dataset.validation, dataset.test)
    device = mesh.local_devices[0]

    def chosen() -> dict[str, Any]:
        complete, choices = choose(
            config,
            dataset.train.labels,
            sum(len(split) for split in splits if split is not None),
            device.platform,
            mesh.size,
            memory.device_bytes(device),
            record and record["config"],
        )
        say(*choices)
        check_config(complete)
        batch_size = complete.batch.classes * complete.batch.images
        where = "batch.classes x batch.images"
        check_divisible(batch_size, mesh, where, complete.train.microbatches)
        return complete.to_dict()

    return ml_collections.ConfigDict(hosts.broadcast_from_primary(chosen))


def _check_same_images(dataset: Dataset) -> None:
    """Refuses a host that sees other images under the same name than the first one."""
    first = hosts.broadcast_from_primary(lambda: dataset.fingerprint)
    if dataset.fingerprint != first:
        raise InputError(
            f"Host {jax.process_index()} has other images than host 0: their fingerprint is "
            f"{dataset.fingerprint}, there {first}. Give all hosts the same files."
        )


def _record(
    config: ml_collections.ConfigDict,
    dataset: Dataset,
    mesh: Mesh,
    recorded: dict[str, Any] | None,
    workdir: AnyPath,
    *,
    extend: bool,
) -> dict[str, Any]:
    """The record of a run that begins, or of the one that is there if it may go on like this."""
    flat, fingerprint = flatten(config), dataset.fingerprint
    if recorded is None:
        return new_record(flat, fingerprint, config.model.pretrained, mesh.size)
    if check_same_run(recorded, flat, fingerprint, workdir, extend=extend, num_devices=mesh.size):
        say(
            f"Extended from {recorded['config']['optim.epochs']:g} to {config.optim.epochs:g} "
            "epochs. The cosine of the learning rate is planned anew over all of them."
        )
    return {**recorded, "config": flat}


def _compiled_stages(
    config: ml_collections.ConfigDict,
    dataset: Dataset,
    program: Program,
    mesh: Mesh,
    start: int,
) -> dict[Stage, Callable[..., Any]]:
    """Compiles the stages that are ahead; says what they need and stops what cannot fit.

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
    need = max(map(memory.program_bytes, stages.values())) if fits else None
    has = memory.device_bytes(mesh.local_devices[0])
    if need is not None:
        say(
            f"A step needs {memory.format_bytes(need)} of the {memory.format_bytes(has)} of each "
            f"device ({mesh.size} x {mesh.devices.flat[0].device_kind})."
        )
    smaller = memory.memory_saving_options(config, mesh.size, mesh.devices.flat[0].platform)
    # The compiler for GPUs shares its timings among the processes of a job: one that compiled what
    # the others do not would wait for them.
    compiles = None if hosts.is_multiprocess() else lambda changes: compiled(changes, ahead[0])
    hosts.broadcast_from_primary(lambda: memory.check_fits(need, has, smaller, compiles))
    hosts.wait_for_all_processes()  # the first collective gives up if a slow compiler comes late
    return stages


def _first_state(
    config: ml_collections.ConfigDict,
    program: Program,
    mesh: Mesh,
    checkpoints: Checkpoints,
    start: int | None,
) -> TrainState:
    """The newest checkpoint; else pretrained weights under a fresh head; else all fresh."""
    state = fresh_state(config, program, mesh)
    if start is not None:
        say(f"Continuing after step {start} of {program.plan.total}.")
        return checkpoints.restore(start, state)
    if config.model.pretrained:
        say(f"The trunk starts from {config.model.pretrained}.")
        state = load_pretrained(state, config.model.trunk, config.model.pretrained)
    return jax.device_put(state, replicated(mesh))


def _evaluator(
    config: ml_collections.ConfigDict,
    dataset: Dataset,
    program: Program,
    mesh: Mesh,
    check_signals: Callable[[], None],
) -> Callable[[TrainState, str], Evaluation]:
    """Evaluates a state on a split by name; the step is compiled once for all of them."""
    eval_step = make_eval_step(
        mesh, model=program.model, preprocess=program.preprocess, flip=bool(config.eval.flip)
    )

    def evaluate_on(state: TrainState, split: str) -> Evaluation:
        source = getattr(dataset, split)
        loader = hosts.run_on_primary_first(
            lambda: make_eval_loader(config, source, dataset.fingerprint, mesh)
        )
        return evaluate(
            eval_step,
            state.inference_params,
            state.batch_stats,
            loader,
            mesh,
            title=f"Evaluating {split} images",
            workers=config.data.workers,
            before_batch=check_signals,
        )

    return evaluate_on
