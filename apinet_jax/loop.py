"""The training loop: next batch, one compiled step, and what happens between steps.

Everything that belongs to a step can be repeated from the previous checkpoint with the same
outcome. Rows are written before the checkpoint that makes them final, and held-out images are
evaluated after it. An evaluation that a kill interrupted is repeated.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from apinet_jax.data.pipeline import TrainLoader, stream
from apinet_jax.data.source import Dataset
from apinet_jax.evaluation import Evaluation
from apinet_jax.method.steps import Stage
from apinet_jax.method.types import StepMetrics, TrainState
from apinet_jax.setup.build import Plan, run_key
from apinet_jax.setup.loaders import batch_workers
from apinet_jax.system import hosts
from apinet_jax.system.allocator import allocator_advice
from apinet_jax.system.console import Bar, say
from apinet_jax.system.errors import DivergedError, Interrupted, explain_out_of_memory
from apinet_jax.system.mesh import to_global
from apinet_jax.system.paths import AnyPath
from apinet_jax.workdir.checkpoint import Checkpoints
from apinet_jax.workdir.metrics_log import MetricsRows, json_number

# Steps in flight: the host reads the metrics of a step while the device is busy with the next.
_IN_FLIGHT = 2
# Steps of a stage after which its pace is printed, and the share of waiting that gets advice.
_WARM_UP = 10
_MUCH_WAITING = 0.1

_DIVERGED = "The run was stopped. Try a lower optim.lr in a new workdir."
_LESS_MEMORY = (
    "If another program uses it, the same command continues once that program has ended. Otherwise "
    "try a lower batch.classes, a lower data.crop, or "
    "model.dtype=bfloat16, in a new workdir."
)


class Run(NamedTuple):
    """What the loop and the report of a run share.

    Attributes:
        config: Completed configuration.
        workdir: Folder of the run.
        dataset: Its images.
        mesh: The data mesh.
        plan: Its length in steps.
        learning_rate: Rate of each step.
        checkpoints: Where states are saved.
        writer: Where rows are written.
        metadata: Saved with each state: configuration and class names.
        evaluate: Evaluates a state on a split by name.
        check_signals: Raises `Interrupted` once a signal has asked the run to stop.
    """

    config: ml_collections.ConfigDict
    workdir: AnyPath
    dataset: Dataset
    mesh: Mesh
    plan: Plan
    learning_rate: Float[np.ndarray, " T"]
    checkpoints: Checkpoints
    writer: MetricsRows
    metadata: dict[str, Any]
    evaluate: Callable[[TrainState, str], Evaluation]
    check_signals: Callable[[], None]


class _StepLog:
    """Metrics of steps as rows, in order and a little behind the device."""

    def __init__(self, run: Run, bar: Bar):
        self._run, self._bar = run, bar
        self._in_flight: deque[tuple[int, StepMetrics, float]] = deque()
        self._steps = 0  # of the stage that is running
        self._waits: list[float] = []  # of its steps: share of the time
        self._began = self._previous = time.perf_counter()

    def add(self, step: int, metrics: StepMetrics, waited: float) -> None:
        """Add the metrics of a step that was just started, and write those that are ready.

        Args:
            step: The step's number, from 1.
            metrics: Its metrics, still on the device.
            waited: Seconds that the loop waited for the step's batch.
        """
        self._in_flight.append((step, metrics, waited))
        if len(self._in_flight) > _IN_FLIGHT:
            self._write_oldest()

    def drain(self) -> None:
        """Wait for the device and write the remaining rows."""
        while self._in_flight:
            self._write_oldest()

    def resume_clock(self) -> None:
        """Restart the timing after a pause that belongs to no step."""
        self._began += time.perf_counter() - self._previous
        self._previous = time.perf_counter()

    def _write_oldest(self) -> None:
        step, metrics, waited = self._in_flight.popleft()
        values = {name: value.item() for name, value in jax.device_get(metrics)._asdict().items()}
        now = time.perf_counter()
        seconds, self._previous = now - self._previous, now
        _check_finite(step, values)
        plan = self._run.plan
        self._run.writer.write(
            {
                "kind": "train",
                "step": step,
                "epoch": round(step / plan.epoch, 4),
                **values,
                "lr": round(float(self._run.learning_rate[step - 1]), 9),
                "images_per_s": round(plan.batch_size / seconds, 2),
                "data_wait": round(min(1.0, waited / seconds), 4),
            }
        )
        self._waits.append(waited / seconds)
        self._bar.advance(f"loss {values['loss']:.3f}  top-1 {100 * values['top1']:.0f} %")
        self._steps += 1
        if self._steps == _WARM_UP:
            pace = (now - self._began) / self._steps
            when = "while the backbone is frozen"
            if step > plan.frozen:
                end = time.localtime(time.time() + (plan.total - step) * pace)
                when = f"training should end at {time.strftime('%a %H:%M', end)}"
            say(f"{pace:.3f} s a step, {when}. {_bound(np.median(self._waits), self._run.config)}")
        if step == plan.frozen:  # later steps cost more
            self._steps, self._began, self._waits = 0, now, []


def _bound(waiting: float, config: ml_collections.ConfigDict) -> str:
    """Return a sentence about what bounds the pace, and what would help."""
    if waiting < _MUCH_WAITING:
        advice = allocator_advice() if jax.default_backend() == "cpu" else ""
        return (
            f"Computing bounds it; images take {100 * waiting:.0f} % of the time. {advice}".strip()
        )
    if config.data.cache == "device" or config.train.features == "cache":
        helps = "another program may keep the processor busy"
    elif config.data.cache == "off":
        helps = "data.cache=disk decodes each image only once"
    elif config.data.augmentation == "crop":
        helps = "data.cache=device keeps them on the device"
    else:
        helps = "more data.workers load more at a time"
    return f"Waiting for images takes {min(100, 100 * waiting):.0f} % of the time: {helps}."


def fit(
    run: Run,
    state: TrainState,
    loader: TrainLoader,
    stages: Mapping[Stage, Callable[..., tuple[TrainState, StepMetrics]]],
) -> TrainState:
    """Run the remaining steps.

    Args:
        run: The run.
        state: State to continue from; its buffers are donated.
        loader: Makes the batch of a step.
        stages: The compiled step of each stage that is still ahead.

    Returns:
        The state after the last step, which is saved.

    Raises:
        Interrupted: If a signal asked the run to stop; the state is saved.
        DivergedError: If a loss, a gradient or a state that is to be saved is not finite.
        RunError: If the device runs out of memory, or the disk refuses a write.
    """
    plan, start = run.plan, int(state.step)
    key = run_key(run.config, run.mesh)
    with (
        explain_out_of_memory(_LESS_MEMORY),
        stream(loader, start, plan.total, batch_workers(run.config)) as batches,
        Bar("Training", plan.total, start) as bar,
    ):
        log = _StepLog(run, bar)

        def save() -> None:
            log.drain()
            if not _all_finite(state):
                raise DivergedError(
                    f"After step {int(state.step)} the parameters are no longer finite. {_DIVERGED}"
                )
            run.writer.sync()
            run.checkpoints.save(state, run.metadata)

        try:
            _evaluate_held_out(run, state)
            log.resume_clock()
            for step in range(start + 1, plan.total + 1):
                run.check_signals()
                before = time.perf_counter()
                batch = to_global(next(batches), run.mesh)
                waited = time.perf_counter() - before
                stage: Stage = "frozen" if step <= plan.frozen else "full"
                with jax.transfer_guard("disallow"):
                    state, metrics = stages[stage](state, batch, key)
                log.add(step, metrics, waited)
                evaluates = plan.evaluates(step) and run.dataset.validation is not None
                if step % plan.save_every == 0 or step == plan.total or evaluates:
                    save()
                if evaluates:
                    _evaluate_held_out(run, state)
                    log.resume_clock()
        except Interrupted:
            save()
            run.checkpoints.wait()
            say(f"Stopped: saved after step {int(state.step)}. The same command continues.")
            raise
    return state


def _evaluate_held_out(run: Run, state: TrainState) -> None:
    """Evaluate on held-out images at the end of an epoch, unless its row exists.

    The best state so far is saved before its row is written: a kill in between repeats both. The
    best checkpoint has its score too, so that no worse state replaces it if rows are lost. Of equal
    states the later one is the best, as few held-out images tell little apart.
    """
    step = int(state.step)
    rows = [row for row in run.writer.rows if row["kind"] == "validation"]
    done = any(row["step"] == step for row in rows)
    if run.dataset.validation is None or done or not run.plan.evaluates(step):
        return
    began = time.perf_counter()
    summary = run.evaluate(state, "validation").summary
    scores = [row["top1"] for row in rows]
    if (saved := hosts.broadcast_from_primary(run.checkpoints.best_score)) is not None:
        scores.append(saved)
    if all(summary.top1 >= score for score in scores):
        run.checkpoints.save(state, run.metadata, best_score=summary.top1)
        run.checkpoints.wait()
    run.writer.write(
        {
            "kind": "validation",
            "step": step,
            **{name: getattr(summary, name) for name in ("top1", "top5", "macro")},
            "nll": json_number(summary.nll),
            "ece": json_number(summary.ece),
            "seconds": round(time.perf_counter() - began, 2),
        }
    )
    say(f"Epoch {step / run.plan.epoch:g}: {100 * summary.top1:.2f} % of the held-out images")


def _check_finite(step: int, values: dict[str, float]) -> None:
    """Stop at the first step whose loss or gradient is not finite, before it can be saved."""
    wrong = [f"{name} = {value}" for name, value in values.items() if not np.isfinite(value)]
    if wrong:
        raise DivergedError(f"Step {step} is not finite: {', '.join(wrong)}. {_DIVERGED}")


@jax.jit
def _all_finite(state: TrainState) -> Bool[Array, ""]:
    """Return whether every number is finite: an update may overflow although its gradient is."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(state)]))
