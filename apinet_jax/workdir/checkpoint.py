"""Saving and restoring with orbax, the only file that knows it.

A workdir holds `checkpoints/STEP` (the newest few) and `best/STEP` (the one chosen on held-out
images). Each is two parts, so that inference reads the weights alone: `weights` (parameters and
BatchNorm statistics) and `trainer` (step and optimizer), with `metadata` beside them and a seal
over all (`seal.py`). `checkpoint_files.py` says which of them count.
"""

import contextlib
import logging
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl.logging import get_absl_logger
from jax.sharding import Sharding, SingleDeviceSharding
from orbax.checkpoint import v1 as ocp

from apinet_jax.method.types import TrainState
from apinet_jax.system import hosts
from apinet_jax.system.errors import InputError, RunError, explain_failed_writes
from apinet_jax.system.paths import AnyPath, absolute_path, explain_bucket_errors
from apinet_jax.workdir.checkpoint_files import (
    BEST,
    LAST,
    quarantine_damaged,
    resolve_checkpoint,
    steps_of,
)
from apinet_jax.workdir.seal import find_damage, is_sealed, write_seal

_ANOTHER = "Choose another with --checkpoint=last|best|STEP."


class Weights(NamedTuple):
    """What inference needs.

    Attributes:
        params: Parameters.
        batch_stats: BatchNorm statistics.
        metadata: `step`, `config` (nested), `class_names`.
    """

    params: dict[str, Any]
    batch_stats: dict[str, Any]
    metadata: dict[str, Any]


class Checkpoints:
    """The checkpoints of one workdir, written in the background."""

    def __init__(self, workdir: AnyPath, keep: int):
        """Opens the workdir and clears away what a kill left half-written or half-deleted.

        What is newer than the newest sound checkpoint is put aside, and told.

        Args:
            workdir: Folder of the run.
            keep: Newest checkpoints to keep; the best is kept beside them.

        Raises:
            InputError: If no checkpoint is sound, or the best one is not.
        """
        self._workdir, self._pending = workdir, []
        hosts.broadcast_from_primary(lambda: quarantine_damaged(workdir))
        self._background = ThreadPoolExecutor(2)  # a save to wait for, and its seal
        _FAILED_SAVES.forget()
        get_absl_logger().addFilter(_FAILED_SAVES)  # to stay: orbax's threads may log at the end
        self._last = _open(workdir / LAST, keep)
        self._best = _open(workdir / BEST, 1)

    def latest_step(self) -> int | None:
        """The newest complete step, or `None` in a fresh workdir."""
        return max(steps_of(self._workdir), default=None)

    def save(self, state: TrainState, metadata: dict[str, Any], *, best: bool = False) -> None:
        """Starts to write the state, unless it is the newest that is there already.

        The copy that is written is taken before this returns, so the buffers may be donated.

        Args:
            state: What to save.
            metadata: JSON values to keep beside it: configuration and class names.
            best: Whether it replaces the best instead of joining the newest.

        Raises:
            RunError: If the disk does not take it, or did not take the one before.
        """
        step = int(state.step)
        self.wait()
        if not best and step == hosts.broadcast_from_primary(self.latest_step):
            return  # orbax would delete it first, and a kill in between would lose it
        if jax.default_backend() == "cpu":
            # Host and device share memory there: orbax would read buffers that the next step,
            # to which they are donated, is already overwriting.
            state = jax.tree.map(jnp.copy, state)
        folder = self._workdir / (BEST if best else LAST) / str(step)
        with explain_failed_writes(f"the checkpoint {folder}"):
            response = (self._best if best else self._last).save_checkpointables_async(
                step,
                _parts(state),
                overwrite=True,
                force=True,
                custom_metadata={"step": step, **metadata},
            )

        def finish() -> None:
            saved = self._background.submit(response.result)
            ends = [saved, _FAILED_SAVES.first] if hosts.is_multiprocess() else [saved]
            for end in wait(ends, return_when=FIRST_COMPLETED).done:
                end.result()
            if hosts.is_primary():
                write_seal(folder)

        self._pending.append((folder, self._background.submit(finish)))

    def restore(self, step: int, like: TrainState) -> TrainState:
        """Reads a state onto the devices that `like` lives on, whatever devices wrote it.

        Args:
            step: A step that `latest_step` named.
            like: A state of the same structure.

        Raises:
            InputError: If the checkpoint cannot be read.
        """
        abstract = jax.tree.map(_abstract, like)
        with _damage_explained(
            self.path(step), "Move it elsewhere; the same command then goes on from the one before."
        ):
            parts = self._last.load_checkpointables(step, _parts(abstract))
        weights, trainer = parts["weights"], parts["trainer"]
        average = weights["params"] if "params" in trainer else None
        return TrainState(**{**weights, **trainer}, ema=average)

    def path(self, step: int) -> AnyPath:
        """Folder of a step."""
        return self._workdir / LAST / str(step)

    def wait(self) -> None:
        """Returns when everything that was saved is on disk.

        Raises:
            RunError: If the disk did not take it.
        """
        while self._pending:
            folder, finished = self._pending.pop()
            with explain_failed_writes(f"the checkpoint {folder}"):
                finished.result()

    @contextlib.contextmanager
    def name_last_checkpoint_in_errors(self) -> Iterator[None]:
        """Adds to the message of a `RunError` which checkpoint is there to go on from."""
        try:
            yield
        except RunError as error:
            with contextlib.suppress(RunError):  # a save that fails now is told by its absence
                self.wait()
            step = self.latest_step()
            there = "There is no checkpoint yet."
            if step is not None:
                there = f"The last good checkpoint is {self.path(step)}."
            raise type(error)(f"{error} {there}") from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, RunError) and hosts.is_multiprocess():
            return  # closing waits for other processes; the job is about to end
        # Orbax raises the failure of a save once more; the error on its way out says it all.
        with contextlib.nullcontext() if kind is None else contextlib.suppress(Exception):
            self.wait()
            self._last.close()
            self._best.close()
        self._background.shutdown()


