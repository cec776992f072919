"""The images of a data set before they become records, and the check that all are readable."""

import hashlib
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple

from apinet_jax.data.decoding import decode
from apinet_jax.data.records.walk import quoted
from apinet_jax.system.console import say, tracked
from apinet_jax.system.errors import InputError

_MAX_LINES = 100  # of unreadable files in a message
_MAX_COPIES = 3  # in a warning


class Box(NamedTuple):
    """A rectangle of whole pixels; x and y of its upper left corner count from 0."""

    x: int
    y: int
    width: int
    height: int

    @classmethod
    def around(
        cls, left: int | float, top: int | float, right: int | float, bottom: int | float
    ) -> "Box":
        """Return the smallest box that covers the area between four edges."""
        x, y = math.floor(left), math.floor(top)
        return cls(x, y, math.ceil(right) - x, math.ceil(bottom) - y)

    def within(self, width: int, height: int) -> "Box":
        """Return the part inside a picture; a side below 1 means that there is none."""
        x, y = max(self.x, 0), max(self.y, 0)
        right, bottom = min(self.x + self.width, width), min(self.y + self.height, height)
        return Box(x, y, right - x, bottom - y)


class Entry(NamedTuple):
    """One image of a data set.

    Attributes:
        split: train, validation or test.
        file_name: Path below the data set's folder, with forward slashes.
        label: Its class.
        image_id: The data set's own identifier.
        read: Returns the encoded file.
        box: The object, if the data set has boxes; after the check clipped to the window.
        window: The part of the picture to use; `None` for all of it, and before the check.
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
        banner: Rows at the bottom of every picture to cut off.
        need_boxes: Whether an image without a box inside it is unusable.
        listing: Digest of the files on disk, taken before any of them was read.
        drawn: Whether the test split was drawn from the training images.
    """

    place: Path
    class_names: tuple[str, ...]
    entries: tuple[Entry, ...]
    banner: int = 0
    need_boxes: bool = False
    listing: str | None = None
    drawn: bool = False


class Checked(NamedTuple):
    """The readable images of a data set.

    Attributes:
        place: The folder or archive, for messages.
        class_names: Name of each label.
        entries: The readable images.
        digests: SHA-256 of the bytes of each.
        skipped: File name and reason of those that were left out.
        need_boxes: Whether images without a box inside them were left out too.
    """

    place: Path
    class_names: tuple[str, ...]
    entries: tuple[Entry, ...]
    digests: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    need_boxes: bool


def check_images(scan: Scan, skip_unreadable: bool) -> Checked:
    """Decode every image once, on all cores.

    Args:
        scan: The images to check.
        skip_unreadable: Leave unreadable images out instead of raising.

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
    """Return the error that lists the unreadable files with their reasons."""
    lines = [f"  {file_name}: {reason}" for file_name, reason in skipped]
    more = len(lines) - _MAX_LINES
    return InputError(
        f"{len(lines):,} unreadable image file(s) in {place}:\n"
        + "\n".join([*lines[:_MAX_LINES], *([f"  and {more:,} more"] if more > 0 else [])])
        + "\nRepair or remove them, or leave them out with data.skip_unreadable=True "
        "(python -m apinet_jax prepare: --skip-unreadable)."
    )


def warn_of_copies(checked: Checked) -> None:
    """Warn about files that are in several splits, or in several classes, byte for byte."""
    copies = defaultdict(list)
    for entry, sha in zip(checked.entries, checked.digests, strict=True):
        copies[sha].append(entry)
    for field, what in (("split", "splits"), ("label", "classes")):
        found = [
            " = ".join(dict.fromkeys(entry.file_name for entry in entries))
            for entries in copies.values()
            if len({getattr(entry, field) for entry in entries}) > 1
        ]
        if found:
            shown = "; ".join(found[:_MAX_COPIES]) + ("; ..." if len(found) > _MAX_COPIES else ".")
            say(f"WARNING: {len(found):,} image(s) are in more than one of the {what}: {shown}")


def fingerprint(checked: Checked) -> str:
    """Return a SHA-256 over split, file name, label and bytes of every record."""
    digest = hashlib.sha256()
    for entry, sha in zip(checked.entries, checked.digests, strict=True):
        digest.update(f"{entry.split}\0{entry.file_name}\0{entry.label}\0{sha}\n".encode())
    return digest.hexdigest()


def _checked(scan: Scan, entry: Entry) -> tuple[Entry, str, str]:
    """Return the image with its window, the digest of its bytes, and why it is unusable."""
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
