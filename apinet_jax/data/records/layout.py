"""Any folder of images, one sub-folder per class.

The images of a class are stored at any depth below its folder. Hidden files are ignored. Two
layouts are understood:

*   `train/<class>/...`, with `test/<class>/...` and `val/<class>/...` if they exist. With both,
    `val/` is the validation split; `val/` without `test/` serves as the test split. `valid/` and
    `validation/` are other names of `val/`.
*   `<class>/...` directly in the folder.

Without `test/` and `val/`, a fixed fifth of every class becomes the test split.
"""

import unicodedata
from collections import Counter
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from apinet_jax.data.records.scan import Entry, Scan
from apinet_jax.data.records.walk import (
    Listing,
    escaped,
    is_ignored,
    listing_digest,
    quoted,
    walk_files,
)
from apinet_jax.data.stratify import draw_stratified
from apinet_jax.system.console import say
from apinet_jax.system.errors import InputError

_READ = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp")
# Unsupported formats count as images too: they are reported as unreadable instead of being left
# out silently.
_REFUSED = (
    *(".avif", ".bmp", ".gif", ".heic", ".heif", ".jp2", ".jxl", ".psd", ".tif", ".tiff"),
    *(".pbm", ".pgm", ".pnm", ".ppm"),
    *(".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2"),
)
_THUMBNAILS = ("thumbs.db", "desktop.ini")
_TEST_FRACTION = 0.2
_VALIDATION = ("val", "valid", "validation")
SPLITS = ("train", "test", *_VALIDATION)
# Folders without images that a workdir, or the folder of records, holds.
_OUTPUT_FOLDERS = {"apinet_jax_cache", "best", "checkpoints", "damaged", "tensorboard"}
_LAYOUT = "Expected train/<class>/*.jpg (and test/ or val/ likewise), or <class>/*.jpg."
_MAX_KINDS = 5  # of unused files that are listed


class Found(NamedTuple):
    """An image file before labels are known."""

    split: str
    class_name: str
    file_name: str


def find_images(folder: Path, option: str = "data.dir", outputs: Collection[Path] = ()) -> Scan:
    """Find the images of a folder without reading them, and report the files that are not used.

    Args:
        folder: The user's folder.
        option: The option that names it, for messages.
        outputs: Folders that hold no photos.

    Raises:
        InputError: The folder does not exist, has links without a target, or is not laid out as
            classes.
    """
    if not folder.is_dir():
        state = "is not a folder" if folder.exists() else "does not exist"
        raise InputError(f"The image folder {folder} {state}. Check {option}.")
    listing = walk_files(folder, SPLITS if (folder / "train").is_dir() else (), outputs)
    if links := listing.broken_links:
        raise InputError(
            f"{len(links)} link(s) in {folder} point to nothing: {quoted(links)}. Mount the disk "
            "or fetch the files that they point to, or remove the links."
        )
    splits = _split_folders(folder)
    images = [item for item in listing.files if is_image(item[0])]
    found = [
        Found(split, parts[0], file_name)
        for split, below in splits.items()
        for file_name, _ in images
        if len(parts := _below(file_name, below)) > 1
    ]
    found = _unify_spellings(folder, splits, found)
    _check_classes(folder, splits, found, option, _output_tops(folder, splits, listing, outputs))
    _report_unused(folder, splits, listing, {image.file_name for image in found})
    class_names = sorted({image.class_name for image in found if image.split == "train"})
    label_of = {name: label for label, name in enumerate(class_names)}
    labels = np.array([label_of[image.class_name] for image in found])
    split_names = [image.split for image in found]
    drawn = list(splits) == ["train"]
    if drawn:
        # The seed is fixed: the split is part of the data set, not of a run.
        is_test = draw_stratified(labels, _TEST_FRACTION, seed=0)
        split_names = ["test" if test else "train" for test in is_test]
    entries = tuple(
        Entry(
            split=split,
            file_name=escaped(image.file_name),  # for JSON; the path keeps its bytes
            label=int(label),
            image_id=index,
            read=(folder / image.file_name).read_bytes,
        )
        for index, (split, image, label) in enumerate(zip(split_names, found, labels, strict=True))
    )
    listed = listing_digest(images)
    return Scan(folder, tuple(class_names), entries, listing=listed, drawn=drawn)


def is_image(file_name: str) -> bool:
    """Return whether a file is an image by its suffix, also of a format that is not supported."""
    return file_name.lower().endswith(_READ + _REFUSED)


def _below(path: str, prefix: str) -> list[str]:
    """Return the parts of a path below a split's folder; none if it is elsewhere."""
    return path.removeprefix(prefix).split("/") if path.startswith(prefix) else []


