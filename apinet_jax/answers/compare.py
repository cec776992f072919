"""Are two photos of the same class? The probability, and the class of each."""

import os
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from apinet_jax.answers.pair_calibration import PairCalibration, check_prior
from apinet_jax.answers.pair_scores import pair_scores
from apinet_jax.data.photos import Photo
from apinet_jax.inference import Classifier, Description
from apinet_jax.method.calibration import log_softmax
from apinet_jax.system.console import tracked
from apinet_jax.system.errors import InputError


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

    >>> shown(0.934), shown(0.9987)
    ('0.93', '0.9987')
    """
    return f"{probability:.{2 if 0.005 <= probability < 0.995 else 4}f}"


class Photos(NamedTuple):
    """Photos as the network sees them, each computed once.

    Attributes:
        rows: Row of each photo, -1 for those that could not be read.
        description: Features and logits of the readable photos.
        errors: Why each of the others could not be read, by its place.
    """

    rows: Int[np.ndarray, " N"]
    description: Description
    errors: dict[int, str]


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
    probability = np.exp(log_softmax(description.logits / classifier.temperature))
    best = [
        (classifier.class_names[label], float(row[label]))
        for label, row in zip(probability.argmax(axis=1), probability, strict=True)
    ]
    return [
        Comparison(one, float(score), prior, best[a], best[b], calibration)
        for one, score, a, b in zip(same, scores, first, second, strict=True)
    ]


def read_photos(classifier: Classifier, photos: Sequence[Photo]) -> Photos:
    """Describe photos, each once however often it is given; those that cannot be read are listed.

    Raises:
        RunError: If the device runs out of memory.
    """
    places: dict[Hashable, list[int]] = {}
    for place, photo in enumerate(photos):
        places.setdefault(_identity(photo), []).append(place)
    groups = list(places.values())
    size = classifier.config.eval.batch_size
    rows, errors, count = np.full(len(photos), -1), {}, 0
    width, classes = classifier.kernel.shape
    parts = [Description(np.zeros((0, width), np.float32), np.zeros((0, classes), np.float32))]
    starts = range(0, len(groups), size)
    for start in tracked(starts, "Reading photos", len(starts)) if len(starts) > 1 else starts:
        batch = groups[start : start + size]
        reasons = _describe(classifier, [photos[group[0]] for group in batch], parts)
        for group, reason in zip(batch, reasons, strict=True):
            if reason is None:
                rows[group], count = count, count + 1
            else:
                errors.update(dict.fromkeys(group, reason))
    return Photos(rows, jax.tree.map(lambda *some: np.concatenate(some), *parts), errors)


def _identity(photo: Photo) -> Hashable:
    return photo if isinstance(photo, str | bytes | os.PathLike) else id(photo)


def _describe(
    classifier: Classifier, photos: list[Photo], parts: list[Description]
) -> list[str | None]:
    """Append the readable photos of a batch to `parts`; return what is wrong with the others."""
    reasons: list[str | None] = [None] * len(photos)
    try:
        parts.append(classifier.describe(photos))
    except InputError:
        reasons = [_reason(classifier, photo) for photo in photos]
        pairs = zip(photos, reasons, strict=True)
        if readable := [photo for photo, reason in pairs if reason is None]:
            parts.append(classifier.describe(readable))
    return reasons


def _reason(classifier: Classifier, photo: Photo) -> str | None:
    try:
        classifier.pixels([photo])
    except InputError as error:
        return str(error)
    return None
