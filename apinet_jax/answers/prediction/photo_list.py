"""The photos that a command names: files, folders, patterns, addresses, and lists of them."""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from apinet_jax.answers.class_names import normal
from apinet_jax.data.records.layout import SPLITS, is_image
from apinet_jax.data.records.walk import escaped, quoted, walk_files
from apinet_jax.system.console import say
from apinet_jax.system.errors import InputError
from apinet_jax.system.paths import (
    explain_bucket_errors,
    file_system,
    is_remote,
    local_path,
    objects_below,
    to_path,
)

LIST = "-"


class NamedPhoto(NamedTuple):
    """A photo that a command names.

    Attributes:
        path: Where it is stored, as the system names it.
        folders: Names of the folders that may be its class, the nearest first.
    """

    path: str
    folders: tuple[str, ...]

    def true_label(self, label_of: dict[str, int]) -> int | None:
        """Return its class if it is in a class folder; `label_of` has names in `normal` form."""
        names = (normal(escaped(name)) for name in self.folders)
        return next((label_of[name] for name in names if name in label_of), None)


def list_photos(names: Sequence[str], lines: bytes | None = None) -> list[NamedPhoto]:
    """Return the photos that a command names, in a stable order, each once.

    Folders are read as training reads them: at any depth, without hidden files, and only images by
    their suffix. Patterns (`*`, `?`, `[...]`, `**`) are expanded in the same way. A file that is
    named itself may have any name.

    Args:
        names: Files, folders, patterns, addresses (`gs://`), or `-` for `lines`.
        lines: A list of names: one a line, or separated by NUL as by `find -print0`. They are
            folders, or photos that need not exist: the command reports those as unreadable.

    Raises:
        InputError: If a name matches no photo, or a folder cannot be read.
    """
    photos: dict[str, NamedPhoto] = {}
    for name in names:
        if name == LIST:
            if lines is None:
                raise InputError("There is no list of photos on standard input.")
            listed = [photo for line in _split(lines) for photo in _listed(line)]
            if not listed:
                raise InputError("The list of photos on standard input is empty.")
        else:
            listed = list(_expand(name))
            if not listed:
                raise InputError(f"{escaped(name)} matches no photo. Check the name.")
        for photo in listed:
            remote = is_remote(photo.path)
            photos.setdefault(photo.path if remote else os.path.abspath(photo.path), photo)
    return list(photos.values())


def _split(content: bytes) -> list[str]:
    """Return the lines of a list, as the system names files."""
    parts = content.split(b"\0") if b"\0" in content else content.splitlines()
    return [os.fsdecode(part) for part in parts if part.strip()]


def _listed(line: str) -> Iterator[NamedPhoto]:
    """Return the photos of a folder; any other line is one photo, and never a pattern."""
    if is_remote(line):
        return iter([_object(line)])
    path = os.path.expanduser(line)
    return _in_folder(path) if os.path.isdir(path) else iter([_file(path)])


def _expand(name: str) -> Iterator[NamedPhoto]:
    if is_remote(name):
        yield from _expand_address(name)
        return
    path = os.fspath(local_path(name))
    if os.path.isdir(path):
        yield from _in_folder(path)
    elif os.path.lexists(path):
        yield _file(path)
    elif glob.has_magic(path):
        for found in sorted(glob.iglob(path, recursive=True)):
            if os.path.isdir(found):
                yield from _in_folder(found)
            elif is_image(found):
                yield _file(found)
    else:
        raise InputError(f"{escaped(name)} does not exist. Check the name.")


def _in_folder(folder: str) -> Iterator[NamedPhoto]:
    base = local_path(folder)
    listing = walk_files(base, SPLITS if (base / "train").is_dir() else ())
    if listing.outputs:
        say(
            f"Skipped in {escaped(folder)}, as runs or records are stored there: "
            f"{quoted(listing.outputs)}."
        )
    own = base.absolute().name
    # A link without a target is a photo that cannot be read.
    for name in (*(name for name, _ in listing.files), *listing.broken_links):
        if is_image(name):
            yield NamedPhoto(os.path.join(folder, name), _folders(name, own))


def _folders(below: str, own: str) -> tuple[str, ...]:
    """Return the names of the folders of a file, nearest first, up to the one that was named."""
    return (*reversed(PurePosixPath(below).parts[:-1]), own)


def _file(path: str) -> NamedPhoto:
    return NamedPhoto(path, (os.path.basename(os.path.dirname(os.path.abspath(path))),))


def _object(address: str) -> NamedPhoto:
    return NamedPhoto(address, (PurePosixPath(address).parent.name,))


def _expand_address(address: str) -> Iterator[NamedPhoto]:
    """Expand an address: a pattern, an image by its suffix, or else a folder."""
    path = to_path(address)
    with explain_bucket_errors(address):
        if glob.has_magic(address):
            system, pattern = file_system(path)
            found = sorted(f"gs://{name}" for name in system.glob(pattern) if is_image(name))
            yield from map(_object, found)
        elif is_image(address) and path.exists():
            yield _object(address)
        else:
            for name in sorted(objects_below(path)):
                if is_image(name):
                    yield NamedPhoto(f"{address.rstrip('/')}/{name}", _folders(name, path.name))