def _split_folders(folder: Path) -> dict[str, str]:
    """Return the path prefix of each split; an empty one for a folder that is not split."""
    names = {path.name for path in folder.iterdir() if path.is_dir()}
    validation = [name for name in _VALIDATION if name in names]
    if "train" not in names:
        # Splits by another name would make classes `Test` and `Train`. Not so `valid`, which is
        # also a class: the counterpart of `invalid`.
        splits = ("train", "training", "val", "validation", "test", "testing")
        if present := [f"{name}/" for name in sorted(names) if name.lower() in splits]:
            raise InputError(f"{folder} has {' and '.join(present)} but no train/. {_LAYOUT}")
        return {"train": ""}
    if len(validation) > 1:
        present = " and ".join(f"{name}/" for name in validation)
        raise InputError(
            f"{folder} has {present}, which all name the validation images. Keep one of them and "
            "move the others away."
        )
    if validation and "test" in names:
        return {"train": "train/", "validation": f"{validation[0]}/", "test": "test/"}
    if validation or "test" in names:
        return {"train": "train/", "test": f"{validation[0]}/" if validation else "test/"}
    return {"train": "train/"}


def _unify_spellings(folder: Path, splits: dict[str, str], found: list[Found]) -> list[Found]:
    """Name every class as train/ does, whether its accents are composed or decomposed."""
    spellings: dict[str, dict[str, str]] = {split: {} for split in splits}
    for split, name in dict.fromkeys(image[:2] for image in found):
        key = unicodedata.normalize("NFC", escaped(name))
        if (other := spellings[split].setdefault(key, name)) != name:
            raise InputError(
                f"{folder / splits[split]} has two class folders of the same name, once with "
                f"composed and once with decomposed letters: {other!a} and {name!a}. Move their "
                "images into one folder."
            )
    unified = {
        name: escaped(spellings["train"].get(key, name))
        for names in spellings.values()
        for key, name in names.items()
    }
    return [image._replace(class_name=unified[image.class_name]) for image in found]


def _output_tops(
    folder: Path, splits: dict[str, str], listing: Listing, outputs: Collection[Path]
) -> set[str]:
    """Return names that are classes only with images: runs or records are stored there."""
    paths = [_below(path, splits["train"]) for path in listing.outputs]
    train = (folder / splits["train"]).resolve()
    paths += [
        path.resolve().relative_to(train).parts
        for path in outputs
        if path.resolve().is_relative_to(train)
    ]
    return {parts[0] for parts in paths if parts} | _OUTPUT_FOLDERS


def _check_classes(
    folder: Path, splits: dict[str, str], found: list[Found], option: str, outputs: set[str]
) -> None:
    """Raise one clear error if a folder cannot be trained on."""
    train = folder / splits["train"]
    classes = {image.class_name for image in found if image.split == "train"}
    folders = sorted(
        escaped(path.name)
        for path in train.iterdir()
        if path.is_dir() and not is_ignored(path.name)
    )
    folders = [name for name in folders if name in classes or name not in outputs]
    if not folders:
        raise InputError(f"There are no class folders in {train}. {_LAYOUT}")
    suffixes = ", ".join(_READ)
    if not classes:
        raise InputError(f"There are no images ({suffixes}) in the class folders of {train}.")
    if empty := [name for name in folders if name not in classes]:
        raise InputError(
            f"{len(empty):,} class folder(s) of {train} hold no image ({suffixes}): "
            f"{quoted(empty)}. Add images, or move everything that is not a class out of {train}."
        )
    if len(folders) == 1:
        what = "train/<class>/" if splits["train"] else "them"
        raise InputError(
            f"There is only one class, {folders[0]!r}, in {train}; at least two are needed. If the "
            f"class folders are stored deeper, set {option} to the folder that holds {what}."
        )
    for split, below in splits.items():
        present = {image.class_name for image in found if image.split == split}
        if not present:
            raise InputError(
                f"There are no images below class folders in {folder / below}. Sort them into "
                f"{below}<class>/, or move {below} away."
            )
        if unknown := sorted(present - classes):
            raise InputError(
                f"{folder / below} has classes that are not in {train}: {quoted(unknown)}. "
                "Rename or remove them."
            )


def _report_unused(folder: Path, splits: dict[str, str], listing: Listing, used: set[str]) -> None:
    """Print which folders and files of a photo folder are not used, if there are any."""
    if listing.outputs:
        say(f"Skipped in {folder}, as runs or records are stored there: {quoted(listing.outputs)}.")
    places, kinds = set(), Counter()
    for path, _ in listing.files:
        if path in used:
            continue
        top, *rest = path.split("/")
        if is_image(path):
            places.add(path if f"{top}/" in splits.values() or not rest else top)
        elif (
            any(len(_below(path, below)) > 1 for below in splits.values())
            and rest[-1].lower() not in _THUMBNAILS
        ):
            kinds[PurePosixPath(path).suffix.lower() or "without extension"] += 1
    if places:
        rule = "train/, val/ and test/ are read" if splits["train"] else "class folders are read"
        say(
            f"WARNING: {folder} has images that are not used, in {quoted(sorted(places))}: only "
            f"{rule}."
        )
    if kinds:
        named = [f"{count:,} {escaped(kind)}" for kind, count in kinds.most_common(_MAX_KINDS)]
        if len(kinds) > _MAX_KINDS:
            named.append("...")
        say(
            f"{kinds.total():,} file(s) in class folders of {folder} are not used: "
            f"{', '.join(named)}."
        )
