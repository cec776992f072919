"""Draws birds of invented species into a folder of photos, to try the program without your own.

Writes FOLDER/train/<species>/*.jpg and FOLDER/test/<species>/*.jpg, 256 x 256 pixels. There are 12
species in 4 genera; those of one genus differ in one small part. The same command draws the same
birds, and without options those of the demo.

Examples:
  python -m apinet_jax draw photos
  python -m apinet_jax draw photos --only "Sooty-crowned Barkpecker, Ruby-crowned Barkpecker"
"""

import argparse

from apinet_jax.answers.class_names import names_in, nearest_hint
from apinet_jax.data.records.walk import quoted
from apinet_jax.system.console import print_result
from apinet_jax.system.errors import InputError
from apinet_jax.system.paths import local_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("folder", type=local_path, metavar="FOLDER", help="a new folder")
    parser.add_argument(
        "--only",
        metavar="NAMES",
        help="these species: names with commas, or a file with one a line",
    )
    parser.add_argument(
        "--train", type=int, default=40, metavar="N", help="of each species (default: %(default)s)"
    )
    parser.add_argument(
        "--test", type=int, default=20, metavar="N", help="of each species (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="other birds of the species (default: %(default)s)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Draw the birds.

    Raises:
        InputError: The folder is not empty, a species is unknown, or a number is negative.
        RunError: A file cannot be written.
    """
    # The builder, whose birds these are, imports TFDS; that takes a second.
    from apinet_jax.data.birds.photos import write_photos
    from apinet_jax.data.birds.species import SPECIES

    counts = {"train": arguments.train, "test": arguments.test}
    if min(*counts.values(), arguments.seed) < 0:
        raise InputError("--train, --test and --seed should be at least 0.")
    if not any(counts.values()):
        raise InputError("--train and --test should be at least one photo together.")
    names = [species.name for species in SPECIES]
    wanted = names if arguments.only is None else names_in(arguments.only)
    if unknown := [name for name in wanted if name not in names]:
        hint = nearest_hint(unknown[0], names) or f" The species are: {', '.join(names)}."
        raise InputError(f"No drawn bird is called {quoted(unknown)}.{hint}")
    species = sorted({names.index(name) for name in wanted})
    write_photos(arguments.folder, counts, species, arguments.seed)
    drawn = (f"{count * len(species):,} {split}" for split, count in counts.items())
    print_result([f"{arguments.folder}: {', '.join(drawn)} photos of {len(species)} species"])
