"""The best classes of photos, each with the training photo that stands for it, and their scores."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from benchmarks.pairs_at_test import fit_weight
from benchmarks.trained_scores import CANDIDATES


class Known(NamedTuple):
    """Training photos as exemplars of their classes.

    Attributes:
        rows: Their indices among all training photos.
        labels: Their classes.
        features: Their pooled features, of unit length.
    """

    rows: Int[np.ndarray, " N"]
    labels: Int[np.ndarray, " N"]
    features: Float[np.ndarray, "N D"]

    def nearest(
        self, features: Float[np.ndarray, "M D"], own: Int[np.ndarray, " M"] | None = None
    ) -> Int[np.ndarray, "M C"]:
        """Return the row of the nearest exemplar of each class.

        Args:
            features: Features of the photos, of unit length.
            own: Rows of the photos themselves, which cannot be their own exemplars.
        """
        similar = features @ self.features.T
        if own is not None:
            similar = np.where(own[:, None] == self.rows, -np.inf, similar)
        classes = np.arange(self.labels.max() + 1)
        found = [np.where(self.labels == c, similar, -np.inf).argmax(axis=1) for c in classes]
        return self.rows[np.stack(found, axis=1)]


def hard_pairs(
    logits: Float[np.ndarray, "N C"], labels: Int[np.ndarray, " N"], nearest: Int[np.ndarray, "N C"]
) -> Int[np.ndarray, "N K"]:
    """Return the exemplars of the true class of each photo, then of its likeliest wrong classes."""
    wrong = logits.copy()
    wrong[np.arange(len(labels)), labels] = np.inf
    classes = np.argsort(-wrong, axis=1, kind="stable")[:, :CANDIDATES]
    return np.take_along_axis(nearest, classes, axis=1)


class Scored(NamedTuple):
    """The best classes of photos.

    Attributes:
        log_p: Their log-probabilities.
        scores: Their scores, by name.
        true: Which is the class of the photo.
    """

    log_p: Float[np.ndarray, "M K"]
    scores: dict[str, Float[np.ndarray, "M K"]]
    true: Bool[np.ndarray, "M K"]

    def weights(self) -> dict[str, float]:
        """Return the weight of each score that suits these photos best."""
        return {n: fit_weight(self.log_p, score, self.true) for n, score in self.scores.items()}

    def top1(self, name: str | None = None, weight: float = 0.0) -> float:
        """Return the top-1 accuracy in percent, with a score or without any."""
        total = self.log_p if name is None else self.log_p + weight * self.scores[name]
        return 100 * float(self.true[np.arange(len(total)), total.argmax(axis=1)].mean())
