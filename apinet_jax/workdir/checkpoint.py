"""Saving and restoring with orbax, which only this file imports.

A workdir holds `checkpoints/STEP` (the newest few) and `best/STEP` (the one chosen on held-out
images). Each has two parts, so that inference reads only the weights: `weights` (parameters and
BatchNorm statistics) and `trainer` (step and optimizer), with `metadata` next to them and a seal
over all (`seal.py`). `checkpoint_files.py` says which of them count.
"""

import contextlib
import fnmatch
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl.logging import get_absl_logger
from etils import epath
from jax.sharding import Sharding, SingleDeviceSharding
from orbax.checkpoint import v1 as ocp

from apinet_jax.method.types import TrainState
from apinet_jax.system import hosts
from apinet_jax.system.errors import InputError, RunError, explain_failed_writes
from apinet_jax.system.mesh import available_devices
from apinet_jax.system.paths import (
    AnyPath,
    absolute_path,
    check_characters,
    explain_bucket_errors,
)
from apinet_jax.workdir.checkpoint_files import (
    BEST,
    LAST,
    quarantine_damaged,
    resolve_checkpoint,
    steps_of,
)
from apinet_jax.workdir.failed_saves import FailedSaves
from apinet_jax.workdir.seal import find_damage, is_sealed, write_seal

_HELD_OUT_SCORE = "held_out_top1"
# What orbax writes when it merges the arrays of all processes; nothing can be read without it.
_MANIFESTS = ("weights/manifest.ocdbt", "trainer/manifest.ocdbt")
_ANOTHER = "Choose another one: last, best or a step."


class Weights(NamedTuple):
    """The part of a checkpoint that inference needs.

    Attributes:
        params: Parameters.
        batch_stats: BatchNorm statistics.
        metadata: `step`, `config` (nested), `class_names`.
    """

    params: dict[str, Any]
    batch_stats: dict[str, Any]
    metadata: dict[str, Any]


class Checkpoints:
    """The checkpoints of one workdir, written in the background. Use it as a context."""

    def __init__(self, workdir: AnyPath, keep: int):
        """Open the workdir and remove what a kill left half-written or half-deleted.

        Checkpoints newer than the newest intact one are moved away with a warning.

        Args:
            workdir: Folder of the run.
            keep: Number of newest checkpoints to keep, besides the best one.

        Raises:
            InputError: If no checkpoint is intact, or the best one is not.
        """
        self._workdir, self._pending = workdir, []
        hosts.broadcast_from_primary(lambda: quarantine_damaged(workdir))
        self._background = ThreadPoolExecutor(2)  # one waits for a save, one seals it
        self._failed_saves = FailedSaves()
        self._last = _open(workdir / LAST, keep)
        self._best = _open(workdir / BEST, 1)

    def latest_step(self) -> int | None:
        """Return the newest complete step, or `None` in a fresh workdir."""
        return max(steps_of(self._workdir), default=None)

    def best_score(self) -> float | None:
        """Return the held-out accuracy of the best checkpoint, or `None` without a recorded one."""
        if (step := max(steps_of(self._workdir, BEST), default=None)) is None:
            return None
        with _explain_damage(self._workdir / BEST / str(step), "Use another workdir."):
            return self._best.checkpointables_metadata(step).custom_metadata.get(_HELD_OUT_SCORE)

    def save(
        self, state: TrainState, metadata: dict[str, Any], *, best_score: float | None = None
    ) -> None:
        """Start to write the state, unless its step is the newest of its kind.

        The state is copied before this returns, so its buffers may be donated.

        Args:
            state: What to save.
            metadata: JSON values to store next to it: configuration and class names.
            best_score: Held-out accuracy of a state that replaces the best one. Without it the
                state joins the newest ones.

        Raises:
            RunError: If it cannot be written, or the previous one could not.
        """
        best = best_score is not None
        step = int(state.step)
        self.wait()
        kind = BEST if best else LAST
        if step in hosts.broadcast_from_primary(lambda: steps_of(self._workdir, kind)[-1:]):
            return  # orbax would delete it first, and a kill would then lose it
        if jax.default_backend() == "cpu":
            # Host and device share memory there, and the next step overwrites these buffers, which
            # are donated to it, while orbax still reads them.
            state = jax.tree.map(jnp.copy, state)
        folder = self._workdir / kind / str(step)
        score = {_HELD_OUT_SCORE: best_score} if best else {}
        with explain_failed_writes(f"the checkpoint {folder}"):
            response = (self._best if best else self._last).save_checkpointables_async(
                step,
                _parts(state),
                overwrite=True,
                force=True,
                custom_metadata={"step": step, **metadata, **score},
            )

        def finish() -> None:
            saved = self._background.submit(response.result)
            ends = [saved, self._failed_saves.first] if hosts.is_multiprocess() else [saved]
            for end in wait(ends, return_when=FIRST_COMPLETED).done:
                end.result()
            if hosts.is_primary():
                _check_merged(folder)
                write_seal(folder)

        self._pending.append((folder, self._background.submit(finish)))

    def restore(self, step: int, like: TrainState) -> TrainState:
        """Read a state onto the devices of `like`, whatever devices wrote it.

        Args:
            step: A step that `latest_step` returned.
            like: A state of the same structure.

        Raises:
            InputError: If the checkpoint cannot be read.
        """
        abstract = jax.tree.map(_abstract, like)
        with _explain_damage(
            self.path(step),
            "Move it elsewhere; the same command then resumes from the previous one.",
        ):
            parts = self._last.load_checkpointables(step, _parts(abstract))
        weights, trainer = parts["weights"], parts["trainer"]
        average = weights["params"] if "params" in trainer else None
        return TrainState(**{**weights, **trainer}, ema=average)

    def path(self, step: int) -> AnyPath:
        """Return the folder of a step."""
        return self._workdir / LAST / str(step)

    def wait(self) -> None:
        """Return when every save is on disk.

        Raises:
            RunError: If one could not be written.
        """
        while self._pending:
            folder, finished = self._pending.pop()
            with explain_failed_writes(f"the checkpoint {folder}"):
                finished.result()

    @contextlib.contextmanager
    def name_last_checkpoint_in_errors(self) -> Iterator[None]:
        """Add the last good checkpoint to the message of a `RunError`."""
        try:
            yield
        except RunError as error:
            with contextlib.suppress(RunError):  # the previous checkpoint is then the last one
                self.wait()
            step = self.latest_step()
            last = "There is no checkpoint yet."
            if step is not None:
                last = f"The last good checkpoint is {self.path(step)}."
            raise type(error)(f"{error} {last}") from error

    def __enter__(self) -> "Checkpoints":
        get_absl_logger().addFilter(self._failed_saves)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, RunError) and hosts.is_multiprocess():
            return  # closing waits for other processes; the job is about to end
        with contextlib.ExitStack() as closing:  # each of them, in reverse order, if one fails
            # Orbax raises the failure of a save again; the error that is being raised says it.
            closing.enter_context(contextlib.suppress(*[Exception] * (kind is not None)))
            closing.callback(get_absl_logger().removeFilter, self._failed_saves)
            closing.callback(self._failed_saves.wait_for_others)
            closing.callback(self._background.shutdown)
            closing.callback(self._best.close)
            closing.callback(self._last.close)
            closing.callback(self.wait)


