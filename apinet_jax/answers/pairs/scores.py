"""Scores of pairs of photos: the more alike, the higher; the order of the two does not matter.

The score of an API-Net run comes from its interaction: each photo is classified under its own gate
and under its partner's, and the score is the log-probability that both are of one class. A softmax
run has no gates; its score is the same agreement of the plain probabilities.
"""

import numpy as np
from jaxtyping import Float, Int

from apinet_jax.inference import Classifier
from apinet_jax.method.calibration import log_softmax
from apinet_jax.system.console import tracked

PAIRS_AT_ONCE = 4096  # so that features of pairs fit into memory, however many there are
# The temperature was fitted to plain features, x. Attentive ones, x + x * g, are larger: 1.5 times
# under a gate of one half.
GATED = 1.5
_FEW_PARTS = 8  # that need no progress bar


def agreement(
    logits_1: Float[np.ndarray, "P C"], logits_2: Float[np.ndarray, "P C"]
) -> Float[np.ndarray, " P"]:
    """Return the log-probability that both photos of each pair are of one class.

    log sum_c p_1(c) p_2(c), for the softmax probabilities of both photos, taken as independent.

    Examples:
        >>> agreement(np.zeros((1, 4)), np.zeros((1, 4)))  # log 1/4
        array([-1.38629436])
    """
    both = log_softmax(logits_1) + log_softmax(logits_2)
    most = both.max(axis=1)
    return most + np.log(np.exp(both - most[:, None]).sum(axis=1))


def cosine(
    features_1: Float[np.ndarray, "P D"], features_2: Float[np.ndarray, "P D"]
) -> Float[np.ndarray, " P"]:
    """Return the cosine similarity of both features of each pair; 0 for a feature of zeros."""
    lengths = np.linalg.norm(features_1, axis=1) * np.linalg.norm(features_2, axis=1)
    dot = (features_1 * features_2).sum(axis=1)
    return np.divide(dot, lengths, out=np.zeros_like(dot), where=lengths > 0)


def pair_scores(
    classifier: Classifier, features: Float[np.ndarray, "N D"], pairs: Int[np.ndarray, "P 2"]
) -> Float[np.ndarray, " P"]:
    """Return the score of each pair, from the features of its photos.

    `agreement` of the `interaction_logits`, or of the plain logits of a softmax run, divided by the
    temperature of the run. Reversing a pair changes no bit of its score.
    """
    temperature = pair_temperature(classifier)
    parts = [np.zeros(0)]
    starts = range(0, len(pairs), PAIRS_AT_ONCE)
    long = len(starts) > _FEW_PARTS
    for start in tracked(starts, "Comparing photos", len(starts)) if long else starts:
        x_1, x_2 = features[pairs[start : start + PAIRS_AT_ONCE].T]
        if classifier.has_gates:
            logits = interaction_logits(classifier, x_1, x_2)
        else:
            logits = (x @ classifier.kernel + classifier.bias for x in (x_1, x_2))
        parts.append(agreement(*(rows / temperature for rows in logits)))
    return np.concatenate(parts)


def pair_temperature(classifier: Classifier) -> float:
    """Return the divisor of the logits of a pair: of attentive features where there are gates."""
    return classifier.temperature * (GATED if classifier.has_gates else 1.0)


def interaction_logits(
    classifier: Classifier, x_1: Float[np.ndarray, "P D"], x_2: Float[np.ndarray, "P D"]
) -> tuple[Float[np.ndarray, "P C"], Float[np.ndarray, "P C"]]:
    """Return the logits of both photos of each pair under the gates of both.

    The mean over a photo's self and other features, and over both orders of the pair: the mutual
    vector depends on which photo is the first.

    Raises:
        InputError: If the run is the softmax baseline, which has no gates.
    """
    swap = _is_later(x_1, x_2)[:, None]
    logits_1, logits_2 = _both_orders(
        classifier, np.where(swap, x_2, x_1), np.where(swap, x_1, x_2)
    )
    return np.where(swap, logits_2, logits_1), np.where(swap, logits_1, logits_2)


def _is_later(x_1: Float[np.ndarray, "P D"], x_2: Float[np.ndarray, "P D"]) -> np.ndarray:
    """Whether x_1 sorts after x_2: each pair is computed in one order, so rounding is the same."""
    first = (x_1 != x_2).argmax(axis=1)[:, None]  # the first channel in which they differ
    return np.take_along_axis(x_1 > x_2, first, axis=1)[:, 0]


def _both_orders(
    classifier: Classifier, x_1: Float[np.ndarray, "P D"], x_2: Float[np.ndarray, "P D"]
) -> tuple[Float[np.ndarray, "P C"], Float[np.ndarray, "P C"]]:
    count = len(x_1)
    # A padded batch: few sizes are compiled, whatever the number of pairs.
    extra = (1 << (count - 1).bit_length()) - count
    x_1, x_2 = (np.pad(x, ((0, extra), (0, 0))) for x in (x_1, x_2))
    there, back = classifier.interact(x_1, x_2), classifier.interact(x_2, x_1)
    logits_1 = (there.self_1, there.other_1, back.self_2, back.other_2)
    logits_2 = (there.self_2, there.other_2, back.self_1, back.other_1)
    means = (
        np.mean([one for one in some if one is not None], axis=0) for some in (logits_1, logits_2)
    )
    return tuple(mean[:count] for mean in means)
