"""Calibration: its error, and the temperature that corrects it.

Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017.
"""

import math

import numpy as np
from jaxtyping import Float, Int

BINS = 15
LEAST, MOST = 0.05, 20.0  # bounds of the temperature


def log_softmax(logits: Float[np.ndarray, "N C"]) -> Float[np.ndarray, "N C"]:
    """Return the log-probability of each class, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def softmax(logits: Float[np.ndarray, "N C"], temperature: float = 1.0) -> Float[np.ndarray, "N C"]:
    """Return the probability of each class, in float64.

    Args:
        logits: Scores of each image.
        temperature: Divisor of the logits.

    Examples:
        >>> softmax(np.array([[0.0, 2 * np.log(3)]]), temperature=2.0)
        array([[0.25, 0.75]])
    """
    return np.exp(log_softmax(logits / temperature))


def calibration_error(
    logits: Float[np.ndarray, "N C"], labels: Int[np.ndarray, " N"], temperature: float = 1.0
) -> float:
    """Return the expected calibration error, from 0 to 1; NaN where a score is not finite.

    Images are sorted into 15 bins of equal width by the probability of their best class. The error
    is the mean distance of confidence and accuracy, weighted by the images of each bin.

    Args:
        logits: Scores of each image.
        labels: True class of each image.
        temperature: Divisor of the logits.
    """
    if not np.isfinite(logits).all():
        return math.nan
    probability = softmax(logits, temperature)
    confidence = probability.max(axis=1)
    correct = probability.argmax(axis=1) == labels
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, confidence - correct, BINS)  # count times (confidence - accuracy)
    return float(np.abs(gaps).sum() / len(labels))


def fit_temperature(logits: Float[np.ndarray, "N C"], labels: Int[np.ndarray, " N"]) -> float:
    """Return the temperature that maximises the likelihood of held-out images.

    Accuracy does not depend on it: division keeps the order of the logits of an image.

    Args:
        logits: Scores of held-out images.
        labels: True class of each image.

    Returns:
        The temperature; `LEAST` or `MOST` where the likelihood still increases there, for instance
        if every image is classified correctly; 1 where a score is not finite.
    """
    from scipy.optimize import minimize_scalar  # half a second to import

    if not np.isfinite(logits).all():
        return 1.0
    rows = np.arange(len(labels))

    def nll(log_temperature: float) -> float:
        return -log_softmax(logits / np.exp(log_temperature))[rows, labels].mean()

    found = minimize_scalar(nll, bounds=np.log((LEAST, MOST)), method="bounded")
    temperature = float(np.exp(found.x))
    for bound in (LEAST, MOST):  # the search approaches its bounds but never reaches them
        if math.isclose(temperature, bound, rel_tol=1e-3):
            return bound
    return temperature
