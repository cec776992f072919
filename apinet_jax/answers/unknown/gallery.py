"""Classes that were added to a run from a few photos, without training.

`RUN/answers/gallery.npz` has the pooled feature of each photo. A photo is compared with the mean
feature of each class by their cosine. The softmax of these similarities divides the probability
between the classes of the run and the added ones. The classifier then divides the share of its
classes among them, because it separates them better than class means do.
"""

import io
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from apinet_jax.answers.bank import Bank
from apinet_jax.answers.cache import FOLDER, cached, run_key, write_arrays, write_cache
from apinet_jax.answers.unknown.scores import unit_length
from apinet_jax.inference import Classifier, Description
from apinet_jax.method.calibration import fit_temperature, log_softmax
from apinet_jax.system.errors import InputError
from apinet_jax.system.paths import AnyPath

_FILE = "gallery.npz"
_UNFITTED = 0.02  # the temperature without held-out images; on 50 bird species 0.022 was fitted
_SCALE = 20.0  # of cosines, for the bounds between which `fit_temperature` searches


class Gallery(NamedTuple):
    """Photos of classes that the run was not trained on.

    Attributes:
        checkpoint: Hash of the checkpoint that computed the features.
        names: Names of the added classes.
        labels: Class of each photo, an index of `names`.
        files: File of each photo, an absolute path or an address.
        features: Pooled feature of each photo.
    """

    checkpoint: str
    names: tuple[str, ...]
    labels: Int[np.ndarray, " M"]
    files: tuple[str, ...]
    features: Float[np.ndarray, "M D"]


def empty_gallery(classifier: Classifier) -> Gallery:
    """Return a gallery without photos."""
    none = np.zeros((0, len(classifier.kernel)), np.float32)
    return Gallery(classifier.provenance.hash, (), np.zeros(0, int), (), none)


def gallery_file(classifier: Classifier) -> AnyPath:
    """Return the file of a run's gallery, which need not exist."""
    return classifier.workdir / FOLDER / _FILE


def read_gallery(classifier: Classifier, *, any_checkpoint: bool = False) -> Gallery:
    """Return the gallery of a run; an empty one if there is none.

    Args:
        classifier: The run.
        any_checkpoint: Whether the features may be of another checkpoint.

    Raises:
        InputError: If the file is damaged, or of another checkpoint.
    """
    path = gallery_file(classifier)
    if not path.exists():
        return empty_gallery(classifier)
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            found = Gallery(
                str(arrays["checkpoint"]),
                tuple(arrays["names"].tolist()),
                arrays["labels"],
                tuple(arrays["files"].tolist()),
                arrays["features"],
            )
    except Exception as error:  # zipfile and numpy raise many kinds
        raise InputError(
            f"{path} is damaged ({error}). Remove it, and add the classes again."
        ) from error
    if found.checkpoint != classifier.provenance.hash and not any_checkpoint:
        raise InputError(
            f"The features in {path} are of another checkpoint ({found.checkpoint}) than "
            f"{classifier.checkpoint} ({classifier.provenance.hash}). Name that checkpoint with "
            "--checkpoint, or compute the features again: python -m apinet_jax gallery "
            f"{classifier.workdir} rebuild"
        )
    return found


def write_gallery(classifier: Classifier, gallery: Gallery) -> None:
    """Write a gallery into the run's folder `answers/`.

    Raises:
        RunError: If it cannot be written.
    """
    arrays = {name: np.asarray(value) for name, value in gallery._asdict().items()}
    for name in ("names", "files"):  # also without any
        arrays[name] = arrays[name].astype(np.str_)
    write_arrays(gallery_file(classifier), arrays)


def add_photos(
    gallery: Gallery, name: str, files: Sequence[str], features: Float[np.ndarray, "N D"]
) -> Gallery:
    """Return a gallery with further photos of a class, new or not.

    A file that it has already is replaced, also if it was in another class.

    Args:
        gallery: The gallery.
        name: The class.
        files: File of each photo.
        features: Their pooled features.
    """
    kept = np.array([file not in files for file in gallery.files], bool)
    names = gallery.names if name in gallery.names else (*gallery.names, name)
    added = np.full(len(files), names.index(name))
    return _without_empty_classes(
        gallery._replace(
            names=names,
            labels=np.concatenate([gallery.labels[kept], added]),
            files=(*np.array(gallery.files)[kept].tolist(), *files),
            features=np.concatenate([gallery.features[kept], features]),
        )
    )


