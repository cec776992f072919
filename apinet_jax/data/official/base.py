"""Base class of the data sets of the literature: published archives and known counts."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import ClassVar

from apinet_jax.data.official.archive import Files, explain_failed_reads, open_files
from apinet_jax.data.official.download import Archive, differs, download
from apinet_jax.data.records.builder import EncodedImages, ensure_prepared
from apinet_jax.data.records.scan import Scan
from apinet_jax.data.records.walk import listing_digest, walk_files
from apinet_jax.system.console import say
from apinet_jax.system.errors import InputError


class Official(EncodedImages, skip_registration=True):
    """A data set that is published in archives.

    Attributes:
        TITLE: Its usual name.
        CLASSES: Official number of classes.
        TRAIN_IMAGES: Official number of training images.
        TEST_IMAGES: Official number of test images.
        LAYOUTS: The forms in which it circulates, each a complete set of archives; the first one
            is downloaded.
        STEPS: How to get it manually, with `{folder}` for the folder to put it into.
    """

    TITLE: ClassVar[str]
    CLASSES: ClassVar[int]
    TRAIN_IMAGES: ClassVar[int]
    TEST_IMAGES: ClassVar[int]
    LAYOUTS: ClassVar[tuple[tuple[Archive, ...], ...]]
    STEPS: ClassVar[str]

    @staticmethod
    def read(pieces: Mapping[str, Files]) -> Scan:
        """Read the official lists into images, in the order of their records.

        Args:
            pieces: The files of each archive of a layout, by `Archive.holds`.

        Raises:
            InputError: A list or an image is missing, or a list is wrong.
        """
        raise NotImplementedError


def manual_steps(archive: Archive) -> str:
    """Return `STEPS` for a data set that is a single archive."""
    return (
        f"Download {archive.name} from {archive.page} and put it, or the folder {archive.holds}/ "
        "unpacked from it, into {folder}."
    )


def prepare(
    builder_class: type[Official],
    manual_dir: Path | None,
    root: Path,
    skip_unreadable: bool,
    need_boxes: bool,
) -> Official:
    """Prepare a data set, or open its records if nothing has changed since.

    The archives may be deleted once the records are written.

    Args:
        builder_class: The data set.
        manual_dir: Folder of the archives or of the folders unpacked from them, or such a folder
            itself; `None` for `downloads/manual` below the root. Missing archives are downloaded.
        root: TFDS's root, for the records.
        skip_unreadable: Leave unreadable images out instead of raising.
        need_boxes: Prepare again if the records have no boxes.

    Returns:
        The builder, opened on the finished records.

    Raises:
        InputError: The data set is missing and cannot be downloaded, or is not the official one.
        RunError: A download failed, or the records cannot be written.
    """
    folder = manual_dir or root / "downloads" / "manual"
    steps = (
        f"{builder_class.STEPS.format(folder=folder)} To use another folder, set "
        "data.manual_dir (python -m apinet_jax prepare: --manual-dir)."
    )

    @contextmanager
    def scan() -> Iterator[Scan]:
        if manual_dir is not None and manual_dir.is_file():
            raise InputError(
                f"{manual_dir} is a file. Name the folder that contains it, {manual_dir.parent}."
            )
        if manual_dir is not None and not manual_dir.is_dir():
            raise InputError(f"The folder {manual_dir} does not exist. {steps}")
        places = _locate(builder_class, folder, need_boxes, steps)
        # Taken before anything is read: records of lists edited in the meantime are out of date.
        before = listing()
        with ExitStack() as stack:
            pieces = {
                archive.holds: stack.enter_context(open_files(archive, place, root))
                for archive, place in places.items()
            }
            found = builder_class.read(pieces)
            _check(builder_class, found, need_boxes, steps)
            yield found._replace(need_boxes=need_boxes, listing=before)

    def listing() -> str | None:
        places, missing = _find(builder_class, folder, need_boxes)
        if missing:
            return None
        return listing_digest(chain.from_iterable(map(_statuses, places.values())))

    return ensure_prepared(builder_class, root, listing, scan, skip_unreadable, need_boxes)


def _find(
    builder_class: type[Official], folder: Path, need_boxes: bool
) -> tuple[dict[Archive, Path], list[Archive]]:
    """Return places and missing archives of the best layout.

    Best is complete, then completed by a download, then the largest number of archives found.
    """
    wanted = ("always", "for boxes") if need_boxes else ("always",)
    ranked = []
    for layout in builder_class.LAYOUTS:
        with explain_failed_reads(folder):
            places = {archive: _place(archive, folder) for archive in layout}
        found = {archive: place for archive, place in places.items() if place is not None}
        missing = [each for each in layout if each not in found and each.needed in wanted]
        rank = bool(missing), any(archive.url is None for archive in missing), -len(found)
        ranked.append((rank, found, missing))
    return min(ranked, key=itemgetter(0))[1:]


def _place(archive: Archive, folder: Path) -> Path | None:
    """Return the archive rather than an unpacked folder, in which files may be missing."""
    if archive.name and (folder / archive.name).is_file():
        return folder / archive.name
    unpacked = folder / archive.holds
    if unpacked.is_dir():
        while (unpacked / archive.holds).is_dir():  # as some tools unpack it
            unpacked /= archive.holds
        return unpacked
    return folder if archive.marker and (folder / archive.marker).exists() else None


def _statuses(place: Path) -> Iterable:
    return [(place.name, place.stat())] if place.is_file() else walk_files(place).files


def _locate(
    builder_class: type[Official], folder: Path, need_boxes: bool, steps: str
) -> dict[Archive, Path]:
    """Return the place of each archive after downloading the missing ones."""
    places, missing = _find(builder_class, folder, need_boxes)
    if any(archive.url is None for archive in missing):
        found = ", ".join(place.name for place in places.values())
        without = ", ".join(_names(archive) for archive in missing)
        raise InputError(
            f"{builder_class.TITLE} is incomplete in {folder}: {found} found, but not {without}. "
            f"{steps}"
            if places
            else f"{builder_class.TITLE} is not in {folder}. {steps}"
        )
    for archive, place in places.items():
        with explain_failed_reads(place):
            difference = differs(archive, place) if place.is_file() else ""
        if difference:
            say(
                f"WARNING: {place} is not the published file: {difference}. Its content is "
                "checked as usual."
            )
    fetched = {archive: download(archive, folder, f"Or: {steps}") for archive in missing}
    return {**places, **fetched}


def _names(archive: Archive) -> str:
    names = [archive.name] if archive.name else []
    if archive.holds != archive.name:
        names.append(f"{archive.holds}/")
    return " or ".join(names)


def _check(builder_class: type[Official], scan: Scan, need_boxes: bool, steps: str) -> None:
    """Compare what was found with the official counts."""
    splits = [entry.split for entry in scan.entries]
    counts = (len(scan.class_names), splits.count("train"), splits.count("test"))
    expected = (builder_class.CLASSES, builder_class.TRAIN_IMAGES, builder_class.TEST_IMAGES)
    if counts != expected or len(splits) != sum(expected[1:]):
        raise InputError(
            f"{scan.place} lists {counts[0]:,} classes, {counts[1]:,} training and {counts[2]:,} "
            f"test images; {builder_class.TITLE} has {expected[0]:,}, {expected[1]:,} and "
            f"{expected[2]:,}. Use the official archive, or configs/folder.py for a part of it. "
            f"{steps}"
        )
    if repeated := _repeated(scan.class_names):
        raise InputError(f"{scan.place} has more than one class {repeated!r}. {steps}")
    if repeated := _repeated(entry.file_name for entry in scan.entries):
        raise InputError(f"{scan.place} lists {repeated} more than once. {steps}")
    if need_boxes and any(entry.box is None for entry in scan.entries):
        raise InputError(f"{scan.place} has no boxes to crop to. {steps}")


def _repeated(names: Iterable[str]) -> str | None:
    """Return the first name that occurs twice."""
    seen = set()
    return next((name for name in names if name in seen or seen.add(name)), None)
