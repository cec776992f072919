"""How far confidence can be believed, and the temperature that makes it believable.

Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017.
"""

import math

import numpy as np
from jaxtyping import Float, Int

BINS = 15
LEAST, MOST = 0.05, 20.0  # temperatures


def log_softmax(logits: Float[np.ndarray, "N C"]) -> Float[np.ndarray, "N C"]:
    """Return the log-probability of each class, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def calibration_error(
    logits: Float[np.ndarray, "N C"], labels: Int[np.ndarray, " N"], temperature: float = 1.0
) -> float:
    """The expected calibration error: mean distance of confidence and accuracy over 15 bins.

    Images are sorted into bins of equal width by the probability of their best class; the distance
    of a bin counts by the share of images in it.

    Args:
        logits: Scores of each image.
        labels: True class of each image.
        temperature: What logits are divided by.

    Returns:
        The error, between 0 and 1; NaN where a score is not finite.
    """
    if not np.isfinite(logits).all():
        return math.nan
    probability = np.exp(log_softmax(logits / temperature))
    confidence = probability.max(axis=1)
    correct = probability.argmax(axis=1) == labels
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, confidence - correct, BINS)  # count times (confidence - accuracy)
    return float(np.abs(gaps).sum() / len(labels))


def fit_temperature(logits: Float[np.ndarray, "N C"], labels: Int[np.ndarray, " N"]) -> float:
    """The temperature under which held-out images have the highest likelihood.

    Accuracy does not depend on it: dividing all logits of an image keeps their order.

    Args:
        logits: Scores of held-out images.
        labels: True class of each image.

    Returns:
        The temperature; `LEAST` or `MOST` where the likelihood still rises there, as when every
        image is right; 1 where a score is not finite.
    """
    from scipy.optimize import minimize_scalar  # half a second to import

    if not np.isfinite(logits).all():
        return 1.0
    rows = np.arange(len(labels))

    def nll(log_temperature: float) -> float:
        return -log_softmax(logits / np.exp(log_temperature))[rows, labels].mean()

    found = minimize_scalar(nll, bounds=np.log((LEAST, MOST)), method="bounded")
    temperature = float(np.exp(found.x))
    for bound in (LEAST, MOST):  # the search comes close to its bounds and never meets them
        if math.isclose(temperature, bound, rel_tol=1e-3):
            return bound
    return temperature
