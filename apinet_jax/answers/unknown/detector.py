"""A score for unknown photos with what it was fitted on, stored in the run's folder `answers/`."""

from collections.abc import Callable, Collection
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from apinet_jax.answers.bank import Bank
from apinet_jax.answers.cache import FOLDER, cached, run_key, write_cache
from apinet_jax.answers.unknown.scores import (
    FALSE_ALARMS,
    SCORES,
    Residual,
    Scores,
    Threshold,
    energy,
    fit_residual,
    fit_threshold,
    max_logit,
    max_softmax,
    nearness,
    vim,
)
from apinet_jax.inference import Classifier, Description
from apinet_jax.system.errors import InputError


class Verdict(NamedTuple):
    """Which photos are unknown.

    Attributes:
        scores: Score of each photo; higher for known classes.
        unknown: Whether it is below the threshold.
        threshold: The threshold.
    """

    scores: Scores
    unknown: Bool[np.ndarray, " N"]
    threshold: Threshold


class Detector(NamedTuple):
    """A score with what it was fitted on.

    Attributes:
        name: One of `SCORES`.
        held_out: Scores of the held-out images.
        training: Features of the training images, for `knn`.
        residual: For `vim`.
    """

    name: str
    held_out: Float[np.ndarray, " V"]
    training: Float[np.ndarray, "M D"] | None = None
    residual: Residual | None = None

    def score(self, described: Description) -> Scores:
        """Return the score of each photo, from its features and logits."""
        features, logits = described
        if len(logits) == 0:  # scikit-learn refuses an empty search
            return np.zeros(0)
        if self.name == "knn":
            return nearness(features, self.training)
        if self.name == "vim":
            return vim(features, logits, self.residual)
        return {"max_logit": max_logit, "max_softmax": max_softmax, "energy": energy}[self.name](
            logits
        )

    def judge(self, described: Description, false_alarms: float = FALSE_ALARMS) -> Verdict:
        """Return which photos are unknown, at a share of false alarms; see `fit_threshold`."""
        threshold = fit_threshold(self.held_out, false_alarms)
        scores = self.score(described)
        return Verdict(scores, ~(scores >= threshold.value), threshold)  # NaN is unknown


def fit_detector(
    name: str, classifier: Classifier, train: Bank | None, validation: Bank
) -> Detector:
    """Fit a score.

    Args:
        name: One of `SCORES`.
        classifier: The network.
        train: Training images; only `knn` and `vim` need them.
        validation: Held-out images.

    Raises:
        InputError: If features are not finite.
    """
    for bank in (train, validation):
        if bank is not None and not np.isfinite(bank.features).all():
            raise InputError(
                f"The features of {bank.split} images are not finite: the run diverged."
            )
    detector = Detector(name, np.zeros(0))
    if name == "knn":
        detector = detector._replace(training=train.features)
    if name == "vim":
        residual = fit_residual(train.features, train.logits, classifier.kernel, classifier.bias)
        detector = detector._replace(residual=residual)
    held_out = Description(validation.features, validation.logits)
    return detector._replace(held_out=detector.score(held_out))


def read_detector(
    name: str,
    classifier: Classifier,
    bank: Callable[[str], Bank],
    splits: Callable[[], Collection[str]],
) -> Detector:
    """Return a fitted score, from the run's folder `answers/` where it was fitted before.

    Args:
        name: One of `SCORES`.
        classifier: The network.
        bank: Returns the bank of a split.
        splits: Returns the names of the splits.

    Raises:
        InputError: If there is no such score, the run has no held-out images, or its photos cannot
            be opened.
        RunError: If the device runs out of memory.
    """
    if name not in SCORES:
        raise InputError(f"There is no score {name!r}. Choose one of {', '.join(SCORES)}.")
    path = classifier.workdir / FOLDER / f"{classifier.step}-unknown-{name}.npz"
    key = run_key(classifier)
    if (stored := cached(path, key)) is not None:
        return _from_arrays(name, stored)
    if "validation" not in splits():
        raise InputError(
            "The run has no held-out images, and a threshold for unknown photos is fitted on "
            "nothing else: train with data.val_fraction, 0.2 for instance."
        )
    train = bank("train") if name in ("knn", "vim") else None
    detector = fit_detector(name, classifier, train, bank("validation"))
    write_cache(path, key, _to_arrays(detector), f"The numbers of the score {name}")
    return detector


def _to_arrays(detector: Detector) -> dict[str, np.ndarray]:
    arrays = {"held_out": detector.held_out}
    if detector.training is not None:
        arrays["training"] = detector.training
    if detector.residual is not None:
        arrays |= {name: np.asarray(part) for name, part in detector.residual._asdict().items()}
    return arrays


def _from_arrays(name: str, arrays: dict[str, np.ndarray]) -> Detector:
    residual = None
    if "basis" in arrays:
        residual = Residual(arrays["origin"], arrays["basis"], float(arrays["scale"]))
    return Detector(name, arrays["held_out"], arrays.get("training"), residual)
