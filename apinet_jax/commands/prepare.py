"""Prepares a data set: downloads it if possible, checks it, and gives an overview.

Prints a table (images, classes, smallest classes, sizes, unreadable files, files in several splits
or classes) and draws a contact sheet with a picture of each class. Training prepares by itself;
this command does it ahead of time.

Examples:
  download CUB-200-2011 (1.2 GB) into ~/tensorflow_datasets/downloads/manual and prepare it:
  python -m apinet_jax prepare cub

  prepare from existing archives or unpacked folders; nothing is downloaded twice:
  python -m apinet_jax prepare cars --manual-dir=DOWNLOADS --sheet=cars.png

  a folder of your own photos:
  python -m apinet_jax prepare folder PHOTOS
"""

import argparse
from pathlib import Path

import numpy as np

from apinet_jax.data.catalog import NAMES, open_dataset
from apinet_jax.data.records.walk import escaped
from apinet_jax.data.source import Dataset
from apinet_jax.data.survey import Survey, survey, write_contact_sheet
from apinet_jax.system.console import print_result
from apinet_jax.system.errors import InputError
from apinet_jax.system.paths import local_path

_MAX_DUPLICATES = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("dataset", choices=NAMES, metavar="DATASET", help=", ".join(NAMES))
    parser.add_argument(
        "photos", nargs="?", metavar="PHOTOS", help="for folder: the folder of photos"
    )
    parser.add_argument(
        "--manual-dir",
        metavar="FOLDER",
        help="archives or unpacked folders; downloads are stored there too",
    )
    parser.add_argument(
        "--data-dir",
        type=local_path,
        metavar="FOLDER",
        help="where to store records; TFDS_DATA_DIR or ~/tensorflow_datasets by default",
    )
    parser.add_argument(
        "--skip-unreadable", action="store_true", help="leave broken images out instead of stopping"
    )
    parser.add_argument(
        "--crop-to-box", action="store_true", help="use only the boxes around the objects"
    )
    parser.add_argument(
        "--sheet",
        type=local_path,
        metavar="FILE.png",
        help="the contact sheet; DATASET-sheet.png by default",
    )


def run(arguments: argparse.Namespace) -> None:
    """Prepare a data set, draw the sheet and print the table.

    Raises:
        InputError: The data set is missing, is not the official one, or has unreadable images.
        RunError: A download or a write failed.
    """
    name, photos = arguments.dataset, arguments.photos
    drawn = name == "birds"
    if name == "folder" and photos is None:
        raise InputError("Name the folder of photos: prepare folder PHOTOS.")
    if name != "folder" and photos is not None:
        instead = "leave it out" if drawn else "name the folder of its archives with --manual-dir"
        raise InputError(f"{name} takes no folder of photos: {instead}.")
    if photos is not None and arguments.data_dir is not None:
        raise InputError(
            "The records of a folder are stored in TFDS_DATA_DIR: set that variable instead of "
            "--data-dir."
        )
    sheet = arguments.sheet or Path(f"{name}-sheet.png")
    if not sheet.parent.is_dir():
        raise InputError(f"There is no folder {sheet.parent} for the contact sheet.")
    if sheet.is_dir():
        raise InputError(f"{sheet} is a folder. Name the file of the contact sheet: --sheet=x.png.")
    if (photos is not None or drawn) and arguments.manual_dir is not None:
        what = "the drawn birds" if drawn else "a folder of photos"
        raise InputError(f"--manual-dir has no effect on {what}. Leave it out.")
    if drawn and arguments.skip_unreadable:
        raise InputError("--skip-unreadable has no effect on the drawn birds. Leave it out.")
    dataset = open_dataset(
        name,
        photos or arguments.data_dir,
        arguments.manual_dir,
        skip_unreadable=arguments.skip_unreadable,
        crop_to_box=arguments.crop_to_box,
    )
    found = survey(dataset)
    title = escaped(Path(photos).expanduser().resolve().name) if photos else name
    lines = table(dataset, found, title)
    try:
        write_contact_sheet(dataset, sheet, title)
        lines.append(f"contact sheet   {sheet.absolute()}")
    finally:  # the file first, because standard output may be closed; the table also without it
        print_result(lines)


def table(dataset: Dataset, found: Survey, title: str) -> list[str]:
    """Return the lines of the overview."""
    splits = dataset.splits
    counts = {
        name: np.bincount(source.labels, minlength=len(dataset.class_names))
        for name, source in splits.items()
    }
    smallest = [
        f"{count.min():,} in {name} ({dataset.class_names[count.argmin()]})"
        for name, count in counts.items()
    ]
    area = found.sizes.prod(axis=1)
    sizes = [
        found.sizes[area.argmin()],
        np.median(found.sizes, axis=0).astype(int),
        found.sizes[area.argmax()],
    ]
    small, median, large = (f"{width} x {height}" for width, height in sizes)
    lines = [
        f"data set        {title}",
        "images          " + ", ".join(f"{len(part):,} {name}" for name, part in splits.items()),
        f"classes         {len(dataset.class_names):,}",
        "smallest class  " + ", ".join(smallest),
        f"sizes           {small} to {large}, median {median}",
        f"unreadable      {len(dataset.skipped):,} left out",
        f"duplicates      {len(found.split_copies):,} across the splits, "
        f"{len(found.class_copies):,} across the classes",
    ]
    copies = dict.fromkeys(found.split_copies + found.class_copies)
    lines += [f"  {' = '.join(names)}" for names in list(copies)[:_MAX_DUPLICATES]]
    if len(copies) > _MAX_DUPLICATES:
        lines.append(f"  and {len(copies) - _MAX_DUPLICATES:,} more")
    return [*lines, f"fingerprint     {dataset.fingerprint}"]