class _FailedSaves(logging.Filter):
    """Hears of a save that failed, and keeps orbax's traceback from the screen.

    In a job of several processes orbax raises the failure only after all of them have finished
    the save, which they cannot do: its log is then the one place that knows.

    Attributes:
        first: Has the first failure as its exception, once there is one.
    """

    def __init__(self):
        super().__init__()
        self.forget()

    def forget(self) -> None:
        """Listens anew."""
        self.first: Future[None] = Future()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and record.levelno >= logging.ERROR and not self.first.done():
            self.first.set_exception(record.exc_info[1])
        return not record.exc_info


_FAILED_SAVES = _FailedSaves()  # one for the process, as is the log


def load_weights(
    workdir: AnyPath | str, which: str | int = "last", sharding: Sharding | None = None
) -> Weights:
    """Reads parameters and statistics alone, for inference: the one call that it needs.

    Args:
        workdir: Folder of a run, or of one of its checkpoints (`runs/x/checkpoints/1200`).
        which: `last`, `best` or a step; not looked at where `workdir` is itself a checkpoint.
        sharding: Where the arrays go; the first device by default.

    Raises:
        InputError: If there is no such checkpoint, with a list of those there are; or if it cannot
            be read.
    """
    folder = resolve_checkpoint(workdir, which)
    step = int(folder.name)
    if is_sealed(folder) and (damage := find_damage(folder, unread="trainer")):
        raise InputError(f"The checkpoint {folder} is damaged: {damage}. {_ANOTHER}")
    sharding = sharding or SingleDeviceSharding(jax.devices()[0])
    with (
        _damage_explained(folder, _ANOTHER),
        _open(folder.parent, None) as checkpointer,
    ):
        saved = checkpointer.checkpointables_metadata(step)
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            saved.metadata["weights"],
        )
        weights = checkpointer.load_checkpointables(step, {"weights": abstract})["weights"]
    return Weights(weights["params"], weights["batch_stats"], saved.custom_metadata)


def _parts(state: TrainState) -> dict[str, Any]:
    """What is saved: the weights that inference needs, and what training needs beside them."""
    trainer = {"step": state.step, "opt_state": state.opt_state}
    if state.ema is not None:  # inference reads the average, so what is trained lies elsewhere
        trainer["params"] = state.params
    weights = {"params": state.inference_params, "batch_stats": state.batch_stats}
    return {"weights": weights, "trainer": trainer}


@contextlib.contextmanager
def _damage_explained(folder: AnyPath, advice: str) -> Iterator[None]:
    """Lets a checkpoint that cannot be read end in one message, whatever orbax stumbles over."""
    try:
        yield
    except jax.errors.JaxRuntimeError:
        raise  # the device's failure
    except Exception as error:
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        raise InputError(
            f"The checkpoint {folder} cannot be read; it is incomplete or damaged ({reason}). "
            f"{advice}"
        ) from error


def _open(folder: AnyPath, keep: int | None) -> ocp.training.Checkpointer:
    """A checkpointer over a folder; `keep=None` reads and never deletes."""
    with explain_bucket_errors(
        folder
    ):  # orbax asks for more than `check_bucket`: for the bucket itself
        return ocp.training.Checkpointer(
            absolute_path(folder),
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),
            cleanup_tmp_directories=keep is not None,
        )


def _abstract(leaf: jax.Array | np.ndarray) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
