"""The data sets by name: prepared on first use, opened in milliseconds afterwards."""

import os
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from apinet_jax.data.source import Dataset
from apinet_jax.system.console import say
from apinet_jax.system.errors import InputError, RunError
from apinet_jax.system.mirror import local_copy
from apinet_jax.system.paths import is_remote, local_path, records_root

# Data sets of the literature, from their official archives.
OFFICIAL = ("cub", "aircraft", "cars", "dogs", "nabirds")
NAMES = ("birds", *OFFICIAL, "folder")


def open_dataset(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    manual_dir: str | os.PathLike[str] | None = None,
    skip_unreadable: bool = False,
    crop_to_box: bool = False,
    *,
    outputs: Collection[Path] = (),
    all_as_test: bool = False,
) -> Dataset:
    """Open a data set, and prepare its records first if they are missing or out of date.

    Args:
        name: One of `NAMES`.
        data_dir: For `folder` the user's image folder, whose records are stored in TFDS's root
            (`TFDS_DATA_DIR`, else `~/tensorflow_datasets`); for the others the root itself.
        manual_dir: Folder of official archives or their unpacked folders, and of those that are
            downloaded; `downloads/manual` below the root by default. Like an image folder it may
            be in a bucket, which is then copied to this machine.
        skip_unreadable: Leave unreadable files out instead of stopping with their list.
        crop_to_box: Use only the box around the object, if the archives have boxes.
        outputs: Folders that hold no photos even if they are inside the image folder, such as the
            workdir. Runs that have a `run.json` are recognised without it.
        all_as_test: For evaluation: all images of an image folder without `test/` and `val/` are
            test images (and training images too, as no part of them is set apart).

    Raises:
        InputError: The name is unknown, or something is wrong with the files.
        RunError: A download failed, or the records cannot be written.
    """
    if name not in NAMES:
        raise InputError(f"Unknown data set {name!r}. Set data.name to one of: {', '.join(NAMES)}.")
    if crop_to_box and name not in OFFICIAL:
        raise InputError(
            f"The data set {name!r} has no boxes to crop to. Set data.crop_to_box=False "
            "(python -m apinet_jax prepare: leave out --crop-to-box)."
        )
    # TFDS takes a second to import, so it is imported only when a data set is opened.
    if name == "folder":
        dataset = _open_folder(data_dir, skip_unreadable, outputs, all_as_test)
    else:
        root = local_path(data_dir) if data_dir else records_root()
        if name in OFFICIAL:
            dataset = _open_official(name, root, manual_dir, skip_unreadable, crop_to_box)
        else:
            dataset = _open_birds(root)
    splits = dataset.splits
    if dataset.train is dataset.test:
        del splits["train"]
    counts = [f"{len(part):,} {split}" for split, part in splits.items()]
    say(f"{name}: {', '.join(counts)} images of {len(dataset.class_names):,} classes.")
    return dataset


def _open_folder(
    data_dir: str | os.PathLike[str] | None,
    skip_unreadable: bool,
    outputs: Collection[Path],
    all_as_test: bool,
) -> Dataset:
    from apinet_jax.data.records import folder as folders
    from apinet_jax.data.records.reading import open_records, open_splits

    if not data_dir:
        raise InputError(
            "No image folder was named. Set data.dir to the folder that holds train/<class>/*."
        )
    folder = _on_disk(data_dir)
    builder, drawn = folders.prepare(folder, records_root(), skip_unreadable, outputs)
    dataset = open_records("folder", builder)
    if drawn and all_as_test:
        everything = open_splits(builder, list(dataset.splits))
        return replace(dataset, train=everything, test=everything)
    if drawn and dataset.test is not None:
        folders.report_drawn_split(folder)
    return dataset


def _open_official(
    name: str,
    root: Path,
    manual_dir: str | os.PathLike[str] | None,
    skip_unreadable: bool,
    crop_to_box: bool,
) -> Dataset:
    from apinet_jax.data.official import base as official
    from apinet_jax.data.records.reading import open_records

    archives = [archive for layout in _official(name).LAYOUTS for archive in layout]
    parts = {part for archive in archives for part in (archive.name, archive.holds) if part}
    manual = _on_disk(manual_dir, parts) if manual_dir else None
    builder = official.prepare(_official(name), manual, root, skip_unreadable, crop_to_box)
    return open_records(name, builder, "boxes" if crop_to_box else "windows")


def _on_disk(folder: str | os.PathLike[str], only: set[str] | None = None) -> Path:
    """Return a user's folder; for one in a bucket a copy of it, or of the parts in `only`."""
    name = os.fspath(folder)
    return local_copy(name, only) if is_remote(name) else local_path(name)


def _open_birds(root: Path) -> Dataset:
    """Open the drawn birds, and draw them first if they do not exist."""
    import tensorflow_datasets as tfds

    from apinet_jax.data.birds.builder import Birds
    from apinet_jax.data.records.builder import explain_failed_preparation
    from apinet_jax.data.records.reading import open_records

    tfds.disable_progress_bar()  # the builder shows its own
    try:
        builder = Birds(data_dir=root, file_format="array_record")
        with explain_failed_preparation(root):
            builder.download_and_prepare()
        if not builder.info.splits:  # TFDS considers any existing folder finished
            raise ValueError("dataset_info.json is missing")
        return open_records("birds", builder)
    except RunError:
        raise
    except Exception as error:  # TFDS fails in almost any way on a damaged file
        raise RunError(
            f"The drawn birds in {root / 'birds'} cannot be read ({error}). Delete that folder; "
            "the next command draws them again."
        ) from error


def official_counts(name: str) -> tuple[int, int]:
    """Return the published numbers of training images and classes of a data set in `OFFICIAL`."""
    builder = _official(name)
    return builder.TRAIN_IMAGES, builder.CLASSES


def _official(name: str) -> Any:
    from apinet_jax.data.official import aircraft, cars, cub, dogs, nabirds

    builders = (cub.Cub, aircraft.Aircraft, cars.Cars, dogs.Dogs, nabirds.Nabirds)
    return dict(zip(OFFICIAL, builders, strict=True))[name]
