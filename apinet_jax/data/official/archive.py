"""Reads files out of an official archive, or out of the folder that was unpacked from it.

Members of an archive are read in place and none is written to disk by its name, so it does not
matter where a name points to. Links and devices are no files. Sizes are bounded.
"""

import gzip
import os
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from apinet_jax.data.official.download import Archive, megabytes
from apinet_jax.system.errors import InputError

# No official file comes near these: a larger one was made to fill the memory or the disk.
_MAX_FILE = 1 << 26
# Pictures are compressed already, and hardly shrink.
_MAX_GROWTH = 3
_GROWS_FREELY = 1 << 27

_SHOWN = 20
# What comes of headers that are damaged, or were made up: a chain of them ends the stack, and a
# number in one the memory.
_DAMAGE = (
    EOFError,
    MemoryError,
    OverflowError,
    RecursionError,
    ValueError,
    gzip.BadGzipFile,
    tarfile.TarError,
    zlib.error,
)


class Files(NamedTuple):
    """Files by their path, wherever they lie.

    Attributes:
        place: The folder or archive, for messages.
        again: How to come by an intact one, for messages: a whole sentence.
        has: Whether a path exists.
        read: Returns a file that exists; safe to call from several threads.
    """

    place: Path
    again: str
    has: Callable[[str], bool]
    read: Callable[[str], bytes]


@contextmanager
def open_files(archive: Archive, place: Path, root: Path) -> Iterator[Files]:
    """Opens an archive, what was unpacked from it, or a file by itself.

    Args:
        archive: What is at the place.
        place: The archive or the folder.
        root: Where there is room for an archive that is no longer compressed.

    Yields:
        Its files, by their paths below the folder that the archive holds.

    Raises:
        InputError: The archive is damaged or cannot be read.
    """
    again = f"Download {archive.name or archive.holds} again ({archive.page})."
    if place.is_dir():
        yield Files(place, again, *_folder(place, again))
    elif place.name.endswith((".tar", ".tar.gz", ".tgz")):
        if (place.parent / archive.holds).is_dir():
            again += f" Or remove it: {archive.holds}/ beside it is taken then."
        with _plain(place, root, again) as plain:
            yield Files(place, again, *_members(plain, archive.holds, place, again))
    else:
        yield Files(place.parent, again, place.name.__eq__, lambda _: _read_file(place, again))


@contextmanager
def readable(what: object) -> Iterator[None]:
    """Lets a file or folder that the system does not let us read end in one message.

    Args:
        what: What is read, for the message.

    Raises:
        InputError: Instead of the `OSError`.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"Cannot read {what}: {reason}. Check its permissions.") from error


def read_list(files: Files, name: str) -> bytes:
    """Reads a file that describes images; that of an image may fail, and be left out.

    Raises:
        InputError: It is missing or cannot be read.
    """
    if not files.has(name):
        raise InputError(f"{name} is missing in {files.place}. {files.again}")
    with readable(f"{name} in {files.place}"):
        return files.read(name)


def require(files: Files, paths: Iterable[str], named_in: str) -> None:
    """Checks that files are there.

    Args:
        files: Where they should be.
        paths: Their paths.
        named_in: The list that names them.

    Raises:
        InputError: Some are not there; the first of them are named.
    """
    missing = [path for path in paths if not files.has(path)]
    if missing:
        shown = "".join(f"\n  {path}" for path in missing[:_SHOWN])
        more = f"\n  and {len(missing) - _SHOWN:,} more" if len(missing) > _SHOWN else ""
        raise InputError(
            f"{len(missing):,} image(s) named in {named_in} are missing in {files.place}:{shown}"
            f"{more}\n{files.again}"
        )


def _folder(folder: Path, again: str) -> tuple[Callable[[str], bool], Callable[[str], bytes]]:
    def has(name: str) -> bool:
        path = PurePosixPath(name)
        outside = path.is_absolute() or ".." in path.parts
        with readable(folder / path):
            return not outside and (folder / path).is_file()

    return has, lambda name: _read_file(folder / name, again)


def _read_file(path: Path, again: str) -> bytes:
    _check_size(path, path.stat().st_size, again)
    return path.read_bytes()


def _check_size(what: object, size: int, again: str) -> None:
    if size > _MAX_FILE:
        raise InputError(f"{what} has {size:,} bytes, more than any official file. {again}")


@contextmanager
def _plain(archive: Path, root: Path, again: str) -> Iterator[BinaryIO]:
    """Opens the archive as a plain tar.

    Gzip reads from the start only, while records are written in the order of the lists; so what it
    holds goes into an unnamed temporary file.
    """
    if archive.suffix == ".tar":
        with readable(archive):
            plain = open(archive, "rb")  # noqa: SIM115 - closed below
        with plain:
            yield plain
        return
    size = archive.stat().st_size
    limit = max(_GROWS_FREELY, _MAX_GROWTH * size)
    with tempfile.TemporaryFile(dir=root) as plain:
        with megabytes(f"Unpacking {archive.name}", size) as move:
            for block, position in _unpacked(archive, again):
                plain.write(block)
                move(position)
                if plain.tell() > limit:
                    raise InputError(
                        f"{archive} unpacks to more than {limit:,} bytes, which no official "
                        f"archive does. {again}"
                    )
        yield plain


def _unpacked(archive: Path, again: str) -> Iterator[tuple[bytes, int]]:
    """Yields what is in a gzip file, and how far it has been read; whoever writes fails alone."""
    with (
        readable(archive),
        _damage_told(archive, again),
        open(archive, "rb") as packed,
        gzip.open(packed) as unpacked,
    ):
        while block := unpacked.read(1 << 20):
            yield block, packed.tell()


def _members(
    plain: BinaryIO, holds: str, archive: Path, again: str
) -> tuple[Callable[[str], bool], Callable[[str], bytes]]:
    plain.seek(0)
    with (
        readable(archive),
        _damage_told(archive, again),
        tarfile.open(fileobj=plain, mode="r:") as tar,
    ):
        members, last, end = {}, -1, os.fstat(plain.fileno()).st_size
        for member in tar:
            # A size below zero leads back to a header that was read, and so on for ever.
            if member.size < 0 or member.offset <= last:
                raise tarfile.ReadError("its headers lead nowhere")
            last = member.offset
            if member.isreg() and not member.issparse():
                if member.offset_data + member.size > end:
                    raise tarfile.ReadError(f"{member.name} is cut off")
                members[member.name.removeprefix("./").removeprefix(f"{holds}/")] = member

    def read(name: str) -> bytes:
        member = members[name]
        _check_size(f"{name} in {archive}", member.size, again)
        return os.pread(plain.fileno(), member.size, member.offset_data)

    return members.__contains__, read


@contextmanager
def _damage_told(archive: Path, again: str) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        reason = str(error) or type(error).__name__
        raise InputError(f"{archive} is damaged ({reason}). {again}") from error
