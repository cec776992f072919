"""Adds classes to a run from a few photos, without training.

The features of the photos are stored in RUN/answers/gallery.npz. `predict --gallery` then answers
with the classes of the run and the added ones. Photos of a class that the gallery has already are
added to it; a photo is in one class only. PHOTOS are files, folders, patterns in quotes, or
addresses in buckets (gs://).

Examples:
  python -m apinet_jax gallery runs/x add "Rufous Hornero" photos/hornero/

  what is in it, and without a class:
  python -m apinet_jax gallery runs/x list
  python -m apinet_jax gallery runs/x remove "Rufous Hornero"

  after more training, or for another checkpoint: the same photos again
  python -m apinet_jax gallery runs/x rebuild
"""

import argparse
import os
from collections.abc import Sequence

import numpy as np

from apinet_jax.answers.class_names import normal
from apinet_jax.answers.photo_stream import warn_of_whole_photos
from apinet_jax.answers.prediction.photo_list import list_photos
from apinet_jax.answers.prediction.taxonomy import UNKNOWN
from apinet_jax.answers.unknown.gallery import (
    Gallery,
    add_photos,
    empty_gallery,
    gallery_file,
    read_gallery,
    remove_class,
    write_gallery,
)
from apinet_jax.data.records.walk import escaped
from apinet_jax.inference import Classifier
from apinet_jax.system.compilation_cache import enable_compilation_cache
from apinet_jax.system.console import print_result
from apinet_jax.system.errors import InputError
from apinet_jax.system.paths import is_remote


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("run", metavar="RUN", help="a workdir or the folder of a checkpoint")
    parser.add_argument("action", choices=_ACTIONS, metavar="ACTION", help=", ".join(_ACTIONS))
    parser.add_argument("name", nargs="?", metavar="NAME", help="the class to add or remove")
    parser.add_argument(
        "photos", nargs="*", default=[], metavar="PHOTOS", help="for add: its photos"
    )
    parser.add_argument("--checkpoint", help="last, best or a step; by default the run's choice")


def run(arguments: argparse.Namespace) -> None:
    """Change or list the gallery of a run.

    Raises:
        InputError: If there is no such run, class or photo, a photo cannot be read, or the gallery
            is of another checkpoint.
        RunError: If the gallery cannot be written.
    """
    action, name, photos = arguments.action, arguments.name, arguments.photos
    if (name is None) != (action in ("list", "rebuild")) or bool(photos) != (action == "add"):
        raise InputError(f"Use it as: python -m apinet_jax gallery RUN {_USAGE[action]}")
    enable_compilation_cache()
    classifier = Classifier(arguments.run, arguments.checkpoint)
    _ACTIONS[action](classifier, name, photos)


def _add(classifier: Classifier, name: str, named: Sequence[str]) -> None:
    if not name.strip() or normal(name) == UNKNOWN:
        raise InputError(f"{name!r} cannot be the name of a class.")
    if normal(name) in map(normal, classifier.class_names):
        raise InputError(
            f"{name!r} is a class of the run. Choose another name; to improve a class of the run, "
            "train with the new photos."
        )
    warn_of_whole_photos(classifier.config)
    gallery = read_gallery(classifier)
    files = _absolute([photo.path for photo in list_photos(named)])
    gallery = add_photos(gallery, normal(name), files, classifier.features(files))
    write_gallery(classifier, gallery)
    count = int((gallery.labels == gallery.names.index(normal(name))).sum())
    print_result([f"{name} ({count:,})", f"{gallery_file(classifier)}: {_classes(gallery)}"])


def _list(classifier: Classifier, *_: object) -> None:
    gallery = read_gallery(classifier)
    counts = np.bincount(gallery.labels, minlength=len(gallery.names))
    lines = []
    for label, (name, count) in enumerate(zip(gallery.names, counts, strict=True)):
        lines.append(f"{name} ({count:,})")
        own = np.flatnonzero(gallery.labels == label)
        lines += [f"  {escaped(gallery.files[index])}" for index in own]
    print_result(lines or ["The gallery is empty."])


def _remove(classifier: Classifier, name: str, _: object) -> None:
    gallery = remove_class(read_gallery(classifier), normal(name))
    write_gallery(classifier, gallery)
    print_result([f"Removed {name}. {gallery_file(classifier)}: {_classes(gallery)}"])


def _rebuild(classifier: Classifier, *_: object) -> None:
    old = read_gallery(classifier, any_checkpoint=True)
    if not old.files:
        raise InputError(f"There is nothing to rebuild: {gallery_file(classifier)} has no photos.")
    warn_of_whole_photos(classifier.config)
    features = classifier.features(old.files)
    hash_ = empty_gallery(classifier).checkpoint
    write_gallery(classifier, old._replace(checkpoint=hash_, features=features))
    print_result(
        [f"Computed the features of {len(old.files):,} photos with {classifier.checkpoint}."]
    )


def _classes(gallery: Gallery) -> str:
    return ", ".join(gallery.names) or "no classes"


def _absolute(paths: Sequence[str]) -> list[str]:
    return [path if is_remote(path) else os.path.abspath(path) for path in paths]


_ACTIONS = {"add": _add, "list": _list, "remove": _remove, "rebuild": _rebuild}
_USAGE = {
    "add": "add NAME PHOTOS...",
    "list": "list",
    "remove": "remove NAME",
    "rebuild": "rebuild",
}
