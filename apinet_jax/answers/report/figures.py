"""Figures of a report: where a run is right, how sure it is, and where it fails.

Pure functions of logits and labels. Classes are numbers here; the report adds their names.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from apinet_jax.method.calibration import BINS, calibration_error
from apinet_jax.method.metrics import summarise
from apinet_jax.method.statistics import Interval, wilson_interval

COVERAGES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class Headline(NamedTuple):
    """Accuracies and calibration of a split; all but `images` are fractions.

    Attributes:
        images: Images.
        top1: Share of images whose best class is the true one.
        interval: The 95 % Wilson interval of `top1`.
        macro: Mean of the recalls of the classes that have images.
        top5: Share of images whose true class is among the five best.
        ece: Expected calibration error of the probabilities at temperature 1.
        ece_scaled: The same at the run's temperature.
    """

    images: int
    top1: float
    interval: Interval
    macro: float
    top5: float
    ece: float
    ece_scaled: float


class ClassFigures(NamedTuple):
    """One class of the table; a figure that the images do not define is `None`.

    Attributes:
        label: Number of the class.
        images: Its images.
        precision: Share of the images named so that are of it.
        recall: Share of its images that are named so.
        f1: Harmonic mean of precision and recall.
        auroc: Probability that a random image of the class gets a higher probability for it than
            a random image of another class.
        confused_with: The class that its images are most often mistaken for.
        mistakes: How many of its images are.
    """

    label: int
    images: int
    precision: float | None
    recall: float | None
    f1: float | None
    auroc: float | None
    confused_with: int | None
    mistakes: int


class ConfusedPair(NamedTuple):
    """Two classes that are taken for each other.

    Attributes:
        first: The class whose images are mistaken more often (the lower number on a tie).
        second: The other one.
        mistakes: Images of either class that are named as the other.
        first_as_second: Rows of the images of `first` named `second`, most confident first.
        second_as_first: The same the other way.
    """

    first: int
    second: int
    mistakes: int
    first_as_second: tuple[int, ...]
    second_as_first: tuple[int, ...]


class Share(NamedTuple):
    """Accuracy of a part of the images.

    Attributes:
        images: Images of the part.
        accuracy: Share of them that is right.
        interval: Its 95 % Wilson interval.
    """

    images: int
    accuracy: float
    interval: Interval


class Bin(NamedTuple):
    """Images of similar confidence.

    Attributes:
        images: Images of the bin.
        confidence: Their mean probability of the best class.
        accuracy: Share of them that is right.
    """

    images: int
    confidence: float
    accuracy: float


def headline(
    logits: Float[np.ndarray, "N C"], labels: Int[np.ndarray, " N"], temperature: float
) -> Headline:
    """Return accuracies and calibration of a split.

    Raises:
        ValueError: There are no images.
    """
    summary = summarise(logits, labels)
    correct = int((logits.argmax(axis=1) == labels).sum())
    return Headline(
        images=summary.images,
        top1=summary.top1,
        interval=wilson_interval(correct, summary.images),
        macro=summary.macro,
        top5=summary.top5,
        ece=summary.ece,
        ece_scaled=calibration_error(logits, labels, temperature),
    )


def class_table(
    probability: Float[np.ndarray, "N C"], labels: Int[np.ndarray, " N"]
) -> list[ClassFigures]:
    """Return the figures of every class, in the order of the classes."""
    matrix = confusion(probability.argmax(axis=1), labels, probability.shape[1])
    return [
        _class_figures(label, matrix, auroc(probability[:, label], labels == label))
        for label in range(len(matrix))
    ]


def _class_figures(label: int, matrix: Int[np.ndarray, "C C"], area: float | None) -> ClassFigures:
    hits = int(matrix[label, label])
    images, named = int(matrix[label].sum()), int(matrix[:, label].sum())
    others = matrix[label].copy()
    others[label] = 0
    worst = int(others.argmax())
    mistakes = int(others[worst])
    return ClassFigures(
        label=label,
        images=images,
        precision=hits / named if named else None,
        recall=hits / images if images else None,
        f1=2 * hits / (named + images) if named + images else None,
        auroc=area,
        confused_with=worst if mistakes else None,
        mistakes=mistakes,
    )


def confusion(
    predicted: Int[np.ndarray, " N"], labels: Int[np.ndarray, " N"], classes: int
) -> Int[np.ndarray, "C C"]:
    """Return how many images of each class (row) are named as each class (column)."""
    matrix = np.zeros((classes, classes), int)
    np.add.at(matrix, (labels, predicted), 1)
    return matrix


def auroc(scores: Float[np.ndarray, " N"], positive: Bool[np.ndarray, " N"]) -> float | None:
    """Return the area under the ROC curve; `None` unless both kinds of images exist.

    It is the share of pairs of a positive and a negative image in which the positive one has the
    higher score; equal scores count half (Mann and Whitney 1947).
    """
    from scipy.stats import rankdata  # a quarter of a second to import

    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return None
    above = rankdata(scores)[positive].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def confused_pairs(
    probability: Float[np.ndarray, "N C"], labels: Int[np.ndarray, " N"]
) -> list[ConfusedPair]:
    """Return every pair of classes with a mistake between them, the most frequent first."""
    predicted, confidence = probability.argmax(axis=1), probability.max(axis=1)
    rows: dict[tuple[int, int], list[int]] = {}
    for row in np.argsort(-confidence, kind="stable").tolist():
        if predicted[row] != labels[row]:
            rows.setdefault((int(labels[row]), int(predicted[row])), []).append(row)
    pairs = []
    for first, second in {(min(pair), max(pair)) for pair in rows}:
        ways = [(tuple(rows.get((a, b), ())), a, b) for a, b in ((first, second), (second, first))]
        (there, a, b), (back, *_) = sorted(ways, key=lambda way: -len(way[0]))  # stable
        pairs.append(ConfusedPair(a, b, len(there) + len(back), there, back))
    return sorted(pairs, key=lambda pair: (-pair.mistakes, pair.first, pair.second))


def losses(
    probability: Float[np.ndarray, "N C"], labels: Int[np.ndarray, " N"]
) -> Float[np.ndarray, " N"]:
    """Return the negative log-probability of the true class of each image, in nats."""
    own = np.take_along_axis(probability, labels[:, None], axis=1)[:, 0]
    return -np.log(np.maximum(own, np.finfo(float).tiny))


def reliability(probability: Float[np.ndarray, "N C"], labels: Int[np.ndarray, " N"]) -> list[Bin]:
    """Return the bins of the calibration error that have images, least confident first."""
    confidence, correct = probability.max(axis=1), probability.argmax(axis=1) == labels
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return [
        Bin(int(inside.sum()), float(confidence[inside].mean()), float(correct[inside].mean()))
        for inside in (bins == number for number in np.unique(bins))
    ]


def coverage(
    probability: Float[np.ndarray, "N C"], labels: Int[np.ndarray, " N"]
) -> list[tuple[float, Share]]:
    """Return how accurate a run is if it answers only the surest images.

    Returns:
        For each of `COVERAGES`, the accuracy on that share of the images, rounded up to a complete
        image.
    """
    confidence, correct = probability.max(axis=1), probability.argmax(axis=1) == labels
    hits = np.cumsum(correct[np.argsort(-confidence, kind="stable")])
    counts = [int(np.ceil(share * len(labels) - 1e-9)) for share in COVERAGES]
    return [
        (share, _share(int(hits[count - 1]), count))
        for share, count in zip(COVERAGES, counts, strict=True)
    ]


def by_terciles(
    values: Float[np.ndarray, " N"], correct: Bool[np.ndarray, " N"]
) -> list[tuple[float, float, Share]]:
    """Return the accuracy of the images with low, medium and high values.

    Equal values are never separated, so fewer than three parts exist where many are equal.

    Returns:
        For each part its least value, its greatest value, and its accuracy.
    """
    part = np.searchsorted(np.quantile(values, (1 / 3, 2 / 3), method="lower"), values)
    return [
        (
            float(values[inside].min()),
            float(values[inside].max()),
            _share(int(correct[inside].sum()), int(inside.sum())),
        )
        for inside in (part == number for number in np.unique(part))
    ]


def _share(correct: int, images: int) -> Share:
    return Share(images, correct / images, wilson_interval(correct, images))
