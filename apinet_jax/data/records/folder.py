"""Any folder of images, one sub-folder a class.

The images of a class lie at any depth below its folder; hidden files and files that are no images
are ignored. Two layouts are understood:

*   `train/<class>/...`, with `test/<class>/...` and `val/<class>/...` if they exist. With both,
    `val/` is the validation split; `val/` alone serves as the test split. `valid/` and
    `validation/` are other names of `val/`.
*   `<class>/...` directly in the folder.

Where there is neither `test/` nor `val/`, a fixed fifth of every class becomes the test split.
"""

import hashlib
import os
import re
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from apinet_jax.data.records.builder import EncodedImages, ensure_prepared
from apinet_jax.data.records.scan import Entry, Scan, listing_digest, quoted, walk_files
from apinet_jax.data.stratify import draw_stratified
from apinet_jax.system.console import say
from apinet_jax.system.errors import InputError

# Formats that are not supported count as images too: they are to be reported as unreadable, with
# the reason, rather than to be missing without a word.
_READ = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp")
_REFUSED = (".avif", ".bmp", ".gif", ".heic", ".heif", ".jp2", ".tif", ".tiff")
_TEST_FRACTION = 0.2
_VALIDATION = ("val", "valid", "validation")
_LAYOUT = "Expected train/<class>/*.jpg (and test/ or val/ likewise), or <class>/*.jpg."


class Folder(EncodedImages):
    """A folder of images, one sub-folder a class."""

    # Records lie below their version: a new rule for the splits raises it, so that no records of
    # the old rule are taken for current.
    VERSION = tfds.core.Version("1.1.0")


class Found(NamedTuple):
    """An image file before labels are known."""

    split: str
    class_name: str
    file_name: str


def prepare(folder: Path, root: Path, skip_unreadable: bool) -> Folder:
    """Prepares a folder, or opens its records where nothing has changed since.

    Args:
        folder: The user's folder.
        root: TFDS's root, where the records go.
        skip_unreadable: Leave unreadable images out instead of raising.

    Returns:
        The builder, opened on the finished records.
    """
    scan = find_images(folder)
    place = folder.resolve()
    path_hash = hashlib.sha256(os.fsencode(place)).hexdigest()[:12]
    stem = re.sub(r"[^A-Za-z0-9_]+", "_", place.name)
    config = tfds.core.BuilderConfig(name=f"{stem}-{path_hash}", version=Folder.VERSION)
    return ensure_prepared(
        Folder,
        root,
        lambda: scan.listing,
        lambda: nullcontext(scan),
        skip_unreadable,
        config=config,
    )


def find_images(folder: Path, option: str = "--config.data.dir") -> Scan:
    """Finds the images of a folder, reading none; warns of those in folders of no split.

    Args:
        folder: The user's folder.
        option: What it was named with, for messages.

    Returns:
        The images.

    Raises:
        InputError: The folder is missing or not laid out as classes.
    """
    if not folder.is_dir():
        state = "is not a folder" if folder.exists() else "does not exist"
        raise InputError(f"The image folder {folder} {state}. Check {option}.")
    files = [item for item in walk_files(folder) if _is_image(item[0])]
    splits = _split_folders(folder)
    found = [
        Found(split, parts[0], file_name)
        for split, below in splits.items()
        for file_name, _ in files
        if file_name.startswith(below)
        and len(parts := file_name.removeprefix(below).split("/")) > 1
    ]
    _check_classes(folder, splits, found, option)
    _warn_of_unused(folder, splits, (file_name for file_name, _ in files))
    class_names = sorted({image.class_name for image in found if image.split == "train"})
    label_of = {name: label for label, name in enumerate(class_names)}
    labels = np.array([label_of[image.class_name] for image in found])
    split_names = [image.split for image in found]
    if list(splits) == ["train"]:
        # Seed 0 for good: the split is part of the data set, not of a run.
        drawn = draw_stratified(labels, _TEST_FRACTION, seed=0)
        split_names = ["test" if test else "train" for test in drawn]
    entries = tuple(
        # A name that is not UTF-8 is escaped: it has to go into JSON, while the path stays as is.
        Entry(
            split=split,
            file_name=os.fsencode(image.file_name).decode("utf-8", "backslashreplace"),
            label=int(label),
            image_id=index,
            read=(folder / image.file_name).read_bytes,
        )
        for index, (split, image, label) in enumerate(zip(split_names, found, labels, strict=True))
    )
    return Scan(folder, tuple(class_names), entries, listing=listing_digest(files))


def _is_image(file_name: str) -> bool:
    return file_name.lower().endswith(_READ + _REFUSED)


def _split_folders(folder: Path) -> dict[str, str]:
    """Returns the path prefix of each split; an empty one for a folder that is not split."""
    names = {path.name for path in folder.iterdir() if path.is_dir()}
    validation = [name for name in _VALIDATION if name in names]
    if "train" not in names:
        # Splits by another name would make classes `Test` and `Train`. Not so `valid`, which is
        # also a class: the one beside `invalid`.
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


def _check_classes(folder: Path, splits: dict[str, str], found: list[Found], option: str) -> None:
    """Raises one clear error where a folder cannot be trained on."""
    train = folder / splits["train"]
    folders = sorted(
        path.name
        for path in train.iterdir()
        if path.is_dir() and not path.name.startswith((".", "__"))
    )
    if not folders:
        raise InputError(f"There are no class folders in {train}. {_LAYOUT}")
    classes = {image.class_name for image in found if image.split == "train"}
    suffixes = ", ".join(_READ)
    if not classes:
        raise InputError(f"There are no images ({suffixes}) in the class folders of {train}.")
    if empty := [name for name in folders if name not in classes]:
        raise InputError(
            f"{len(empty)} class folder(s) of {train} hold no image ({suffixes}): "
            f"{quoted(empty)}. Add images or remove the folder."
        )
    if len(folders) == 1:
        what = "train/<class>/" if splits["train"] else "them"
        raise InputError(
            f"There is only one class, {folders[0]!r}, in {train}; at least two are needed. If the "
            f"class folders lie deeper, set {option} to the folder that holds {what}."
        )
    for split, below in splits.items():
        there = {image.class_name for image in found if image.split == split}
        if not there:
            raise InputError(
                f"There are no images below class folders in {folder / below}. Sort them into "
                f"{below}<class>/, or move {below} away."
            )
        if unknown := sorted(there - classes):
            raise InputError(
                f"{folder / below} has classes that are not in {train}: {quoted(unknown)}. "
                "Rename or remove them."
            )


def _warn_of_unused(folder: Path, splits: dict[str, str], file_names: Iterable[str]) -> None:
    """Names the folders beside `train/` whose images belong to no split, if there are any."""
    if not splits["train"]:
        return
    tops = {name.split("/")[0] for name in file_names if "/" in name}
    if unused := sorted(tops - {below.removesuffix("/") for below in splits.values()}):
        say(
            f"WARNING: {folder} has images that are not used, in {quoted(unused)}: only train/, "
            "val/ and test/ are read."
        )
