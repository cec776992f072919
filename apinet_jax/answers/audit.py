"""Which images of a data set are suspicious: wrong labels, near-duplicates, outliers.

Everything follows from the features, so it works with and without a run.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

NEIGHBOURS = 10
NEAR_DUPLICATE = 0.99  # the least cosine
LIKELY = 0.9  # the least mistakenness of a likely label error
_TEMPERATURE = 0.07  # of the votes of neighbours: Wu et al., CVPR 2018; Caron et al., ICCV 2021


class Images(NamedTuple):
    """Images of one split, as the audit needs them.

    Attributes:
        features: Pooled features.
        labels: Class of each image.
        file_names: File of each image.
        probability: Probabilities by a network that was not trained on these images; `None` if no
            such network exists.
    """

    features: Float[np.ndarray, "N D"]
    labels: Int[np.ndarray, " N"]
    file_names: Sequence[str]
    probability: Float[np.ndarray, "N C"] | None


class Image(NamedTuple):
    """One image.

    Attributes:
        split: `train`, `validation` or `test`.
        index: Its place in the split.
        file_name: Its file.
        label: Its class in the data set.
    """

    split: str
    index: int
    file_name: str
    label: int


class LabelError(NamedTuple):
    """An image whose label is likely wrong.

    Attributes:
        image: The image.
        suggested: The class that its features suggest.
        confidence: Probability of that class.
        mistakenness: From 0 to 1; see `mistakenness`.
    """

    image: Image
    suggested: int
    confidence: float
    mistakenness: float


class NearDuplicate(NamedTuple):
    """Two images that are almost equal, though in different splits or classes.

    Attributes:
        first: One image.
        second: The other.
        cosine: Cosine of their centred features.
        across_splits: Whether they are in different splits: a leak from training to test images.
        across_classes: Whether they have different labels, one of which must be wrong.
    """

    first: Image
    second: Image
    cosine: float
    across_splits: bool
    across_classes: bool


class Outlier(NamedTuple):
    """An image that resembles no other.

    Attributes:
        image: The image.
        distance: Its mean cosine distance to its nearest neighbours.
    """

    image: Image
    distance: float


class Audit(NamedTuple):
    """Suspicious images, the most suspicious first.

    Attributes:
        images: Images audited.
        label_errors: Images whose features suggest another class.
        near_duplicates: Pairs in different splits or classes.
        repeated: Near-duplicate pairs of one split and class, which are only counted.
        outliers: Every image, by its distance to its neighbours.
        scored_by: What scored the labels of each split: `network` or `neighbours`.
    """

    images: int
    label_errors: list[LabelError]
    near_duplicates: list[NearDuplicate]
    repeated: int
    outliers: list[Outlier]
    scored_by: dict[str, str]

    @property
    def likely_errors(self) -> int:
        """Label errors with a mistakenness of at least 0.9."""
        return sum(found.mistakenness >= LIKELY for found in self.label_errors)


def mistakenness(
    probability: Float[np.ndarray, "N C"], labels: Int[np.ndarray, " N"]
) -> Float[np.ndarray, " N"]:
    """Return how likely each label is wrong, from 0 to 1.

    FiftyOne's score of a classification: `(1 + s exp(-H)) / 2`, where H is the entropy of the
    probabilities in nats, and s is -1 if the most probable class is the label, else 1. A confident
    prediction of another class gives 1, a confident confirmation gives 0, and a uniform prediction
    over many classes is near 1/2.
    """
    terms = np.where(probability > 0, probability, 1)
    certainty = np.exp((probability * np.log(terms)).sum(axis=1))
    sign = np.where(probability.argmax(axis=1) == labels, -1, 1)
    return (1 + sign * certainty) / 2


def audit_images(splits: Mapping[str, Images], classes: int) -> Audit:
    """Search images for wrong labels, near-duplicates and outliers.

    Args:
        splits: The images by split.
        classes: Number of classes.
    """
    features = np.concatenate([images.features for images in splits.values()])
    labels = np.concatenate([images.labels for images in splits.values()])
    every = [
        Image(split, index, file_name, int(label))
        for split, images in splits.items()
        for index, (file_name, label) in enumerate(
            zip(images.file_names, images.labels, strict=True)
        )
    ]
    neighbours, cosine = nearest(features)
    voted = neighbour_votes(neighbours, cosine, labels, classes)
    parts, first = [], 0
    for images in splits.values():
        rows = slice(first, first := first + len(images.labels))
        parts.append(voted[rows] if images.probability is None else images.probability)
    probability = np.concatenate(parts)
    scores = mistakenness(probability, labels)
    suggested = probability.argmax(axis=1)
    wrong = np.flatnonzero(suggested != labels)
    duplicates, repeated = _near_duplicates(every, neighbours, cosine)
    distance = 1 - cosine.mean(axis=1) if cosine.size else np.zeros(len(labels))
    return Audit(
        images=len(labels),
        label_errors=[
            LabelError(
                every[row],
                int(suggested[row]),
                float(probability[row, suggested[row]]),
                float(scores[row]),
            )
            for row in wrong[np.argsort(-scores[wrong], kind="stable")].tolist()
        ],
        near_duplicates=duplicates,
        repeated=repeated,
        outliers=[
            Outlier(every[row], float(distance[row]))
            for row in np.argsort(-distance, kind="stable").tolist()
        ],
        scored_by={
            split: "neighbours" if images.probability is None else "network"
            for split, images in splits.items()
        },
    )


def nearest(
    features: Float[np.ndarray, "N D"], count: int = NEIGHBOURS
) -> tuple[Int[np.ndarray, "N K"], Float[np.ndarray, "N K"]]:
    """Return the nearest other images of each image, the nearest first, and their cosines.

    The mean of all features is subtracted first: features after a ReLU are never negative, so
    without it all cosines are high. The search is exact.
    """
    from sklearn.neighbors import NearestNeighbors  # a second to import

    count = min(count, len(features) - 1)
    if count < 1:
        return np.zeros((len(features), 0), int), np.zeros((len(features), 0))
    centred = features.astype(np.float32) - features.mean(axis=0, dtype=np.float32)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = centred / np.maximum(length, np.finfo(np.float32).tiny)
    # On the unit sphere the order of Euclidean distances is that of cosines.
    search = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(unit)
    _, index = search.kneighbors()  # of the fitted rows, each without itself
    cosine = np.einsum("nd,nkd->nk", unit, unit[index])
    return index, cosine.astype(float)


def neighbour_votes(
    neighbours: Int[np.ndarray, "N K"],
    cosine: Float[np.ndarray, "N K"],
    labels: Int[np.ndarray, " N"],
    classes: int,
) -> Float[np.ndarray, "N C"]:
    """Return class probabilities of each image by the labels of its neighbours.

    Each neighbour votes with weight exp(cosine / 0.07). An image has no vote on itself, so its
    label does not influence its own probabilities: every image is a fold.
    """
    votes = np.zeros((len(labels), classes))
    if not neighbours.size:
        return np.full_like(votes, 1 / classes)
    weight = np.exp((cosine - cosine.max(axis=1, keepdims=True)) / _TEMPERATURE)
    rows = np.broadcast_to(np.arange(len(labels))[:, None], neighbours.shape)
    np.add.at(votes, (rows, labels[neighbours]), weight)
    return votes / votes.sum(axis=1, keepdims=True)


def _near_duplicates(
    images: Sequence[Image],
    neighbours: Int[np.ndarray, "N K"],
    cosine: Float[np.ndarray, "N K"],
) -> tuple[list[NearDuplicate], int]:
    """Return pairs of different splits or classes, most similar first; count the other pairs."""
    found: list[NearDuplicate] = []
    repeated = 0
    close = cosine >= NEAR_DUPLICATE
    pairs: dict[tuple[int, int], float] = {}
    for row, place in np.argwhere(close).tolist():
        other = int(neighbours[row, place])
        pairs[min(row, other), max(row, other)] = float(cosine[row, place])
    for (row, other), similarity in pairs.items():
        first, second = images[row], images[other]
        splits, classes = first.split != second.split, first.label != second.label
        if splits or classes:
            found.append(NearDuplicate(first, second, similarity, splits, classes))
        else:
            repeated += 1
    # The order of the images decides between equal cosines, as the sort is stable.
    return sorted(found, key=lambda pair: -pair.cosine), repeated
