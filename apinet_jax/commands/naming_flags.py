"""Flags of commands that name photos: which names, and how sure they have to be."""

import argparse

from apinet_jax.answers.class_names import find_classes, names_in
from apinet_jax.answers.prediction.naming import CONFIDENCE, Naming
from apinet_jax.answers.prediction.taxonomy import only_classes, read_taxonomy
from apinet_jax.answers.trained_run import TrainedRun
from apinet_jax.answers.unknown.open_world import OpenWorld
from apinet_jax.system.console import say
from apinet_jax.system.errors import InputError
from apinet_jax.system.paths import AnyPath, explain_bucket_errors, to_path

_TAXONOMY = "taxonomy.csv"
_NONE = "none"


def add_naming_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument(
        "--only",
        metavar="NAMES",
        help="answer with these classes only: names with commas, or a file with a name per line",
    )
    parser.add_argument(
        "--taxonomy",
        metavar="FILE",
        help=f"a row a class, columns from fine to coarse; {_TAXONOMY} in the run's data folder "
        f"by default, '{_NONE}' for none",
    )
    parser.add_argument(
        "--confidence",
        type=float,
        metavar="P",
        help=f"least probability of an answer; {CONFIDENCE} with a taxonomy, else any",
    )


def check_naming_flags(arguments: argparse.Namespace) -> None:
    """Refuse flags that cannot be meant, before the run is read.

    Raises:
        InputError: If so.
    """
    if arguments.confidence is not None and not 0 < arguments.confidence <= 1:
        raise InputError(f"--confidence = {arguments.confidence:g} is not between 0 and 1.")


def find_taxonomy(named: str | None, classifier: TrainedRun) -> AnyPath | None:
    """Return the taxonomy's file: the named one, else the one in the data folder, if any."""
    if named is not None:
        return None if named == _NONE else to_path(named)
    if not classifier.config.data.dir:
        return None
    folder = classifier.config.data.dir
    try:
        with explain_bucket_errors(folder):
            found = to_path(folder) / _TAXONOMY
            return found if found.exists() else None
    except (OSError, InputError) as error:
        say(f"NOTE: {_TAXONOMY} is not used, because {folder} cannot be read: {error}")
        return None


def read_naming(
    arguments: argparse.Namespace,
    classifier: TrainedRun,
    world: OpenWorld,
    taxonomy: AnyPath | None,
) -> Naming:
    """Return how scores become names.

    Raises:
        InputError: If there is no such class, or the taxonomy misses classes.
    """
    added = () if world.gallery is None else world.gallery.names
    names = (*classifier.class_names, *added)
    confidence = arguments.confidence
    levels = only_classes(names)
    if taxonomy is not None:
        levels = read_taxonomy(taxonomy, classifier.class_names, added)
        confidence = CONFIDENCE if confidence is None else confidence
    allowed = None
    if arguments.only is not None:
        allowed = tuple(sorted(set(find_classes(names_in(arguments.only), names))))
    return Naming(names, classifier.temperature, levels, confidence, allowed)
