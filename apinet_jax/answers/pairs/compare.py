"""Are two photos of the same class? The probability, and the class of each."""

import os
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from apinet_jax.answers.pairs.calibration import PairCalibration, check_prior
from apinet_jax.answers.pairs.scores import pair_scores
from apinet_jax.answers.photo_stream import describe_stream
from apinet_jax.data.photos import Photo
from apinet_jax.inference import Classifier, Description
from apinet_jax.method.calibration import softmax
from apinet_jax.system.console import Bar
from apinet_jax.system.errors import InputError

_ADVICE = "Compare on a device with more memory."


class Comparison(NamedTuple):
    """What a run says about two photos.

    Attributes:
        same: Probability that both show the same class; `None` if it could not be calibrated.
        score: The score behind it, for ranking pairs: the higher, the more alike. In nats, at most
            0: the log-probability that both are of one class, before calibration.
        prior: Share of pairs of the same class that `same` assumes.
        class_1: The most probable class of the first photo, and its probability.
        class_2: The same for the second photo.
        calibration: How `same` was calibrated, or why it was not.
    """

    same: float | None
    score: float
    prior: float
    class_1: tuple[str, float]
    class_2: tuple[str, float]
    calibration: str


def shown(probability: float) -> str:
    """Return a probability with two decimals, or four where two would show 0 or 1.

    Examples:
        >>> shown(0.934), shown(0.9987)
        ('0.93', '0.9987')
    """
    return f"{probability:.{2 if 0.005 <= probability < 0.995 else 4}f}"


class Files(NamedTuple):
    """Photo files as the network sees them, each read once.

    Attributes:
        rows: Row of each readable file in the description, by name.
        description: Features and logits.
        reasons: Why each of the others cannot be read, by name.
    """

    rows: dict[str, int]
    description: Description
    reasons: dict[str, str]


def compare_rows(
    classifier: Classifier,
    calibrate: Callable[[], PairCalibration],
    description: Description,
    pairs: Int[np.ndarray, "P 2"],
    prior: float,
) -> list[Comparison]:
    """Return what the run says about each pair.

    Args:
        classifier: The run.
        calibrate: Returns the run's map from scores to probabilities. If it raises an `InputError`,
            the probabilities are `None` and `calibration` has the reason.
        description: Features and logits of the photos.
        pairs: Rows of both photos of each pair.
        prior: Share of pairs of the same class.

    Raises:
        InputError: If the prior is not between 0 and 1.
    """
    check_prior(prior)
    if len(pairs) == 0:
        return []
    first, second = pairs.T
    scores = pair_scores(classifier, description.features, pairs)
    same: Sequence[float | None]
    try:
        found = calibrate()
        same = found.probability(scores, prior).tolist()
        calibration = (
            f"{found.method}, on {found.pairs:,} pairs of {found.images:,} held-out images"
        )
    except InputError as error:
        same, calibration = [None] * len(pairs), str(error)
    probability = softmax(description.logits, classifier.temperature)
    best = [
        (classifier.class_names[label], float(row[label]))
        for label, row in zip(probability.argmax(axis=1), probability, strict=True)
    ]
    return [
        Comparison(one, float(score), prior, best[a], best[b], calibration)
        for one, score, a, b in zip(same, scores, first, second, strict=True)
    ]


def read_files(classifier: Classifier, names: Iterable[str]) -> Files:
    """Describe photo files, each once however often it is named.

    Raises:
        RunError: If the device runs out of memory.
    """
    unique = list(dict.fromkeys(names))
    found = Files({}, _nothing(classifier), {})
    parts = [found.description]
    with Bar("Reading photos", len(unique)) as bar:
        waiting = iter(unique)
        for part in describe_stream(classifier, unique, features=True, advice=_ADVICE):
            parts.append(Description(part.features, part.logits))
            for name, reason in zip(waiting, part.reasons, strict=False):
                if reason is None:
                    found.rows[name] = len(found.rows)
                else:
                    found.reasons[name] = reason
                bar.advance()
    return found._replace(description=jax.tree.map(lambda *some: np.concatenate(some), *parts))


def _nothing(classifier: Classifier) -> Description:
    width, classes = classifier.kernel.shape
    return Description(np.zeros((0, width), np.float32), np.zeros((0, classes), np.float32))


def unique_photos(
    pairs: Sequence[tuple[Photo, Photo]],
) -> tuple[list[Photo], Int[np.ndarray, "P 2"]]:
    """Return the photos of some pairs, each once, and the place of both photos of each pair."""
    photos = {_identity(photo): photo for pair in pairs for photo in pair}
    places = {identity: place for place, identity in enumerate(photos)}
    rows = [[places[_identity(photo)] for photo in pair] for pair in pairs]
    return list(photos.values()), np.array(rows, int).reshape(-1, 2)


def _identity(photo: Photo) -> Hashable:
    return photo if isinstance(photo, str | bytes | os.PathLike) else id(photo)
