"""What a data set's files hold, and whether every image of it can be read."""

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple

from apinet_jax.data.transforms import decode
from apinet_jax.system.console import tracked
from apinet_jax.system.errors import InputError


class Box(NamedTuple):
    """A rectangle of whole pixels; x and y are those of its upper left corner, from 0."""

    x: int
    y: int
    width: int
    height: int

    @classmethod
    def around(
        cls, left: int | float, top: int | float, right: int | float, bottom: int | float
    ) -> "Box":
        """Returns the smallest box that covers the area between four edges."""
        x, y = math.floor(left), math.floor(top)
        return cls(x, y, math.ceil(right) - x, math.ceil(bottom) - y)

    def within(self, width: int, height: int) -> "Box":
        """Returns the part that lies in a picture; its sides are below 1 if none does."""
        x, y = max(self.x, 0), max(self.y, 0)
        right, bottom = min(self.x + self.width, width), min(self.y + self.height, height)
        return Box(x, y, right - x, bottom - y)


class Entry(NamedTuple):
    """One image of a data set.

    Attributes:
        split: train, validation or test.
        file_name: Path below the data set's folder, with forward slashes.
        label: Its class.
        image_id: What the data set itself calls it.
        read: Returns the encoded file.
        box: Where the object is, if the data set says so; once checked, within the window.
        window: The part of the picture to look at; `None` for the whole, and until it is checked.
    """

    split: str
    file_name: str
    label: int
    image_id: int | str
    read: Callable[[], bytes]
    box: Box | None = None
    window: Box | None = None


class Scan(NamedTuple):
    """The images of a data set, in the order of their records, before any of them is read.

    Attributes:
        place: The folder or archive, for messages.
        class_names: Name of each label.
        entries: The images.
        banner: Rows at the bottom of every picture that are not to be looked at.
        need_boxes: Whether an image is of no use without a box inside of it.
        listing: Digest of what lay on disk before any of it was read.
    """

    place: Path
    class_names: tuple[str, ...]
    entries: tuple[Entry, ...]
    banner: int = 0
    need_boxes: bool = False
    listing: str | None = None


class Checked(NamedTuple):
    """The images that could be read.

    Attributes:
        place: The folder or archive, for messages.
        class_names: Name of each label.
        entries: The readable images.
        digests: SHA-256 of the bytes of each.
        skipped: File name and reason of those that were left out.
        need_boxes: Whether images without a box inside of them were left out too.
    """

    place: Path
    class_names: tuple[str, ...]
    entries: tuple[Entry, ...]
    digests: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    need_boxes: bool


def check_images(scan: Scan, skip_unreadable: bool) -> Checked:
    """Decodes every image once, on all cores.

    Args:
        scan: The images to check.
        skip_unreadable: Leave unreadable images out instead of raising.

    Returns:
        The readable images with their digests.

    Raises:
        InputError: An image is unreadable, or leaving some out leaves a class without any.
    """
    with ThreadPool(os.cpu_count()) as pool:
        checking = pool.imap(partial(_checked, scan), scan.entries, 8)
        checked = list(tracked(checking, "Checking images", len(scan.entries)))
    skipped = tuple((entry.file_name, reason) for entry, _, reason in checked if reason)
    if skipped and not skip_unreadable:
        raise unreadable_error(scan.place, skipped)
    kept = [(entry, digest) for entry, digest, reason in checked if not reason]
    trained = {entry.label for entry, _ in kept if entry.split == "train"}
    bare = [name for label, name in enumerate(scan.class_names) if label not in trained]
    if bare:
        raise InputError(
            f"No readable training image is left in {quoted(bare)} of {scan.place}. Repair the "
            "files or remove the class."
        )
    entries, digests = zip(*kept, strict=True)
    return Checked(scan.place, scan.class_names, entries, digests, skipped, scan.need_boxes)


def unreadable_error(place: Path, skipped: Iterable[tuple[str, str]]) -> InputError:
    """Returns the error that lists every unreadable file with its reason."""
    lines = [f"  {file_name}: {reason}" for file_name, reason in skipped]
    return InputError(
        f"{len(lines)} unreadable image file(s) in {place}:\n"
        + "\n".join(lines)
        + "\nRepair or remove them, or leave them out with --config.data.skip_unreadable=True "
        "(python -m apinet_jax prepare: --skip-unreadable)."
    )


def walk_files(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yields every file that is not hidden, at any depth, in a fixed order.

    What only has a name like one, a pipe or a device, is no file: it would be read for ever.

    Args:
        folder: Where to begin. Linked folders are followed unless they lead back up.

    Yields:
        The path below `folder`, with forward slashes, and its status.
    """

    def stop(error: OSError) -> None:
        raise InputError(f"Cannot list {error.filename}: {error.strerror}. Check its permissions.")

    for here, folders, files in os.walk(folder, followlinks=True, onerror=stop):
        parent = Path(here)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith((".", "__")) and not _leads_up(parent, parent / name)
        )
        for name in sorted(files):
            path = parent / name
            if not name.startswith(".") and path.is_file():
                yield path.relative_to(folder).as_posix(), path.stat()


def listing_digest(files: Iterable[tuple[str, os.stat_result]]) -> str:
    """Returns a SHA-256 over path, size and time of change: quick to take, no file is read."""
    digest = hashlib.sha256()
    for name, status in files:
        digest.update(os.fsencode(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n"))
    return digest.hexdigest()


def fingerprint(checked: Checked) -> str:
    """Returns a SHA-256 over split, file name, label and bytes of every record."""
    digest = hashlib.sha256()
    for entry, sha in zip(checked.entries, checked.digests, strict=True):
        digest.update(f"{entry.split}\0{entry.file_name}\0{entry.label}\0{sha}\n".encode())
    return digest.hexdigest()


def quoted(names: Iterable[str]) -> str:
    """Returns the names as they appear in messages."""
    return ", ".join(repr(name) for name in names)


def _checked(scan: Scan, entry: Entry) -> tuple[Entry, str, str]:
    """Returns the image with its window, the digest of its bytes, and why it cannot be used."""
    try:
        data = entry.read()
        width, height = decode(data).size
    except OSError as error:
        return entry, "", error.strerror or str(error)
    except ValueError as error:
        return entry, "", str(error)
    if scan.banner:
        height -= scan.banner
        entry = entry._replace(window=Box(0, 0, width, height))
        if height < 1:
            return entry, "", f"nothing is left above the {scan.banner} rows of its banner"
    if entry.box is not None:
        box = entry.box.within(width, height)
        inside = min(box.width, box.height) >= 1
        if scan.need_boxes and not inside:
            return entry, "", f"its box {tuple(entry.box)} is not in its {width} x {height} pixels"
        entry = entry._replace(box=box if inside else None)
    return entry, hashlib.sha256(data).hexdigest(), ""


def _leads_up(parent: Path, child: Path) -> bool:
    return child.is_symlink() and parent.resolve().is_relative_to(child.resolve())
