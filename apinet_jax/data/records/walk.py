"""The files of a folder, without what operating systems and this program put there."""

import errno
import hashlib
import os
import stat
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from apinet_jax.system.errors import InputError

# Folders that NAS boxes, Windows, unpackers and Python create, in lower case.
_SYSTEM = {
    "__macosx",
    "__pycache__",
    "@eadir",
    "$recycle.bin",
    "#recycle",
    "lost+found",
    "system volume information",
}
# Files that only a training run, or a folder of prepared records, has.
_OUTPUT_MARKS = ({"run.json"}, {"dataset_info.json", "features.json"})
_MAX_NAMES = 20


class Listing(NamedTuple):
    """What a folder holds; all paths are below it and have forward slashes.

    Attributes:
        files: Path and status of every file, those of a folder before those of its sub-folders.
        broken_links: Links whose target does not exist.
        outputs: Folders that were skipped because runs or prepared records are stored there.
    """

    files: tuple[tuple[str, os.stat_result], ...]
    broken_links: tuple[str, ...]
    outputs: tuple[str, ...]


def is_ignored(name: str) -> bool:
    """Return whether a folder is hidden or belongs to the operating system."""
    return name.startswith(".") or name.lower() in _SYSTEM


def walk_files(
    folder: Path, splits: Collection[str] = (), outputs: Collection[Path] = ()
) -> Listing:
    """List all files that are not hidden, at any depth, in a fixed order.

    Linked folders are followed unless they lead back up. Each real folder is listed at most once
    within a class, so that links cannot multiply photos. Pipes and devices are left out, because
    reading one may never end.

    Args:
        folder: Where to start.
        splits: Folders directly below that hold class folders; without any, `folder` does.
        outputs: Folders to skip, besides those that are recognised as runs or records.

    Raises:
        InputError: A folder cannot be listed.
    """
    listing = Listing([], [], [])
    top = folder.resolve()
    skipped = {path.resolve() for path in outputs}
    class_depth = 2 if splits else 1
    # Path, real path, depth, and the real folders listed so far; those of a class share the set.
    pending = [("", top, 0, set[Path]())]
    while pending:
        below, real, depth, seen = pending.pop()
        if real in seen:
            continue
        seen.add(real)
        folders, files, broken_links = _list(real)
        may_be_output = depth > 0 and below not in splits
        if may_be_output and (
            real in skipped or any(marks <= files.keys() for marks in _OUTPUT_MARKS)
        ):
            listing.outputs.append(below)
            continue
        prefix = f"{below}/" if below else ""
        listing.files.extend((prefix + name, status) for name, status in sorted(files.items()))
        listing.broken_links.extend(prefix + name for name in sorted(broken_links))
        for name in sorted(folders, reverse=True):
            shared = seen if depth >= class_depth else set(seen)
            pending.append((prefix + name, folders[name], depth + 1, shared))
    return Listing(*map(tuple, listing))


def _list(folder: Path) -> tuple[dict[str, Path], dict[str, os.stat_result], list[str]]:
    """Return the real path of each sub-folder, the status of each file, and broken links."""
    folders, files, broken_links = {}, {}, []
    try:
        with os.scandir(folder) as scanned:
            entries = [entry for entry in scanned if not is_ignored(entry.name)]
        for entry in entries:
            is_link = entry.is_symlink()
            try:
                status = entry.stat()
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    raise
                if is_link:  # anything else was removed just now
                    broken_links.append(entry.name)
                continue
            if stat.S_ISREG(status.st_mode):
                files[entry.name] = status
            elif stat.S_ISDIR(status.st_mode):
                path = folder / entry.name
                real = path.resolve() if is_link else path
                if not (is_link and folder.is_relative_to(real)):
                    folders[entry.name] = real
    except OSError as error:
        raise InputError(
            f"Cannot read {error.filename}: {error.strerror}. Check its permissions, and that its "
            "disk is mounted."
        ) from error
    return folders, files, broken_links


def listing_digest(files: Iterable[tuple[str, os.stat_result]]) -> str:
    """Return a SHA-256 over path, size and modification time, without reading any file."""
    digest = hashlib.sha256()
    for name, status in files:
        digest.update(os.fsencode(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n"))
    return digest.hexdigest()


def escaped(name: str) -> str:
    """Return a file name as valid Unicode: bytes that are not UTF-8 as a backslash and digits."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def quoted(names: Iterable[str]) -> str:
    """Return names as they appear in messages, at most twenty of them."""
    names = [repr(name) for name in names]
    more = len(names) - _MAX_NAMES
    return ", ".join(names[:_MAX_NAMES]) + (f" and {more:,} more" if more > 0 else "")