def remove_class(gallery: Gallery, name: str) -> Gallery:
    """Return a gallery without a class.

    Raises:
        InputError: If it has no such class.
    """
    if name not in gallery.names:
        listed = ", ".join(gallery.names) or "none"
        raise InputError(f"The gallery has no class {name!r}. Its classes are: {listed}.")
    kept = gallery.labels != gallery.names.index(name)
    return _without_empty_classes(
        gallery._replace(
            labels=gallery.labels[kept],
            files=tuple(np.array(gallery.files)[kept].tolist()),
            features=gallery.features[kept],
        )
    )


def _without_empty_classes(gallery: Gallery) -> Gallery:
    used, labels = np.unique(gallery.labels, return_inverse=True)
    return gallery._replace(names=tuple(gallery.names[label] for label in used), labels=labels)


def class_means(
    features: Float[np.ndarray, "N D"], labels: Int[np.ndarray, " N"], num_classes: int
) -> Float[np.ndarray, "C D"]:
    """Return the mean direction of the features of each class, of length 1.

    Every image counts the same, as its feature is first normalised to length 1. A class without
    images has zeros.
    """
    sums = np.zeros((num_classes, features.shape[1]))
    np.add.at(sums, labels, unit_length(features))
    return unit_length(sums)


class ClassMeans(NamedTuple):
    """The classes of a run as mean features.

    Attributes:
        means: Mean direction of each class over its training images.
        temperature: Divisor of cosines, fitted on held-out images.
        fitted: Whether it was; without held-out images it is a default.
    """

    means: Float[np.ndarray, "C D"]
    temperature: float
    fitted: bool


def fit_class_means(train: Bank, validation: Bank | None, num_classes: int) -> ClassMeans:
    """Fit class means to training images, and their temperature to held-out ones."""
    means = class_means(train.features, train.labels, num_classes)
    if validation is None:
        return ClassMeans(means, _UNFITTED, fitted=False)
    cosines = unit_length(validation.features) @ means.T
    return ClassMeans(means, fit_cosines(cosines, validation.labels), fitted=True)


def fit_cosines(cosines: Float[np.ndarray, "N C"], labels: Int[np.ndarray, " N"]) -> float:
    """Return the temperature of similarities to classes that suits the labels best."""
    return fit_temperature(_SCALE * cosines, labels) / _SCALE


def read_class_means(
    classifier: Classifier, bank: Callable[[str], Bank], splits: Callable[[], Collection[str]]
) -> ClassMeans:
    """Return the class means of a run, from its folder `answers/` where they were fitted before.

    Args:
        classifier: The network.
        bank: Returns the bank of a split.
        splits: Returns the names of the splits.

    Raises:
        InputError: If the photos of the run cannot be opened.
        RunError: If the device runs out of memory.
    """
    path = classifier.workdir / FOLDER / f"{classifier.step}-class-means.npz"
    key = run_key(classifier)
    if (stored := cached(path, key)) is not None:
        return ClassMeans(stored["means"], float(stored["temperature"]), bool(stored["fitted"]))
    validation = bank("validation") if "validation" in splits() else None
    found = fit_class_means(bank("train"), validation, len(classifier.class_names))
    arrays = {name: np.asarray(value) for name, value in found._asdict().items()}
    write_cache(path, key, arrays, "The class means")
    return found


def join_classes(
    described: Description, run: ClassMeans, gallery: Gallery, temperature: float
) -> Float[np.ndarray, "N _"]:
    """Return logits of the run's classes and the added ones.

    With s the softmax of the similarities to all class means, an added class has probability s. The
    sum of s over the classes of the run is divided among them by the softmax of their logits.

    Args:
        described: Features and logits of photos.
        run: Means of the classes of the run.
        gallery: The added classes.
        temperature: Divisor of the logits, of those returned too.
    """
    added = class_means(gallery.features, gallery.labels, len(gallery.names))
    cosines = unit_length(described.features) @ np.concatenate([run.means, added]).T
    return temperature * divide(cosines / run.temperature, described.logits / temperature)


def divide(
    similar: Float[np.ndarray, "N _"], logits: Float[np.ndarray, "N C"]
) -> Float[np.ndarray, "N _"]:
    """Return log-probabilities of the run's classes, then of the added ones; see `join_classes`.

    Args:
        similar: Similarities to the classes of the run, then to the added ones; its softmax is s.
        logits: Logits of the classes of the run.
    """
    count = logits.shape[1]
    log_s = log_softmax(similar)
    share = np.logaddexp.reduce(log_s[:, :count], axis=1, keepdims=True)
    return np.concatenate([share + log_softmax(logits), log_s[:, count:]], axis=1)
