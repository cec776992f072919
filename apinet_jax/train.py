"""A training run, from an empty or interrupted workdir to its results."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh

from apinet_jax import memory
from apinet_jax.array_types import TrainState
from apinet_jax.assemble import (
    Program,
    compile_train_step,
    fresh_state,
    make_dataset,
    make_eval_loader,
    make_program,
    make_train_loader,
    with_pretrained,
)
from apinet_jax.auto import choose
from apinet_jax.checkpoint import Checkpoints
from apinet_jax.config import check_config, flatten
from apinet_jax.data.source import Dataset
from apinet_jax.evaluate import evaluate
from apinet_jax.loop import Run, fit
from apinet_jax.mesh import check_divisible, make_mesh, replicated
from apinet_jax.metrics import EvalSummary
from apinet_jax.report import finish
from apinet_jax.run_record import begin_session, check_same_run, new_record, read_record
from apinet_jax.signals import stop_requests
from apinet_jax.steps import Stage, make_eval_step
from apinet_jax.writer import MetricsWriter, say


def train(config: ml_collections.ConfigDict, workdir: Path, *, extend: bool = False) -> None:
    """Trains in `workdir`, or goes on where a run there stopped, and reports the results.

    Args:
        config: The configuration; fields that are `None` are chosen here.
        workdir: Folder of the run, made where missing.
        extend: Whether a run may be continued over more epochs than it was planned for.

    Raises:
        InputError: If the configuration, the data or the workdir do not fit.
        RunError: If the program does not fit the device, or the loss is no longer finite.
        Interrupted: After SIGTERM or Ctrl-C, with the state saved.
    """
    check_config(config)
    record = read_record(workdir)
    mesh = make_mesh()
    dataset = make_dataset(config)
    config = _completed(config, dataset, mesh, record)
    if record is None:
        fingerprint, pretrained = dataset.fingerprint, config.model.pretrained
        record = new_record(flatten(config), fingerprint, pretrained)
    else:
        if check_same_run(record, flatten(config), dataset.fingerprint, workdir, extend=extend):
            say(
                f"Extended from {record['config']['optim.epochs']:g} to {config.optim.epochs:g} "
                "epochs. The cosine of the learning rate is planned anew over all of them."
            )
        record["config"] = flatten(config)

    program = make_program(config, len(dataset.class_names), len(dataset.train), mesh)
    loader = make_train_loader(config, dataset, program.plan)
    with (
        jax.set_mesh(mesh),
        stop_requests() as check_signals,
        Checkpoints(workdir, config.checkpoint.keep) as checkpoints,
    ):
        start = checkpoints.latest_step()
        state = _first_state(config, program, mesh, checkpoints, start)
        stages = _compiled_stages(config, dataset, program, mesh, start or 0)
        begin_session(workdir, record, start or 0)
        with MetricsWriter(workdir, start or 0) as writer:
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
            finish(run, state)


def _completed(
    config: ml_collections.ConfigDict,
    dataset: Dataset,
    mesh: Mesh,
    record: dict[str, Any] | None,
) -> ml_collections.ConfigDict:
    """Fills the open fields, from the record of the run where there is one, and says how."""
    splits = (dataset.train, dataset.validation, dataset.test)
    device = mesh.devices.flat[0]
    config, choices = choose(
        config,
        dataset.train.labels,
        sum(len(split) for split in splits if split is not None),
        device.platform,
        mesh.size,
        memory.device_bytes(device),
        record and record["config"],
    )
    say(*choices)
    check_config(config)
    batch_size = config.batch.classes * config.batch.images
    check_divisible(batch_size, mesh, "batch.classes x batch.images")
    return config


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
    stages: dict[Stage, Any] = {}
    if plan.frozen < plan.total:
        stages["full"] = compile_train_step(config, program, mesh, "full")
    if start < plan.frozen:
        stages["frozen"] = compile_train_step(config, program, mesh, "frozen")
    need = max(memory.program_bytes(stage) for stage in stages.values())
    has = memory.device_bytes(mesh.devices.flat[0])
    say(
        f"A step needs {memory.human(need)} of the {memory.human(has)} of each device "
        f"({mesh.size} x {mesh.devices.flat[0].device_kind})."
    )

    def measure(field: str, value: Any) -> int:
        other = ml_collections.ConfigDict(config.to_dict())
        other.update_from_flattened_dict({field: value})
        program = make_program(other, len(dataset.class_names), len(dataset.train), mesh)
        return memory.program_bytes(compile_train_step(other, program, mesh, "full"))

    memory.check_fits(need, has, memory.smaller(config, mesh.size), measure)
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
        state = with_pretrained(state, config.model.trunk, config.model.pretrained)
    return jax.device_put(state, replicated(mesh))


def _evaluator(
    config: ml_collections.ConfigDict,
    dataset: Dataset,
    program: Program,
    mesh: Mesh,
    check_signals: Callable[[], None],
) -> Callable[[TrainState, str], EvalSummary]:
    """Evaluates a state on a split by name; the step is compiled once for all of them."""
    eval_step = make_eval_step(mesh, model=program.model, preprocess=program.preprocess)

    def evaluate_on(state: TrainState, split: str) -> EvalSummary:
        return evaluate(
            eval_step,
            state.params,
            state.batch_stats,
            make_eval_loader(config, getattr(dataset, split), dataset.fingerprint, mesh),
            mesh,
            title=f"Evaluating {split} images",
            workers=config.data.workers,
            before_batch=check_signals,
        )

    return evaluate_on
