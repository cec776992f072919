"""Local copies of folders in a bucket: photos, archives and weights.

The libraries that read them know only disks, and most read them more than once. Each request
brings the copy up to date; objects that have not changed are not fetched.
"""

import contextlib
import os
from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from typing import Any

from apinet_jax.system.console import say, tracked
from apinet_jax.system.errors import InputError, explain_failed_writes
from apinet_jax.system.file_lock import file_lock
from apinet_jax.system.paths import (
    check_bucket,
    explain_bucket_errors,
    file_system,
    objects_below,
    records_root,
    to_path,
)

_AT_ONCE = 64  # objects in one concurrent request


def local_copy(name: str, only: Collection[str] | None = None) -> Path:
    """Bring the copy of a folder in a bucket up to date and return its path, below TFDS's root.

    Args:
        name: The folder, `gs://BUCKET/...`.
        only: Names of files or folders in it to copy; all by default. The rest of the copy then
            stays as it is.

    Raises:
        InputError: If the bucket cannot be read, or has no such folder.
        RunError: If the copy cannot be written.
    """
    folder = to_path(name)
    check_bucket(folder)
    with explain_bucket_errors(name):
        objects = {
            below: about
            for part in (("",) if only is None else only)
            for below, about in objects_below(folder, part).items()
            if not below.endswith("/")
        }
    if not objects and only is None:
        raise InputError(f"There is nothing in {name}. Check the name of the folder.")
    # An object's name may be any text: `a//etc/x` would be a path from the root.
    if outside := [below for below in objects if {"", ".", ".."} & set(below.split("/"))]:
        raise InputError(f"{name}/{outside[0]} would be stored outside the copy. Rename it.")
    copy = records_root() / "downloads" / "gs" / Path(*folder.parts[2:])
    with explain_bucket_errors(name), explain_failed_writes(copy):
        copy.mkdir(parents=True, exist_ok=True)
        with file_lock(copy.with_name(f".{copy.name}.lock")):
            missing = [below for below in objects if not _is_current(copy / below, objects[below])]
            if missing:
                say(f"Copying {len(missing)} files from {name} to {copy}.")
            parts = [missing[i : i + _AT_ONCE] for i in range(0, len(missing), _AT_ONCE)]
            for part in tracked(parts, "Copying", len(parts)):
                _fetch(name, part, objects, copy)
            if only is None:
                _remove_others(copy, objects)
    return copy


def _fetch(name: str, part: list[str], objects: dict[str, dict[str, Any]], copy: Path) -> None:
    """Fetch some files; the bucket's modification time then marks a complete one."""
    system, root = file_system(to_path(name))
    for below in part:
        (copy / below).parent.mkdir(parents=True, exist_ok=True)
    system.get([f"{root}/{below}" for below in part], [str(copy / below) for below in part])
    for below in part:
        modified = _modified(objects[below])
        os.utime(copy / below, (modified, modified))


def _is_current(file: Path, about: dict[str, Any]) -> bool:
    if not file.is_file():
        return False
    state = file.stat()
    return state.st_size == int(about["size"]) and state.st_mtime == _modified(about)


def _modified(about: dict[str, Any]) -> float:
    """Return an object's modification time in full seconds, as every disk stores them."""
    return float(int(datetime.fromisoformat(about["updated"]).timestamp()))


def _remove_others(copy: Path, objects: Collection[str]) -> None:
    """Remove files that are no longer in the bucket, and folders that are empty then."""
    for path in sorted(copy.rglob("*"), reverse=True):  # the content of a folder before the folder
        if path.is_dir():
            with contextlib.suppress(OSError):  # not empty
                path.rmdir()
        elif path.relative_to(copy).as_posix() not in objects:
            path.unlink()
