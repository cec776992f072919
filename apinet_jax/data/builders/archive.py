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

from apinet_jax.data.download import Archive, megabytes
from apinet_jax.errors import InputError

# No official file comes near these: a larger one was made to fill the memory or the disk.
_MAX_FILE = 1 << 26
_MAX_GROWTH = 20
_GROWS_FREELY = 1 << 27

_SHOWN = 20


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
        InputError: The archive is damaged.
    """
    again = f"Download {archive.name or archive.holds} again ({archive.page})."
    if place.is_dir():
        yield Files(place, again, *_folder(place, again))
    elif place.name.endswith((".tar", ".tar.gz", ".tgz")):
        with _plain(place, root, again) as plain:
            yield Files(place, again, *_members(plain, archive.holds, place, again))
    else:
        yield Files(place.parent, again, place.name.__eq__, lambda _: _read_file(place, again))


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
        with open(archive, "rb") as plain:
            yield plain
        return
    size = archive.stat().st_size
    limit = max(_GROWS_FREELY, _MAX_GROWTH * size)
    with tempfile.TemporaryFile(dir=root) as plain:
        with (
            _damage_told(archive, again),
            open(archive, "rb") as packed,
            gzip.open(packed) as unpacked,
            megabytes(f"Unpacking {archive.name}", size) as move,
        ):
            while block := unpacked.read(1 << 20):
                plain.write(block)
                move(packed.tell())
                if plain.tell() > limit:
                    raise InputError(
                        f"{archive} unpacks to more than {limit:,} bytes, which no official "
                        f"archive does. {again}"
                    )
        yield plain


def _members(
    plain: BinaryIO, holds: str, archive: Path, again: str
) -> tuple[Callable[[str], bool], Callable[[str], bytes]]:
    plain.seek(0)
    with _damage_told(archive, again), tarfile.open(fileobj=plain, mode="r:") as tar:
        members = {
            member.name.removeprefix("./").removeprefix(f"{holds}/"): member
            for member in tar
            if member.isreg() and not member.issparse()
        }

    def read(name: str) -> bytes:
        member = members[name]
        _check_size(f"{name} in {archive}", member.size, again)
        return os.pread(plain.fileno(), member.size, member.offset_data)

    return members.__contains__, read


@contextmanager
def _damage_told(archive: Path, again: str) -> Iterator[None]:
    try:
        yield
    except (EOFError, gzip.BadGzipFile, tarfile.TarError, zlib.error) as error:
        raise InputError(f"{archive} is damaged ({error}). {again}") from error
