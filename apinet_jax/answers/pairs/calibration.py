"""From the score of a pair to the probability that both photos show the same class.

The map is fitted on pairs of held-out images, which the network was not trained on. Two maps are
tried: logistic regression (Platt 1999) and isotonic regression (Zadrozny and Elkan 2002). The one
with the lower loss on pairs of images that it was not fitted on is fitted again on all pairs.
"""

import math
from collections.abc import Callable, Collection
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Bool, Float, Int

from apinet_jax.answers.bank import Bank
from apinet_jax.answers.cache import FOLDER, cached, run_key, write_cache
from apinet_jax.answers.pairs.scores import pair_scores
from apinet_jax.inference import Classifier
from apinet_jax.system.errors import InputError
from apinet_jax.trained_network import TrainedNetwork

Method = Literal["logistic", "isotonic"]
_FITTED_PRIOR = 0.5
_MOST_PAIRS = 50_000  # of each kind
_NO_PENALTY = 1e12  # of LogisticRegression


class PairCalibration(NamedTuple):
    """A map from scores to log odds of the same class, where half of the pairs show one class.

    It is straight between knots and constant outside of them.

    Attributes:
        method: `logistic`, with two knots, or `isotonic`.
        scores: Scores of the knots, ascending.
        log_odds: Log odds at the knots, in nats.
        images: Held-out images it was fitted on.
        pairs: Their pairs.
    """

    method: Method
    scores: tuple[float, ...]
    log_odds: tuple[float, ...]
    images: int
    pairs: int

    def probability(
        self, scores: Float[np.ndarray, " P"], prior: float = _FITTED_PRIOR
    ) -> Float[np.ndarray, " P"]:
        """Return the probability that each pair shows one class.

        Args:
            scores: Score of each pair.
            prior: Share of pairs of the same class among those that are compared. It is added as
                log odds (Bayes' rule).

        Raises:
            InputError: If the prior is not between 0 and 1.
        """
        check_prior(prior)
        odds = np.interp(scores, self.scores, self.log_odds) + math.log(prior / (1 - prior))
        return np.exp(-np.logaddexp(0, -odds))


def check_prior(prior: float) -> float:
    """Return the prior.

    Raises:
        InputError: If it is not between 0 and 1.
    """
    if not 0 < prior < 1:
        raise InputError(
            f"The prior {prior:g} is not between 0 and 1. It is the share of pairs of the same "
            "class among those you compare: 0.5 if both kinds are equally frequent."
        )
    return prior


def calibration_pairs(
    labels: Int[np.ndarray, " N"], most: int = _MOST_PAIRS
) -> Int[np.ndarray, "P 2"]:
    """Return the pairs of held-out images to calibrate on: all, or `most` of each kind.

    Where there are more, they are evenly spaced in the order of first and second image.
    """
    rows = np.arange(len(labels))
    place = np.zeros_like(rows)  # of each image in its class
    later = np.zeros_like(rows)  # images of its class after it
    classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    for own in classes:
        place[own] = np.arange(len(own))
        later[own] = place[own][::-1]
    # The pairs of each kind are counted by their first image, so that none but the chosen exist.
    same, same_rank = _spaced(later, most)
    other, other_rank = _spaced(rows[::-1] - later, most)
    second_same, second_other = np.zeros_like(same), np.zeros_like(other)
    for own in classes:
        mine = labels[same] == labels[own[0]]
        second_same[mine] = own[place[same[mine]] + 1 + same_rank[mine]]
        mine = labels[other] == labels[own[0]]
        rank = other[mine] - place[other[mine]] + other_rank[mine]  # among images of other classes
        skipped = np.searchsorted(own - np.arange(len(own)), rank, side="right")
        second_other[mine] = rank + skipped
    first, second = np.append(same, other), np.append(second_same, second_other)
    return np.stack([first, second], axis=1)[np.lexsort((second, first))]