class _LiteralPath(type(epath.Path())):
    """A path whose own characters are no pattern: orbax globs folders to merge their arrays."""

    def glob(self, pattern: str) -> Iterator[epath.Path]:
        """Yield the children that match a pattern."""
        return (path for path in self.iterdir() if fnmatch.fnmatchcase(path.name, pattern))


def _check_merged(folder: AnyPath) -> None:
    """Refuse to seal a checkpoint that cannot be read."""
    if missing := [name for name in _MANIFESTS if not (folder / name).exists()]:
        raise RunError(
            f"The checkpoint {folder} was saved without {' and '.join(missing)}, so it cannot be "
            "read. Try another workdir, and report this with the log above."
        )


def load_weights(
    workdir: AnyPath | str, which: str | int = "last", sharding: Sharding | None = None
) -> Weights:
    """Read only parameters and statistics, for inference.

    Args:
        workdir: Folder of a run, or of one of its checkpoints (`runs/x/checkpoints/1200`).
        which: `last`, `best` or a step; ignored if `workdir` is itself a checkpoint.
        sharding: Where the arrays go; the first device by default.

    Raises:
        InputError: If there is no such checkpoint, with a list of the existing ones; or if it
            cannot be read.
    """
    folder = resolve_checkpoint(workdir, which)
    check_characters(folder)
    step = int(folder.name)
    if is_sealed(folder) and (damage := find_damage(folder, unread="trainer")):
        raise InputError(f"The checkpoint {folder} is damaged: {damage}. {_ANOTHER}")
    sharding = sharding or SingleDeviceSharding(available_devices()[0])
    with (
        _explain_damage(folder, _ANOTHER),
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
    """Return what is saved: the weights for inference, and the rest of the training state."""
    trainer = {"step": state.step, "opt_state": state.opt_state}
    if state.ema is not None:  # inference reads the average from `weights`
        trainer["params"] = state.params
    weights = {"params": state.inference_params, "batch_stats": state.batch_stats}
    return {"weights": weights, "trainer": trainer}


@contextlib.contextmanager
def _explain_damage(folder: AnyPath, advice: str) -> Iterator[None]:
    """Turn any error of orbax about an unreadable checkpoint into one message."""
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
    """Return a checkpointer over a folder; `keep=None` reads and never deletes."""
    context = ocp.Context()
    context.file.path_class = _LiteralPath
    with explain_bucket_errors(folder):  # unlike `check_bucket`, orbax asks for the bucket itself
        return ocp.training.Checkpointer(
            _LiteralPath(absolute_path(folder)),
            context=context,
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),
            cleanup_tmp_directories=keep is not None,
        )


def _abstract(leaf: jax.Array | np.ndarray) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
