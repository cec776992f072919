"""Which images of a data set are suspicious: wrong labels, near-duplicates, outliers.

Everything follows from the features, so it works with and without a run.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from apinet_jax.answers.audits.label_errors import mistakenness, out_of_fold
from apinet_jax.data.source import Dataset, Source
from apinet_jax.pretrained_trunk import PretrainedTrunk
from apinet_jax.system.console import tracked

NEIGHBOURS = 10
NEAR_DUPLICATE = 0.2  # the greatest ratio of distances
LIKELY = 0.01  # the greatest probability of a likely wrong label
_SAME = 1e-5  # cosine distance of identical images, up to rounding
_BATCH = 32
_ROWS = 256  # images whose neighbours are compared at once


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
        own: Probability of its label, by which label errors are ranked.
        mistakenness: From 0 to 1; see `mistakenness`.
    """

    image: Image
    suggested: int
    confidence: float
    own: float
    mistakenness: float


class NearDuplicate(NamedTuple):
    """Two images that are almost equal, though in different splits or classes.

    Attributes:
        first: One image.
        second: The other.
        cosine: Cosine of their centred features.
        ratio: Their cosine distance, divided by the mean distance of both to their tenth neighbour.
        across_splits: Whether they are in different splits: a leak from training to test images.
        across_classes: Whether they have different labels, one of which must be wrong.
    """

    first: Image
    second: Image
    cosine: float
    ratio: float
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
        label_errors: Images whose features suggest another class, the least probable label first.
        near_duplicates: Pairs in different splits or classes.
        repeated: Near-duplicate pairs of one split and class, which are only counted.
        outliers: Every image, by its distance to its neighbours.
        scored_by: What scored the labels of each split: `network` or `folds`.
    """

    images: int
    label_errors: list[LabelError]
    near_duplicates: list[NearDuplicate]
    repeated: int
    outliers: list[Outlier]
    scored_by: dict[str, str]

    @property
    def likely_errors(self) -> int:
        """Images whose label has a probability of at most `LIKELY`."""
        return sum(found.own <= LIKELY for found in self.label_errors)


def audit_dataset(dataset: Dataset, trunk: PretrainedTrunk) -> Audit:
    """Search a data set by features of pretrained weights; folds score all labels.

    Raises:
        InputError: If a photo cannot be read.
        RunError: If the device runs out of memory.
    """

    def features(source: Source) -> Float[np.ndarray, "N D"]:
        starts = range(0, len(source), _BATCH)
        return np.concatenate(
            [
                trunk.features(
                    [source.picture(int(row)) for row in source.rows[first : first + _BATCH]]
                )
                for first in tracked(starts, "Computing features", len(starts))
            ]
        )

    splits = {
        split: Images(features(source), source.labels, source.file_names, None)
        for split, source in dataset.splits.items()
    }
    return audit_images(splits, len(dataset.class_names))


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
    probability = _probabilities(splits, classes)
    scores = mistakenness(probability, labels)
    suggested = probability.argmax(axis=1)
    own = np.take_along_axis(probability, labels[:, None], axis=1)[:, 0]
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
                float(own[row]),
                float(scores[row]),
            )
            for row in wrong[np.argsort(own[wrong], kind="stable")].tolist()
        ],
        near_duplicates=duplicates,
        repeated=repeated,
        outliers=[
            Outlier(every[row], float(distance[row]))
            for row in np.argsort(-distance, kind="stable").tolist()
        ],
        scored_by={
            split: "folds" if images.probability is None else "network"
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
    # On the unit sphere Euclidean distances and cosines have the same order.
    search = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(unit)
    _, index = search.kneighbors()  # of the fitted rows, each without itself
    cosine = np.empty(index.shape)
    for first in range(0, len(unit), _ROWS):  # the neighbours of all images may not fit into memory
        rows = slice(first, first + _ROWS)
        cosine[rows] = np.einsum("nd,nkd->nk", unit[rows], unit[index[rows]])
    return index, cosine


def _probabilities(splits: Mapping[str, Images], classes: int) -> Float[np.ndarray, "N C"]:
    """Probabilities of all images: by the network where it is independent, else across folds."""
    unknown = [images for images in splits.values() if images.probability is None]
    if unknown:
        features = np.concatenate([images.features for images in unknown])
        scored = out_of_fold(
            features, np.concatenate([images.labels for images in unknown]), classes
        )
    parts, first = [], 0
    for images in splits.values():
        if images.probability is None:
            parts.append(scored[first : first + len(images.labels)])
            first += len(images.labels)
        else:
            parts.append(images.probability)
    return np.concatenate(parts)


def _near_duplicates(
    images: Sequence[Image],
    neighbours: Int[np.ndarray, "N K"],
    cosine: Float[np.ndarray, "N K"],
) -> tuple[list[NearDuplicate], int]:
    """Return pairs of different splits or classes, most similar first; count the other pairs."""
    if not neighbours.size:
        return [], 0
    distance = 1 - cosine
    scale = (distance[:, -1:] + distance[neighbours, -1]) / 2
    ratio = np.where(distance <= _SAME, 0, distance / np.maximum(scale, _SAME))
    pairs: dict[tuple[int, int], tuple[float, float]] = {}
    for row, place in np.argwhere(ratio <= NEAR_DUPLICATE).tolist():
        other = int(neighbours[row, place])
        similarity = float(cosine[row, place]), float(ratio[row, place])
        pairs[min(row, other), max(row, other)] = similarity
    found: list[NearDuplicate] = []
    repeated = 0
    for (row, other), similarity in pairs.items():
        first, second = images[row], images[other]
        splits, classes = first.split != second.split, first.label != second.label
        if splits or classes:
            found.append(NearDuplicate(first, second, *similarity, splits, classes))
        else:
            repeated += 1
    # The order of the images decides between equal ratios, as the sort is stable.
    return sorted(found, key=lambda pair: pair.ratio), repeated
