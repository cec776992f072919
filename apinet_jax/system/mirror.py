"""Copies of what lies in a bucket, on this machine's disk: photos, archives and weights.

They are read from a disk by libraries that know nothing else, most of them more than once. A copy
is brought up to date each time it is asked for: what has not changed in the bucket is not fetched.
"""

import contextlib
import fcntl
import os
from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from typing import Any

from apinet_jax.system.console import say, tracked
from apinet_jax.system.errors import InputError, explain_failed_writes
from apinet_jax.system.paths import (
    check_bucket,
    explain_bucket_errors,
    file_system,
    objects_below,
    records_root,
    to_path,
)

_AT_ONCE = 64  # objects that are fetched side by side


def local_copy(name: str, only: Collection[str] | None = None) -> Path:
    """Brings the copy of a folder in a bucket up to date.

    Args:
        name: The folder, `gs://BUCKET/...`.
        only: What to copy of it, files or folders by their names; all of it by default. What else
            is in the copy then stays there.

    Returns:
        The copy, below TFDS's root.

    Raises:
        InputError: If the bucket cannot be read, or there is no such folder in it.
        RunError: If the disk does not take the copy.
    """
    folder = to_path(name)
    check_bucket(folder)
    with explain_bucket_errors(name):
        there = {
            below: about
            for part in (("",) if only is None else only)
            for below, about in objects_below(folder, part).items()
            if not below.endswith("/")
        }
    if not there and only is None:
        raise InputError(f"There is nothing in {name}. Check the name of the folder.")
    # An object's name may be any text: `a//etc/x` would be a path from the root.
    if outside := [below for below in there if {"", ".", ".."} & set(below.split("/"))]:
        raise InputError(f"{name}/{outside[0]} would lie outside of the copy. Rename it.")
    copy = records_root() / "downloads" / "gs" / Path(*folder.parts[2:])
    with explain_failed_writes(copy):
        copy.mkdir(parents=True, exist_ok=True)
        with open(copy.with_name(f".{copy.name}.lock"), "w") as lock:
            with contextlib.suppress(OSError):  # a file system without locks
                # Another process of this machine may ask for it too.
                fcntl.flock(lock, fcntl.LOCK_EX)
            missing = [below for below in there if not _is_current(copy / below, there[below])]
            if missing:
                say(f"Copying {len(missing)} files from {name} to {copy}.")
            parts = [missing[i : i + _AT_ONCE] for i in range(0, len(missing), _AT_ONCE)]
            for part in tracked(parts, "Copying", len(parts)):
                _fetch(name, part, there, copy)
            if only is None:
                _remove_others(copy, there)
    return copy


def _fetch(name: str, part: list[str], there: dict[str, dict[str, Any]], copy: Path) -> None:
    """Fetches some files; a time of change that is the bucket's marks those that are whole."""
    system, root = file_system(to_path(name))
    for below in part:
        (copy / below).parent.mkdir(parents=True, exist_ok=True)
    system.get([f"{root}/{below}" for below in part], [str(copy / below) for below in part])
    for below in part:
        changed = _changed(there[below])
        os.utime(copy / below, (changed, changed))


def _is_current(file: Path, about: dict[str, Any]) -> bool:
    if not file.is_file():
        return False
    state = file.stat()
    return state.st_size == int(about["size"]) and state.st_mtime == _changed(about)


def _changed(about: dict[str, Any]) -> float:
    """When an object was written, in whole seconds, as every disk keeps them."""
    return float(int(datetime.fromisoformat(about["updated"]).timestamp()))


def _remove_others(copy: Path, there: Collection[str]) -> None:
    """Removes what the bucket has no more, and the folders that are empty then."""
    for path in sorted(copy.rglob("*"), reverse=True):  # what is in a folder before the folder
        if path.is_dir():
            with contextlib.suppress(OSError):  # not empty
                path.rmdir()
        elif path.relative_to(copy).as_posix() not in there:
            path.unlink()
