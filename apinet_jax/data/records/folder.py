"""The builder of a user's image folder; `layout` says how such a folder is laid out."""

import hashlib
import os
import re
from collections.abc import Collection
from contextlib import nullcontext
from pathlib import Path

import tensorflow_datasets as tfds

from apinet_jax.data.records.builder import EncodedImages, ensure_prepared
from apinet_jax.data.records.layout import find_images
from apinet_jax.system.console import say

# Of a record folder's name: file systems allow 255 bytes, some only 143.
_MAX_STEM = 100


class Folder(EncodedImages):
    """A folder of images, one sub-folder per class."""

    # Records are stored below their version. A new rule for the splits raises it, so that records
    # of the old rule are prepared again.
    VERSION = tfds.core.Version("1.1.0")


def prepare(
    folder: Path,
    root: Path,
    skip_unreadable: bool,
    outputs: Collection[Path] = (),
) -> tuple[Folder, bool]:
    """Prepare a folder, or open its records if nothing has changed since.

    Args:
        folder: The user's folder.
        root: TFDS's root, where the records are stored.
        skip_unreadable: Leave unreadable images out instead of raising.
        outputs: Folders that hold no photos, such as the workdir.

    Returns:
        The builder, and whether its test split was drawn from the training images.
    """
    scan = find_images(folder, outputs=(root, *outputs))
    place = folder.resolve()
    path_hash = hashlib.sha256(os.fsencode(place)).hexdigest()[:12]
    stem = re.sub(r"[^A-Za-z0-9_]+", "_", place.name)[:_MAX_STEM]
    config = tfds.core.BuilderConfig(name=f"{stem}-{path_hash}", version=Folder.VERSION)
    builder = ensure_prepared(
        Folder,
        root,
        lambda: scan.listing,
        lambda: nullcontext(scan),
        skip_unreadable,
        config=config,
    )
    return builder, scan.drawn


def report_drawn_split(folder: Path) -> None:
    """Print that test images were drawn, and warn if others exist next to the folder."""
    say(f"{folder} has no test/ or val/: a fifth of each class is set apart as test images.")
    place = folder.resolve()
    others = [name for name in ("test", "val") if (place.parent / name).is_dir()]
    if place.name.lower() in ("train", "training") and others:
        say(
            f"WARNING: {place.parent / others[0]} is not used. To use it, set "
            f"data.dir={place.parent}."
        )
