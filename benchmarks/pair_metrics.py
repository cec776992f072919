"""Figures of scores that decide whether two images show the same class.

A pair is accepted when its score is at least a threshold. The false accept rate (FAR) is the share
of pairs of different classes that are accepted, the true accept rate (TAR) that of pairs of the
same class. Every score and every label of a pair belongs to one unordered pair of images.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from apinet_jax.answers.pairs.calibration import pair_weights
from apinet_jax.method.calibration import BINS


class RocCurve(NamedTuple):
    """The two rates at every threshold that separates scores, from none accepted to all accepted.

    Attributes:
        far: Share of pairs of different classes that are accepted; it never decreases.
        tar: Share of pairs of the same class that are accepted; it never decreases.
    """

    far: Float[np.ndarray, " T"]
    tar: Float[np.ndarray, " T"]


def all_pairs(count: int) -> Int[np.ndarray, "P 2"]:
    """Return both images of each unordered pair of `count` images.

    >>> all_pairs(3).tolist()
    [[0, 1], [0, 2], [1, 2]]
    """
    return np.stack(np.triu_indices(count, k=1), axis=1)


def roc_curve(scores: Float[np.ndarray, " P"], same: Bool[np.ndarray, " P"]) -> RocCurve:
    """Return the ROC curve; pairs of equal score are accepted together.

    Args:
        scores: Score of each pair; the more alike, the higher.
        same: Whether each pair shows one class.

    Raises:
        ValueError: If a score is not finite, or all pairs are of one kind.
    """
    if same.all() or not same.any():
        raise ValueError("pairs of the same class and of different classes are needed")
    if not np.isfinite(scores).all():
        raise ValueError("a score is not finite")
    from sklearn.metrics import roc_curve as every_threshold  # a second to import

    far, tar, _ = every_threshold(same, scores, drop_intermediate=False)
    return RocCurve(far, tar)


def auroc(curve: RocCurve) -> float:
    """Return the area under the ROC curve.

    It is the probability that a pair of the same class scores higher than one of different classes,
    where a tie counts as a half.
    """
    return float(np.trapezoid(curve.tar, curve.far))


def equal_error_rate(curve: RocCurve) -> float:
    """Return the rate at which as many pairs are falsely accepted as falsely rejected.

    The curve is a polyline; the rate is that of its point where FAR = 1 - TAR.
    """
    excess = curve.far - (1 - curve.tar)  # from -1 to 1, never decreasing
    after = int(np.searchsorted(excess, 0.0))
    before = max(after - 1, 0)
    rise = excess[after] - excess[before]
    share = -excess[before] / rise if rise > 0 else 0.0
    return float(curve.far[before] + share * (curve.far[after] - curve.far[before]))


def tar_at_far(curve: RocCurve, target: float) -> float:
    """Return the largest true accept rate at which the measured FAR is at most `target`.

    The conservative rule: nothing is interpolated between two thresholds.
    """
    return float(curve.tar[np.searchsorted(curve.far, target, side="right") - 1])


def far_at_tar(curve: RocCurve, target: float) -> float:
    """Return the smallest false accept rate at which the true accept rate is at least `target`."""
    return float(curve.far[np.searchsorted(curve.tar, target)])


def pair_calibration_error(
    probability: Float[np.ndarray, " P"], same: Bool[np.ndarray, " P"], prior: float
) -> float:
    """Return the expected calibration error of probabilities of the same class, from 0 to 1.

    Pairs are sorted into 15 bins of equal width. The error is the mean distance between probability
    and share of pairs of the same class, weighted by the pairs of each bin.

    Args:
        probability: Probability of each pair at that prior.
        same: Whether each pair shows one class.
        prior: Share of pairs of the same class that the probabilities assume; the pairs are
            weighted so that they have it.
    """
    bins = np.minimum((probability * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, pair_weights(same, prior) * (probability - same), BINS)
    return float(np.abs(gaps).sum())


def hardest_pairs(
    scores: Float[np.ndarray, " P"], labels: Int[np.ndarray, " N"]
) -> Int[np.ndarray, " H"]:
    """Return which of all pairs are the hardest, as indices in the order of `all_pairs`.

    Of different classes: each image with the image of another class that scores highest with it; a
    pair that is the hardest of both of its images counts once. Of the same class: all pairs.

    Args:
        scores: Score of every unordered pair of the images.
        labels: Class of each image.
    """
    first, second = all_pairs(len(labels)).T
    same = labels[first] == labels[second]
    number = np.zeros((len(labels), len(labels)), int)
    number[first, second] = number[second, first] = np.arange(len(first))
    square = np.where(same, -np.inf, scores)[number]
    np.fill_diagonal(square, -np.inf)
    nearest = square.argmax(axis=1)
    images = np.flatnonzero(np.isfinite(square.max(axis=1)))
    return np.union1d(np.flatnonzero(same), number[images, nearest[images]])
