"""Files of an official archive, or of the folder that was unpacked from it.

Members of an archive are read in place and never written to disk by their name, so it does not
matter where a name points. Links and devices are not files. Sizes are bounded.
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

from apinet_jax.data.official.download import Archive, megabyte_bar
from apinet_jax.system.errors import InputError

# No official file comes close to these: a larger one was made to fill the memory or the disk.
_MAX_FILE = 1 << 26
# Images are compressed already and hardly shrink.
_MAX_EXPANSION = 3
_ALWAYS_ALLOWED = 1 << 27

_MAX_NAMED = 20
# What damaged or made-up headers raise: a chain of them exhausts the stack, a number the memory.
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
    """Files by their path, in a folder or in an archive.

    Attributes:
        place: The folder or archive, for messages.
        repair_hint: How to get an intact copy, for messages: complete sentences.
        has: Whether a path exists.
        read: Returns a file that exists; safe to call from several threads.
    """

    place: Path
    repair_hint: str
    has: Callable[[str], bool]
    read: Callable[[str], bytes]


@contextmanager
def open_files(archive: Archive, place: Path, root: Path) -> Iterator[Files]:
    """Open an archive, the folder unpacked from it, or a single file.

    Args:
        archive: What is stored at the place.
        place: The archive or the folder.
        root: Folder for the decompressed archive, a temporary file.

    Yields:
        Its files, by their paths below the folder that the archive holds.

    Raises:
        InputError: The archive is damaged or cannot be read.
    """
    hint = f"Download {archive.name or archive.holds} again ({archive.page})."
    if place.is_dir():
        yield Files(place, hint, *_folder(place, hint))
    elif place.name.endswith((".tar", ".tar.gz", ".tgz")):
        if (place.parent / archive.holds).is_dir():
            hint += f" Or remove it: then {archive.holds}/ next to it is used."
        with _uncompressed(place, root, hint) as tar:
            yield Files(place, hint, *_members(tar, archive.holds, place, hint))
    else:
        yield Files(place.parent, hint, place.name.__eq__, lambda _: _read_file(place, hint))


@contextmanager
def explain_failed_reads(what: object) -> Iterator[None]:
    """Turn an `OSError` while `what` is read into one message.

    Raises:
        InputError: Instead of the `OSError`.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"Cannot read {what}: {reason}. Check its permissions.") from error


def read_list(files: Files, name: str) -> bytes:
    """Read a file that describes images. Unlike an image, it cannot be left out.

    Raises:
        InputError: It is missing or cannot be read.
    """
    if not files.has(name):
        raise InputError(f"{name} is missing in {files.place}. {files.repair_hint}")
    with explain_failed_reads(f"{name} in {files.place}"):
        return files.read(name)


def require(files: Files, paths: Iterable[str], named_in: str) -> None:
    """Check that the files named in a list exist.

    Raises:
        InputError: Some are missing; the message names the first of them.
    """
    missing = [path for path in paths if not files.has(path)]
    if missing:
        named = "".join(f"\n  {path}" for path in missing[:_MAX_NAMED])
        rest = len(missing) - _MAX_NAMED
        more = f"\n  and {rest:,} more" if rest > 0 else ""
        raise InputError(
            f"{len(missing):,} image(s) named in {named_in} are missing in {files.place}:{named}"
            f"{more}\n{files.repair_hint}"
        )


def _folder(folder: Path, hint: str) -> tuple[Callable[[str], bool], Callable[[str], bytes]]:
    def has(name: str) -> bool:
        path = PurePosixPath(name)
        outside = path.is_absolute() or ".." in path.parts
        with explain_failed_reads(folder / path):
            return not outside and (folder / path).is_file()

    return has, lambda name: _read_file(folder / name, hint)


def _read_file(path: Path, hint: str) -> bytes:
    _check_size(path, path.stat().st_size, hint)
    return path.read_bytes()


def _check_size(what: object, size: int, hint: str) -> None:
    if size > _MAX_FILE:
        raise InputError(f"{what} has {size:,} bytes, more than any official file. {hint}")


@contextmanager
def _uncompressed(archive: Path, root: Path, hint: str) -> Iterator[BinaryIO]:
    """Open an archive as a plain tar.

    Records are written in the order of the lists, and gzip has no random access, so the content of
    a gzip file goes into an unnamed temporary file. Extracting the members instead would need more
    disk for a plain tar, and a killed process would leave thousands of files behind.
    """
    with explain_failed_reads(archive):
        source = open(archive, "rb")  # noqa: SIM115 - closed below
    with source:
        if archive.suffix == ".tar":
            yield source
            return
        size = os.fstat(source.fileno()).st_size
        limit = max(_ALWAYS_ALLOWED, _MAX_EXPANSION * size)
        with tempfile.TemporaryFile(dir=root) as tar:
            with megabyte_bar(f"Unpacking {archive.name}", size) as advance_to:
                for block in _decompress(source, archive, hint):
                    tar.write(block)
                    advance_to(source.tell())
                    if tar.tell() > limit:
                        raise InputError(
                            f"{archive} expands to more than {limit:,} bytes, which no official "
                            f"archive does. {hint}"
                        )
            yield tar


def _decompress(source: BinaryIO, archive: Path, hint: str) -> Iterator[bytes]:
    """Yield the content of a gzip file; errors while the caller writes it are not caught here."""
    with _explain_damage(archive, hint), gzip.open(source) as content:
        while block := content.read(1 << 20):
            yield block


def _members(
    file: BinaryIO, holds: str, archive: Path, hint: str
) -> tuple[Callable[[str], bool], Callable[[str], bytes]]:
    file.seek(0)
    with _explain_damage(archive, hint), tarfile.open(fileobj=file, mode="r:") as tar:
        members, last, end = {}, -1, os.fstat(file.fileno()).st_size
        for member in tar:
            # A negative size leads back to an earlier header, in an endless loop.
            if member.size < 0 or member.offset <= last:
                raise tarfile.ReadError("its headers lead nowhere")
            last = member.offset
            if member.isreg() and not member.issparse():
                if member.offset_data + member.size > end:
                    raise tarfile.ReadError(f"{member.name} is cut off")
                members[member.name.removeprefix("./").removeprefix(f"{holds}/")] = member

    def read(name: str) -> bytes:
        member = members[name]
        _check_size(f"{name} in {archive}", member.size, hint)
        return os.pread(file.fileno(), member.size, member.offset_data)

    return members.__contains__, read


@contextmanager
def _explain_damage(archive: Path, hint: str) -> Iterator[None]:
    with explain_failed_reads(archive):
        try:
            yield
        except _DAMAGE as error:
            reason = str(error) or type(error).__name__
            raise InputError(f"{archive} is damaged ({reason}). {hint}") from error
