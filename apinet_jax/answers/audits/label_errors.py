"""How likely the label of an image is wrong."""

import numpy as np
from jaxtyping import Float, Int

from apinet_jax.method.calibration import fit_temperature, softmax

FOLDS = 5
_SHRINKAGE = 0.3


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


def out_of_fold(
    features: Float[np.ndarray, "N D"], labels: Int[np.ndarray, " N"], classes: int
) -> Float[np.ndarray, "N C"]:
    """Return class probabilities of each image by a classifier that was not fitted to it.

    The images of each class are dealt to `FOLDS` folds. A linear discriminant (Fisher 1936) with
    shrunken covariance is fitted to all folds but one and applied to that one. The temperature is
    fitted to all of them. The label of an image whose class has no other image is not doubted: it
    gets probability 1.
    """
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels, minlength=classes)
    place = np.empty(len(labels), int)  # of each image in its class
    place[order] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    logits = np.full((len(labels), classes), -np.inf)
    for fold in range(FOLDS):
        inside = place % FOLDS == fold
        if inside.any() and not inside.all():
            known = np.unique(labels[~inside])
            fitted = _discriminant(features[~inside], np.searchsorted(known, labels[~inside]))
            logits[np.ix_(inside, known)] = features[inside] @ fitted[0] + fitted[1]
    judged = counts[labels] > 1
    probability = np.eye(classes)[labels]
    if judged.any():
        finite = np.where(np.isfinite(logits), logits, -1e9)[judged]
        temperature = fit_temperature(finite, labels[judged])
        probability[judged] = softmax(finite, temperature)
    return probability


def _discriminant(
    features: Float[np.ndarray, "N D"], labels: Int[np.ndarray, " N"]
) -> tuple[Float[np.ndarray, "D C"], Float[np.ndarray, " C"]]:
    """Weights and bias of a linear discriminant; every class has an image."""
    counts = np.bincount(labels)
    mean = np.zeros((len(counts), features.shape[1]))
    np.add.at(mean, labels, features)
    mean /= counts[:, None]
    rest = features - mean[labels]
    covariance = rest.T @ rest / len(rest)
    scale = max(np.trace(covariance) / len(covariance), np.finfo(np.float32).tiny)
    covariance *= 1 - _SHRINKAGE
    covariance.flat[:: len(covariance) + 1] += _SHRINKAGE * scale
    weights = np.linalg.solve(covariance, mean.T)
    return weights, np.log(counts / len(labels)) - (mean.T * weights).sum(axis=0) / 2
