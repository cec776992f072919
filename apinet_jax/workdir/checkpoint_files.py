"""The checkpoints of a workdir as folders: which are complete, intact, or the one to load."""

import time

from apinet_jax.system.console import say
from apinet_jax.system.errors import InputError
from apinet_jax.system.paths import (
    AnyPath,
    absolute_path,
    check_bucket,
    is_remote,
    move_folder,
    remove_folder,
)
from apinet_jax.workdir.seal import find_damage, is_sealed

LAST, BEST = "checkpoints", "best"
# Where damaged checkpoints are moved.
DAMAGED = "damaged"

# A checkpoint cannot be read without its weights, and orbax's and our metadata.
_NEEDED = ("weights", "_CHECKPOINT_METADATA")
# Orbax writes this object last in a bucket, where a folder cannot be renamed at the end.
_COMMITTED = "commit_success.txt"


def quarantine_damaged(workdir: AnyPath) -> None:
    """Leave only checkpoints in a workdir from which a run may resume.

    Remains of a killed deletion are removed. Checkpoints that are unfinished or damaged, and newer
    than the newest intact one, are moved to `damaged/` with a warning.

    Raises:
        InputError: If checkpoints exist and none is intact, or the best one is not.
    """
    for half in (*_step_folders(workdir / LAST), *_step_folders(workdir / BEST)):
        if not (half / "weights").exists():
            remove_folder(half)  # orbax would count it among those to keep
    for best in _complete(workdir / BEST):
        if is_sealed(best) and (damage := find_damage(best)):
            raise InputError(
                f"The best checkpoint {best} is damaged: {damage}. Only a new run can replace it: "
                "use another workdir."
            )
    folders = _complete(workdir / LAST)[::-1]
    damages = {}
    for folder in folders:
        damages[folder] = find_damage(folder) if is_sealed(folder) else "its save was not finished"
        if damages[folder] is None:
            intact = folder
            break
    else:  # a run without any seal is one of an older version, whose newest is used unchecked
        intact = folders[0] if folders and not any(map(is_sealed, folders)) else None
    if folders and intact is None:
        listed = "\n".join(f"  {folder}: {damage}" for folder, damage in damages.items())
        raise InputError(
            f"No checkpoint of {workdir} is intact:\n{listed}\nMove {workdir / LAST} elsewhere to "
            "train again from the start."
        )
    for folder in folders[: folders.index(intact)] if folders else ():
        quarantine = workdir / DAMAGED / f"{folder.name}-{time.time():.0f}"
        move_folder(folder, quarantine)
        say(
            f"WARNING: the checkpoint {folder} is damaged: {damages[folder]}. It was moved to "
            f"{quarantine}; the run resumes from {intact}."
        )


def resolve_checkpoint(run: AnyPath | str, which: str | int | None = None) -> AnyPath:
    """Return the folder of a run's checkpoint.

    Args:
        run: Folder of a run, or of one of its checkpoints.
        which: `last`, `best` or a step, not used where `run` is a checkpoint. By default the one
            that the run chose: the best where held-out images chose one, else the last.

    Raises:
        InputError: If there is no such checkpoint; the message lists those that exist.
    """
    run = absolute_path(run)
    check_bucket(run)
    if is_checkpoint(run):
        return run
    last, best = steps_of(run, LAST), steps_of(run, BEST)
    which = str(which or ("best" if best else "last"))
    if which == "last" and last:
        folders = [run / LAST / str(step) for step in last]
        # A run would not resume from a checkpoint that a kill left without its seal.
        return ([folder for folder in folders if is_sealed(folder)] or folders)[-1]
    if which == "best" and best:
        return run / BEST / str(best[-1])
    if _is_step(which) and int(which) in last + best:
        return run / (LAST if int(which) in last else BEST) / str(int(which))
    if not last and not best:
        raise InputError(
            f"There is no checkpoint in {run}. Name the folder of a run that has saved one, or of "
            f"one of its checkpoints: RUN/{LAST}/STEP or RUN/{BEST}/STEP."
        )
    known = [f"step {step}" for step in last] + [f"best (step {step})" for step in best]
    raise InputError(
        f"There is no checkpoint '{which}' in {run}, only: {', '.join(known)}. Name one of "
        "them: last, best or a step."
    )


def steps_of(workdir: AnyPath, folder: str = LAST) -> list[int]:
    """Return the complete steps in a folder of a workdir, ascending.

    A checkpoint gets its name when it is complete, but a kill may have left it half-deleted.
    """
    return [int(step.name) for step in _complete(workdir / folder)]


def _complete(folder: AnyPath) -> list[AnyPath]:
    """Return the complete checkpoints in a folder, ascending."""
    needed = (*_NEEDED, _COMMITTED) if is_remote(folder) else _NEEDED
    complete = [
        step for step in _step_folders(folder) if all((step / part).exists() for part in needed)
    ]
    return sorted(complete, key=lambda step: int(step.name))


def _step_folders(folder: AnyPath) -> list[AnyPath]:
    """Return the folders named like a step, complete or not."""
    if not folder.is_dir():
        return []
    # No glob: in a bucket it would take the characters of the folder's path as a pattern.
    return [path for path in folder.iterdir() if _is_step(path.name) and path.is_dir()]


def is_checkpoint(folder: AnyPath) -> bool:
    """Return whether a path is the folder of one checkpoint."""
    return folder.parent.name in (LAST, BEST) and _is_step(folder.name) and folder.is_dir()


def _is_step(name: str) -> bool:
    # `"²".isdigit()` is true, and `int` refuses thousands of digits.
    return name.isascii() and name.isdigit() and len(name) < 19
