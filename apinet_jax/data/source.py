"""Random access to the encoded images of a prepared data set.

`open_dataset` prepares on first use (see `builders/`) and opens in milliseconds afterwards: labels
and file names come from the builder's metadata, records are read only when asked for.
"""

import hashlib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from PIL import Image

from apinet_jax.data.stratify import draw_stratified
from apinet_jax.data.transforms import decode
from apinet_jax.system.errors import InputError, RunError
from apinet_jax.system.mirror import local_copy
from apinet_jax.system.paths import is_remote, local_path, records_root

# Data sets of the literature, from their official archives.
OFFICIAL = ("cub", "aircraft", "cars", "dogs", "nabirds")
NAMES = ("birds", *OFFICIAL, "folder")


@dataclass(frozen=True, eq=False)
class Source:
    """The images of one split, or of a part of it; pickles without its open files.

    Attributes:
        records: TFDS's random-access reader of the whole split, which opens its files lazily.
        rows: Record of each image.
        labels: Class of each image.
        file_names: File each image came from.
        split: Name of the split that `records` reads, whatever part of it this is.
        windows: The part of each record's picture to look at, as x, y, width and height in pixels;
            `None` for whole pictures.
    """

    records: Any
    rows: Int[np.ndarray, " N"]
    labels: Int[np.ndarray, " N"]
    file_names: tuple[str, ...]
    split: str
    windows: Int[np.ndarray, "R 4"] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int) -> bytes:
        """Returns the encoded file of one image, untouched."""
        return self.read_record(int(self.rows[index]))

    def read_record(self, row: int) -> bytes:
        """Returns the encoded file of a record of the whole split.

        Raises:
            RunError: The records are damaged, or gone.
        """
        try:
            return self.records[row]["image"]
        except (OSError, RuntimeError) as error:  # array_record makes the one of the other
            folder = self.records.dataset_info.data_dir
            raise RunError(
                f"Record {row} of {self.split} in {folder} cannot be read ({error}). Delete that "
                "folder; the next command prepares it anew."
            ) from error

    def picture(self, row: int) -> Image.Image:
        """Decodes a record of the whole split, as much of it as there is to look at.

        Raises:
            ValueError: It cannot be decoded.
        """
        image = decode(self.read_record(row))
        if self.windows is None:
            return image
        x, y, width, height = self.windows[row].tolist()
        return image.crop((x, y, x + width, y + height))

    def subset(self, indices: Int[np.ndarray, " M"]) -> "Source":
        """Returns a view of some images, in the order given."""
        return replace(
            self,
            rows=self.rows[indices],
            labels=self.labels[indices],
            file_names=tuple(self.file_names[index] for index in indices),
        )


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set with its splits.

    Attributes:
        name: The name it was opened by.
        class_names: Name of each label.
        train: Training images.
        validation: Images for choosing a model; None until some are held out.
        test: Test images, if there are any.
        fingerprint: SHA-256 over split, file name, label and bytes of every record, and over the
            windows where there are any, so that a copy of the same files has the same one; drawn
            data sets name version, seed and counts.
        skipped: Unreadable files that were left out on request.
    """

    name: str
    class_names: tuple[str, ...]
    train: Source
    validation: Source | None
    test: Source | None
    fingerprint: str
    skipped: tuple[str, ...] = ()


def hold_out(dataset: Dataset, fraction: float, seed: int) -> Dataset:
    """Moves a stratified part of the training images into the validation split.

    Every class keeps at least one training image, and a class with a single one gives none. The
    draw depends on nothing but the labels, the fraction and the seed. A data set that brings its
    own validation split, and a fraction of 0, are returned as they are.

    Args:
        dataset: The data set to draw from.
        fraction: Part of each class to move, in [0, 1).
        seed: Seed of the draw.

    Returns:
        The data set with the images moved.

    Raises:
        InputError: No class has an image to spare.
    """
    if dataset.validation is not None or fraction == 0:
        return dataset
    drawn = draw_stratified(dataset.train.labels, fraction, seed)
    if not drawn.any():
        raise InputError(
            f"data.val_fraction = {fraction} holds out no image: every class has a single training "
            "image, which it keeps. Set --config.data.val_fraction=0, or add photos."
        )
    return replace(
        dataset,
        train=dataset.train.subset(np.flatnonzero(~drawn)),
        validation=dataset.train.subset(np.flatnonzero(drawn)),
    )


def open_dataset(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    manual_dir: str | os.PathLike[str] | None = None,
    skip_unreadable: bool = False,
    crop_to_box: bool = False,
) -> Dataset:
    """Opens a data set, preparing its records first where they are missing or out of date.

    Args:
        name: One of `NAMES`.
        data_dir: For `folder` the user's image folder, whose prepared records go to TFDS's own root
            (`TFDS_DATA_DIR`, else `~/tensorflow_datasets`); for the others the root itself.
        manual_dir: Where official archives or their unpacked folders lie, and where those that can
            be had without asking are downloaded to; `downloads/manual` below the root by default.
            This and an image folder may lie in a bucket, of which a copy is then made.
        skip_unreadable: Leave unreadable files out instead of stopping with their list.
        crop_to_box: Look at the box around the object alone, where the archives have boxes.

    Returns:
        The data set, opened for reading.

    Raises:
        InputError: The name is unknown, or something is wrong with the files.
        RunError: A download failed, or the records cannot be written.
    """
    if name not in NAMES:
        raise InputError(
            f"Unknown data set {name!r}. Set --config.data.name to one of: {', '.join(NAMES)}."
        )
    if crop_to_box and name not in OFFICIAL:
        raise InputError(
            f"The data set {name!r} has no boxes to crop to. Set --config.data.crop_to_box=False "
            "(python -m apinet_jax prepare: leave out --crop-to-box)."
        )
    # Importing TFDS takes a second: only those who open a data set wait for it.
    if name == "folder":
        from apinet_jax.data.records import folder

        if not data_dir:
            raise InputError(
                "No image folder was named. Set --config.data.dir to the folder that holds "
                "train/<class>/*."
            )
        builder = folder.prepare(_at_hand(data_dir), records_root(), skip_unreadable)
        return _open(name, builder)
    root = local_path(data_dir) if data_dir else records_root()
    if name in OFFICIAL:
        from apinet_jax.data.official import base as official

        archives = [one for layout in _official(name).LAYOUTS for one in layout]
        parts = {part for one in archives for part in (one.name, one.holds) if part}
        manual = _at_hand(manual_dir, parts) if manual_dir else None
        builder = official.prepare(_official(name), manual, root, skip_unreadable, crop_to_box)
        return _open(name, builder, "boxes" if crop_to_box else "windows")
    return _open_birds(root)


def _at_hand(folder: str | os.PathLike[str], only: set[str] | None = None) -> Path:
    """A folder of the user's; one in a bucket, or the parts of it that are needed, as a copy."""
    name = os.fspath(folder)
    return local_copy(name, only) if is_remote(name) else local_path(name)


