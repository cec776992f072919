"""Saving and restoring with orbax, the only file that knows it.

A workdir holds `checkpoints/STEP` (the newest few) and `best/STEP` (the one chosen on held-out
images). Each is two parts, so that inference reads the weights alone: `weights` (parameters and
BatchNorm statistics) and `trainer` (step and optimizer), with `metadata` beside them.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding, SingleDeviceSharding
from orbax.checkpoint import v1 as ocp

from apinet_jax.array_types import TrainState
from apinet_jax.errors import InputError

LAST, BEST = "checkpoints", "best"


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

    def __init__(self, workdir: Path, keep: int):
        """Opens the workdir and clears away what a killed save left half-written.

        Args:
            workdir: Folder of the run.
            keep: Newest checkpoints to keep; the best is kept beside them.
        """
        self._workdir, self._pending = workdir, []
        self._last = _open(workdir / LAST, keep)
        self._best = _open(workdir / BEST, 1)

    def latest_step(self) -> int | None:
        """The newest complete step, or `None` in a fresh workdir."""
        latest = self._last.latest
        return None if latest is None else latest.step

    def save(self, state: TrainState, metadata: dict[str, Any], *, best: bool = False) -> None:
        """Starts to write the state, unless it is the newest that is there already.

        The copy that is written is taken before this returns, so the buffers may be donated.

        Args:
            state: What to save.
            metadata: JSON values to keep beside it: configuration and class names.
            best: Whether it replaces the best instead of joining the newest.
        """
        step = int(state.step)
        self.wait()
        if not best and step == self.latest_step():
            return  # orbax would delete it first, and a kill in between would lose it
        if jax.default_backend() == "cpu":
            # Host and device share memory there: orbax would read buffers that the next step,
            # to which they are donated, is already overwriting.
            state = jax.tree.map(jnp.copy, state)
        response = (self._best if best else self._last).save_checkpointables_async(
            step,
            {
                "weights": {"params": state.params, "batch_stats": state.batch_stats},
                "trainer": {"step": state.step, "opt_state": state.opt_state},
            },
            overwrite=True,
            force=True,
            custom_metadata={"step": step, **metadata},
        )
        self._pending.append(response)

    def restore(self, step: int, like: TrainState) -> TrainState:
        """Reads a state onto the devices that `like` lives on, whatever devices wrote it.

        Args:
            step: A step that `latest_step` named.
            like: A state of the same structure.
        """
        abstract = jax.tree.map(_abstract, like)
        parts = self._last.load_checkpointables(
            step,
            {
                "weights": {"params": abstract.params, "batch_stats": abstract.batch_stats},
                "trainer": {"step": abstract.step, "opt_state": abstract.opt_state},
            },
        )
        return TrainState(**parts["weights"], **parts["trainer"])

    def path(self, step: int) -> Path:
        """Folder of a step."""
        return self._workdir / LAST / str(step)

    def wait(self) -> None:
        """Returns when everything that was saved is on disk."""
        while self._pending:
            self._pending.pop().result()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()
        self._last.close()
        self._best.close()


def load_weights(
    workdir: Path | str, which: str = "last", sharding: Sharding | None = None
) -> Weights:
    """Reads parameters and statistics alone, for inference: the one call that it needs.

    Args:
        workdir: Folder of a run, or of one of its checkpoints (`runs/x/checkpoints/1200`).
        which: `last`, `best` or a step; not looked at where `workdir` is itself a checkpoint.
        sharding: Where the arrays go; the first device by default.

    Raises:
        InputError: If there is no such checkpoint; the message lists those there are.
    """
    workdir = Path(workdir).absolute()
    folder = workdir if _is_checkpoint(workdir) else find_checkpoint(workdir, which)
    step = int(folder.name)
    sharding = sharding or SingleDeviceSharding(jax.devices()[0])
    with _open(folder.parent, None) as checkpointer:
        saved = checkpointer.checkpointables_metadata(step)
        if "weights" not in (saved.metadata or {}):
            raise InputError(
                f"The checkpoint {folder} is incomplete, as a kill while it was being deleted "
                "leaves it. Choose another with --checkpoint=last|best|STEP."
            )
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            saved.metadata["weights"],
        )
        weights = checkpointer.load_checkpointables(step, {"weights": abstract})["weights"]
    return Weights(weights["params"], weights["batch_stats"], saved.custom_metadata)


def find_checkpoint(workdir: Path | None, which: str) -> Path:
    """The folder of the checkpoint that the user named.

    Args:
        workdir: Folder of a run; not needed where `which` is a folder.
        which: `last`, `best`, a step, or the folder of one checkpoint.

    Raises:
        InputError: If there is no such checkpoint; the message lists those there are.
    """
    if _is_checkpoint(Path(which).absolute()):
        return Path(which).absolute()
    if workdir is None:
        raise InputError(
            f"{which} is not the folder of a checkpoint; those lie in RUN/{LAST}/STEP and "
            f"RUN/{BEST}/STEP."
        )
    workdir = workdir.absolute()
    last, best = steps_of(workdir, LAST), steps_of(workdir, BEST)
    if which == "last" and last:
        return workdir / LAST / str(last[-1])
    if which == "best" and best:
        return workdir / BEST / str(best[-1])
    if which.isdigit() and int(which) in last + best:
        return workdir / (LAST if int(which) in last else BEST) / which
    if not last and not best:
        raise InputError(
            f"There is no checkpoint in {workdir}. Name the folder of a run that has saved one "
            "with --workdir."
        )
    there = [f"step {step}" for step in last] + [f"best (step {step})" for step in best]
    raise InputError(
        f"There is no checkpoint '{which}' in {workdir}; there are: {', '.join(there)}. Choose one "
        "with --checkpoint=last|best|STEP."
    )


def steps_of(workdir: Path, folder: str = LAST) -> list[int]:
    """The complete steps in a folder of a workdir, ascending."""
    if not (workdir / folder).is_dir():
        return []
    with _open(workdir / folder, None) as checkpointer:
        return [checkpoint.step for checkpoint in checkpointer.checkpoints]


def _is_checkpoint(folder: Path) -> bool:
    return folder.parent.name in (LAST, BEST) and folder.name.isdigit() and folder.is_dir()


def _open(folder: Path, keep: int | None) -> ocp.training.Checkpointer:
    """A checkpointer over a folder; `keep=None` reads and never deletes."""
    return ocp.training.Checkpointer(
        folder.absolute(),
        preservation_policy=ocp.training.preservation_policies.LatestN(keep),
        cleanup_tmp_directories=keep is not None,
    )


def _abstract(leaf: jax.Array | np.ndarray) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
