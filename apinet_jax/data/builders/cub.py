"""CUB-200-2011: 200 species of birds, from the official archive or its unpacked folder."""

import gzip
import os
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

import rich.progress
from rich.console import Console

from apinet_jax.data.builders.records import EncodedImages, ensure_prepared
from apinet_jax.data.builders.scan import Entry, Scan, listing_digest, walk_files
from apinet_jax.errors import InputError

_FOLDER = "CUB_200_2011"
_ARCHIVE = "CUB_200_2011.tgz"
_OFFICIAL = "data.caltech.edu, record 65de6-vp158"


class Cub(EncodedImages):
    """CUB-200-2011, fine-grained photographs of 200 bird species."""

    CLASSES = 200
    TRAIN_IMAGES = 5_994
    TEST_IMAGES = 5_794


class Files(NamedTuple):
    """Files by their path below `CUB_200_2011/`, wherever they lie.

    Attributes:
        place: The folder or archive, for messages.
        has: Whether a path exists.
        read: Returns a file; safe to call from several threads.
    """

    place: Path
    has: Callable[[str], bool]
    read: Callable[[str], bytes]


def prepare(manual_dir: Path, root: Path, skip_unreadable: bool) -> Cub:
    """Prepares CUB, or opens its records where nothing has changed since.

    Records that are prepared once are enough: the archive may be deleted afterwards.

    Args:
        manual_dir: Holds `CUB_200_2011.tgz` or `CUB_200_2011/`, or is that folder.
        root: TFDS's root, where the records go.
        skip_unreadable: Leave unreadable images out instead of raising.

    Returns:
        The builder, opened on the finished records.
    """
    place = _find(manual_dir)

    @contextmanager
    def scan() -> Iterator[Scan]:
        if place is None:
            raise InputError(
                f"CUB-200-2011 is not in {manual_dir}. Download {_ARCHIVE} ({_OFFICIAL}) and put "
                f"it, or the folder {_FOLDER}/ unpacked from it, into that folder; or set "
                "--config.data.manual_dir to where it lies."
            )
        with _open(place, root) as files:
            yield read_lists(files)

    listing = None
    if place is not None:
        here = [(place.name, place.stat())] if place.is_file() else walk_files(place)
        listing = listing_digest(here)
    return ensure_prepared(Cub, root, listing, scan, skip_unreadable)


def read_lists(files: Files) -> Scan:
    """Reads the official lists: names, labels and the official split.

    Args:
        files: The files of the data set.

    Returns:
        The images, by split and image number.

    Raises:
        InputError: A list or an image is missing, or the counts are not the official ones.
    """
    names = _table(files, "classes.txt")
    paths = _table(files, "images.txt")
    class_of = _table(files, "image_class_labels.txt")
    is_train = _table(files, "train_test_split.txt")
    missing = [path for path in paths.values() if not files.has(f"images/{path}")]
    if missing:
        shown = "".join(f"\n  images/{path}" for path in missing)
        raise InputError(
            f"{len(missing)} image(s) named in images.txt are missing in {files.place}:{shown}\n"
            f"Unpack {_ARCHIVE} again ({_OFFICIAL})."
        )
    label_of = {str(number): label for label, number in enumerate(sorted(names))}
    entries = []
    for split, flag in (("train", "1"), ("test", "0")):
        for number in sorted(paths):
            if number not in is_train or class_of.get(number) not in label_of:
                raise InputError(
                    f"Image {number} ({paths[number]}) has no class or no split in {files.place}. "
                    f"Unpack {_ARCHIVE} again ({_OFFICIAL})."
                )
            if is_train[number] == flag:
                path = paths[number]
                label = label_of[class_of[number]]
                read = partial(files.read, f"images/{path}")
                entries.append(Entry(split, path, label, number, read))
    train = sum(entry.split == "train" for entry in entries)
    counts = (len(names), train, len(entries) - train)
    expected = (Cub.CLASSES, Cub.TRAIN_IMAGES, Cub.TEST_IMAGES)
    if counts != expected:
        raise InputError(
            f"{files.place} lists {counts[0]:,} classes, {counts[1]:,} training and {counts[2]:,} "
            f"test images; CUB-200-2011 has {expected[0]:,}, {expected[1]:,} and {expected[2]:,}. "
            f"Use the official archive ({_OFFICIAL}), or configs/folder.py for a part of it."
        )
    return Scan(files.place, tuple(names[number] for number in sorted(names)), tuple(entries))


def _find(manual_dir: Path) -> Path | None:
    """Returns the archive, which is always whole, before any unpacked folder."""
    if (manual_dir / _ARCHIVE).is_file():
        return manual_dir / _ARCHIVE
    if (manual_dir / _FOLDER).is_dir():
        return manual_dir / _FOLDER
    return manual_dir if (manual_dir / "images.txt").is_file() else None


def _table(files: Files, name: str) -> dict[int, str]:
    """Reads a list of lines "number value"."""
    if not files.has(name):
        raise InputError(
            f"{name} is missing in {files.place}. Unpack {_ARCHIVE} again ({_OFFICIAL})."
        )
    table = {}
    for row, line in enumerate(files.read(name).decode("utf-8", "replace").splitlines(), 1):
        number, _, value = line.strip().partition(" ")
        if not number.isdecimal() or not value:
            raise InputError(f'Line {row} of {name} in {files.place} is not "number value".')
        table[int(number)] = value
    return table


def _open(place: Path, root: Path) -> AbstractContextManager[Files]:
    if place.is_file():
        return _open_archive(place, root)
    return nullcontext(
        Files(
            place,
            has=lambda name: (place / name).is_file(),
            read=lambda name: (place / name).read_bytes(),
        )
    )


@contextmanager
def _open_archive(archive: Path, root: Path) -> Iterator[Files]:
    """Opens the archive for random access without unpacking a single file by its name.

    Gzip reads from the start only, while records are written in the order of the lists; so the
    plain tar goes into an unnamed temporary file beside the records, where there is room for it.
    """
    console = Console(stderr=True)
    with tempfile.TemporaryFile(dir=root) as plain:
        try:
            with (
                rich.progress.open(
                    archive,
                    "rb",
                    description="Unpacking",
                    console=console,
                    transient=True,
                    disable=not console.is_terminal,
                ) as packed,
                gzip.open(packed) as unpacked,
            ):
                while block := unpacked.read(1 << 20):
                    plain.write(block)
            plain.seek(0)
            with tarfile.open(fileobj=plain, mode="r:") as tar:
                members = {
                    member.name.removeprefix("./").removeprefix(f"{_FOLDER}/"): member
                    for member in tar
                    if member.isreg()
                }
        except (EOFError, gzip.BadGzipFile, tarfile.TarError, zlib.error) as error:
            raise InputError(
                f"{archive} is damaged ({error}). Download it again ({_OFFICIAL})."
            ) from error

        def read(name: str) -> bytes:
            member = members[name]
            return os.pread(plain.fileno(), member.size, member.offset_data)

        yield Files(archive, members.__contains__, read)