def _open_birds(root: Path) -> Dataset:
    """Opens the drawn birds, drawing them first unless they are there."""
    import tensorflow_datasets as tfds

    from apinet_jax.data.birds.builder import Birds
    from apinet_jax.data.records.builder import explained

    tfds.disable_progress_bar()  # the builder shows its own
    try:
        builder = Birds(data_dir=root, file_format="array_record")
        with explained(root):
            builder.download_and_prepare()
        if not builder.info.splits:  # TFDS takes a folder for finished as soon as it is there
            raise ValueError("dataset_info.json is missing")
        return _open("birds", builder)
    except RunError:
        raise
    except Exception as error:  # TFDS fails in almost any way on a file that is damaged
        raise RunError(
            f"The drawn birds in {root / 'birds'} cannot be read ({error}). Delete that folder; "
            "the next command draws them anew."
        ) from error


def official_counts(name: str) -> tuple[int, int]:
    """Training images and classes of a data set of the literature, as published.

    Args:
        name: One of `OFFICIAL`.
    """
    builder = _official(name)
    return builder.TRAIN_IMAGES, builder.CLASSES


def _official(name: str) -> Any:
    from apinet_jax.data.official import aircraft, cars, cub, dogs, nabirds

    builders = (cub.Cub, aircraft.Aircraft, cars.Cars, dogs.Dogs, nabirds.Nabirds)
    return dict(zip(OFFICIAL, builders, strict=True))[name]


def _open(name: str, builder: Any, windows: str = "windows") -> Dataset:
    """Opens the splits of a prepared TFDS builder.

    Args:
        name: Name of the data set.
        builder: The builder.
        windows: The entry of its metadata that says which part of each picture to look at.
    """
    import tensorflow_datasets as tfds

    metadata = dict(builder.info.metadata.items())
    looked_at = metadata.get(windows)
    fingerprint = metadata["fingerprint"]
    if looked_at is not None:
        fingerprint += json.dumps(looked_at, sort_keys=True)
        fingerprint = hashlib.sha256(fingerprint.encode()).hexdigest()
    undecoded = {"image": tfds.decode.SkipDecoding()}

    def split_source(split: str) -> Source | None:
        if split not in builder.info.splits:
            return None
        labels = np.array(metadata["labels"][split], np.int64)
        return Source(
            records=builder.as_data_source(split=split, decoders=undecoded),
            rows=np.arange(len(labels)),
            labels=labels,
            file_names=tuple(metadata["file_names"][split]),
            split=split,
            windows=None if looked_at is None else np.array(looked_at[split], np.int64),
        )

    return Dataset(
        name=name,
        class_names=tuple(metadata["class_names"]),
        train=split_source("train"),
        validation=split_source("validation"),
        test=split_source("test"),
        fingerprint=fingerprint,
        skipped=tuple(file_name for file_name, _ in metadata.get("skipped", ())),
    )
