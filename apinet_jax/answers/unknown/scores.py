"""Is a photo of a class that the network does not know? Five scores, and a threshold for them.

All scores are higher for photos of known classes. Logits are used as the network computes them, not
divided by the temperature.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from apinet_jax.method.calibration import log_softmax, softmax
from apinet_jax.system.errors import InputError

SCORES = ("vim", "knn", "max_softmax", "max_logit", "energy")
DEFAULT_SCORE = SCORES[0]
FALSE_ALARMS = 0.05
"""Share of photos of known classes that is called unknown, unless the user asks for another."""

NEIGHBOURS = 10
"""The neighbour whose distance is the score `knn`: within the images of a class in small sets."""

Logits = Float[np.ndarray, "N C"]
Features = Float[np.ndarray, "N D"]
Scores = Float[np.ndarray, " N"]


def max_softmax(logits: Logits) -> Scores:
    """Return the probability of the best class (Hendrycks and Gimpel, ICLR 2017)."""
    return softmax(logits).max(axis=1)


def max_logit(logits: Logits) -> Scores:
    """Return the logit of the best class (Vaze et al., ICLR 2022; Hendrycks et al., ICML 2022)."""
    return logits.max(axis=1).astype(np.float64)


def energy(logits: Logits) -> Scores:
    """Return the negative free energy, log sum exp of the logits (Liu et al., NeurIPS 2020)."""
    return max_logit(logits) - log_softmax(logits).max(axis=1)


def nearness(features: Features, training: Float[np.ndarray, "M D"], k: int = NEIGHBOURS) -> Scores:
    """Return minus the distance to the k-th nearest training feature (Sun et al., ICML 2022).

    Features are normalised to length 1 first. With fewer than k training
    features, the furthest is used.
    """
    from sklearn.neighbors import NearestNeighbors  # a second to import

    k = min(k, len(training))
    search = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(unit_length(training))
    distances, _ = search.kneighbors(unit_length(features))
    return -distances[:, -1]


def unit_length(features: Features) -> Features:
    """Return features divided by their length, in float64; zeros stay zeros."""
    features = features.astype(np.float64)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


class Residual(NamedTuple):
    """The part of a feature that training features do not have (ViM, Wang et al., CVPR 2022).

    Attributes:
        origin: The feature whose logits are all zero, in the least squares sense.
        basis: Orthonormal directions outside of the principal space of the training features.
        scale: Factor from the length of the residual to a logit.
    """

    origin: Float[np.ndarray, " D"]
    basis: Float[np.ndarray, "D R"]
    scale: float

    def virtual_logit(self, features: Features) -> Scores:
        """Return the logit of "none of the classes"."""
        return self.scale * np.linalg.norm((features - self.origin) @ self.basis, axis=1)


def fit_residual(
    features: Features,
    logits: Logits,
    kernel: Float[np.ndarray, "D C"],
    bias: Float[np.ndarray, " C"],
    dimension: int | None = None,
) -> Residual:
    """Fit the residual of ViM to training images.

    Args:
        features: Features of training images.
        logits: Their logits.
        kernel: Weights of the classifier.
        bias: Its bias.
        dimension: Dimension of the principal space; as in the paper's program by default: 1000
            of at least 2048, 512 of at least 768, else half of the channels.
    """
    width = features.shape[1]
    if dimension is None:
        dimension = 1000 if width >= 2048 else 512 if width >= 768 else width // 2
    kernel, bias = kernel.astype(np.float64), bias.astype(np.float64)
    origin = -np.linalg.pinv(kernel.T) @ bias
    centred = features - origin  # [N D]
    _, directions = np.linalg.eigh(centred.T @ centred)  # eigenvalues ascend
    unscaled = Residual(origin, directions[:, : width - dimension], 1.0)
    mean_residual = unscaled.virtual_logit(features).mean()
    scale = max_logit(logits).mean() / mean_residual if mean_residual > 0 else 0.0
    return unscaled._replace(scale=float(scale))


def vim(features: Features, logits: Logits, residual: Residual) -> Scores:
    """Return the energy less the virtual logit: it ranks photos as ViM's probability does."""
    return energy(logits) - residual.virtual_logit(features)


class Threshold(NamedTuple):
    """The score below which a photo is called unknown.

    Attributes:
        value: The threshold.
        false_alarms: The share of photos of known classes that may be below it.
        images: Held-out images that it was fitted on.
    """

    value: float
    false_alarms: float
    images: int


def fit_threshold(held_out: Scores, false_alarms: float = FALSE_ALARMS) -> Threshold:
    """Return the threshold for a share of false alarms.

    It is the k-th lowest score of the n held-out images, with k = floor(share * (n + 1)). The score
    of a further photo of the known classes is below it with probability k / (n + 1) at most, if it
    is drawn as they were (split conformal prediction).

    Args:
        held_out: Scores of held-out images of known classes.
        false_alarms: The share of known photos that may be called unknown.

    Raises:
        InputError: If the share is not between 0 and 1, there are too few images for it, or a score
            is not finite.
    """
    if not 0 < false_alarms < 1:
        raise InputError(f"A share of {false_alarms:g} false alarms is not between 0 and 1.")
    if not np.isfinite(held_out).all():
        raise InputError("The scores of held-out images are not finite: the run has diverged.")
    n = len(held_out)
    k = math.floor(false_alarms * (n + 1) + 1e-9)  # 0.05 * 20 is one image
    if k == 0:
        least = math.ceil(1 / false_alarms - 1e-9) - 1
        raise InputError(
            f"A threshold for {false_alarms:g} false alarms needs at least {least:,} held-out "
            f"images; the run has {n:,}. Allow more false alarms, or train with a larger "
            "data.val_fraction."
        )
    return Threshold(float(np.sort(held_out)[k - 1]), false_alarms, n)