def _spaced(counts: Int[np.ndarray, " N"], most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return row and rank in it of evenly spaced items, of which each row has `counts`."""
    ends = np.cumsum(counts)
    total = int(counts.sum())
    chosen = np.linspace(0, total - 1, min(total, most)).astype(int)
    row = np.searchsorted(ends, chosen, side="right")
    return row, chosen - (ends - counts)[row]


def pair_weights(same: Bool[np.ndarray, " P"], prior: float) -> Float[np.ndarray, " P"]:
    """Return a weight for each pair, so that pairs of the same class weigh `prior` of the total 1.

    Examples:
        >>> pair_weights(np.array([True, False, False]), 0.5)
        array([0.5 , 0.25, 0.25])
    """
    positives = same.sum()
    return np.where(same, prior / max(positives, 1), (1 - prior) / max(len(same) - positives, 1))


def fit_pair_calibration(
    labels: Int[np.ndarray, " N"], pairs: Int[np.ndarray, "P 2"], scores: Float[np.ndarray, " P"]
) -> PairCalibration:
    """Return the better of both maps, fitted on pairs of held-out images.

    The images of each class are dealt to two halves in turn. Each map is fitted on the pairs within
    one half and scored on those within the other, and the reverse, so no image is on both sides.
    Without a pair of the same class in each half, the map is logistic, which has two parameters.

    Args:
        labels: Class of each held-out image.
        pairs: The pairs.
        scores: Score of each pair.

    Raises:
        InputError: If there is no pair of the same class, or none of different classes.
    """
    first, second = pairs.T
    same = labels[first] == labels[second]
    if not same.any() or same.all():
        kind = "the same class" if not same.any() else "different classes"
        raise InputError(
            f"The run has {len(labels)} held-out images, of which no two show {kind}, so its "
            "scores cannot be calibrated. Train with a higher data.val_fraction."
        )
    half = _halves(labels)
    sides = [(half[first] == side) & (half[second] == side) for side in (0, 1)]
    method: Method = "logistic"
    if all(0 < same[side].sum() < side.sum() for side in sides):
        folds = (sides, sides[::-1])

        def loss(method: Method) -> float:
            return sum(
                _loss(
                    fit_map(method, scores[fit], same[fit], len(labels)), scores[rest], same[rest]
                )
                for fit, rest in folds
            )

        method = min(get_args(Method), key=loss)
    return fit_map(method, scores, same, len(labels))


def fit_map(
    method: Method, scores: Float[np.ndarray, " P"], same: Bool[np.ndarray, " P"], images: int
) -> PairCalibration:
    """Return one kind of map, fitted on pairs of both kinds.

    Pairs are weighted so that both kinds weigh the same. The targets are Platt's: (n + 1) / (n + 2)
    for the n pairs of the same class, 1 / (m + 2) for the m others. No probability leaves their
    range: so many pairs do not support more.
    """
    weights = pair_weights(same, _FITTED_PRIOR) * len(same)
    positives = int(same.sum())
    low, high = 1 / (len(same) - positives + 2), (positives + 1) / (positives + 2)
    fit = _fit_line if method == "logistic" else _fit_steps
    knots, log_odds = fit(scores.astype(np.float64), np.where(same, high, low), weights)
    return PairCalibration(
        method, tuple(map(float, knots)), tuple(map(float, log_odds)), images, len(same)
    )


def _fit_line(scores: np.ndarray, target: np.ndarray, weights: np.ndarray) -> tuple:
    from sklearn.linear_model import LogisticRegression  # a second to import

    centre, scale = scores.mean(), scores.std() or 1.0
    scaled = ((scores - centre) / scale)[:, None]
    model = LogisticRegression(C=_NO_PENALTY).fit(
        np.concatenate([scaled, scaled]),  # each pair as both kinds, as its target says
        np.repeat([1, 0], len(scores)),
        np.concatenate([weights * target, weights * (1 - target)]),
    )
    intercept, slope = float(model.intercept_[0]), float(model.coef_[0, 0])
    if slope == 0:  # all scores are equal
        return (centre,), (intercept,)
    ends = _logit(np.array([target.min(), target.max()]))
    knots = centre + scale * (ends - intercept) / slope
    order = np.argsort(knots)  # a score that is worse than chance has a negative slope
    return knots[order], ends[order]


def _fit_steps(scores: np.ndarray, target: np.ndarray, weights: np.ndarray) -> tuple:
    from sklearn.isotonic import IsotonicRegression

    model = IsotonicRegression().fit(scores, target, sample_weight=weights)
    return model.X_thresholds_, _logit(model.y_thresholds_)


def _logit(probability: Float[np.ndarray, " K"]) -> Float[np.ndarray, " K"]:
    return np.log(probability) - np.log1p(-probability)


def _halves(labels: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """Deal the images of each class in turn to half 0 and half 1."""
    half = np.zeros(len(labels), int)
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        half[mine] = np.arange(len(mine)) % 2
    return half


def _loss(
    calibration: PairCalibration, scores: Float[np.ndarray, " P"], same: Bool[np.ndarray, " P"]
) -> float:
    """Negative log-likelihood of pairs of which half show one class."""
    odds = np.where(same, 1, -1) * np.interp(scores, calibration.scores, calibration.log_odds)
    return float((pair_weights(same, _FITTED_PRIOR) * np.logaddexp(0, -odds)).sum())


def published_calibration(network: TrainedNetwork) -> PairCalibration:
    """Return the map of a published network.

    Raises:
        InputError: If it has none, or a damaged one.
    """
    about = (network.published or {}).get("pairs")
    if about is None:
        raise InputError(
            f"{network.folder} was published without a calibration of pairs: its run had no "
            "held-out images, or its photos were missing."
        )
    try:
        scores, log_odds = (tuple(map(float, about[name])) for name in ("scores", "log_odds"))
        if not scores or len(scores) != len(log_odds):
            raise ValueError("its knots have no values")
        if not np.isfinite(scores + log_odds).all() or (np.diff(scores) < 0).any():
            raise ValueError("its knots are not finite and ascending")
        images, pairs = int(about["images"]), int(about["pairs"])
        return PairCalibration(str(about["method"]), scores, log_odds, images, pairs)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise InputError(
            f"The calibration of pairs in {network.folder} is damaged ({error!r})."
        ) from error


def read_pair_calibration(
    classifier: Classifier, bank: Callable[[str], Bank], splits: Callable[[], Collection[str]]
) -> PairCalibration:
    """Return the map of a run, from its folder `answers/` where it was fitted before.

    Args:
        classifier: The run.
        bank: Returns the features of a split. Only called if the map is not stored, so a run can
            compare photos where its own are missing.
        splits: Returns the names of the splits.

    Raises:
        InputError: If there are no held-out images, or they cannot be opened.
        RunError: If the device runs out of memory.
    """
    path = classifier.workdir / FOLDER / f"{classifier.step}-pairs.npz"
    key = run_key(classifier, classifier.temperature)
    if (stored := cached(path, key)) is not None:
        return PairCalibration(
            str(stored["method"]),
            *(tuple(stored[name].tolist()) for name in ("scores", "log_odds")),
            *(int(stored[name]) for name in ("images", "pairs")),
        )
    if "validation" not in splits():
        raise InputError(
            "The run has no held-out images, so its scores are not calibrated. Train with "
            "data.val_fraction=0.1, for instance, to hold some out."
        )
    held_out = bank("validation")
    pairs = calibration_pairs(held_out.labels)
    scores = pair_scores(classifier, held_out.features, pairs)
    if not np.isfinite(scores).all():
        raise InputError("The scores of held-out images are not finite: the run has diverged.")
    found = fit_pair_calibration(held_out.labels, pairs, scores)
    arrays = {name: np.array(value) for name, value in found._asdict().items()}
    write_cache(path, key, arrays, "The probabilities of pairs")
    return found
