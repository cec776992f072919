"""The objective of API-Net: cross-entropy on four features of each pair, and a score ranking.

Equation numbers are those of `docs/method.md`. All functions are pure and have no parameters.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Reduction = Literal["code", "paper"]


class PairLogits(NamedTuple):
    """Logits of the four attentive features of each pair (equations 4 and 5).

    An ablation without `self` or `other` features has `None` there, for both images.

    Attributes:
        self_1: Image 1 under its own gate.
        other_1: Image 1 under the gate of image 2.
        self_2: Image 2 under its own gate.
        other_2: Image 2 under the gate of image 1.
    """

    self_1: Float[Array, "*P C"] | None
    other_1: Float[Array, "*P C"] | None
    self_2: Float[Array, "*P C"] | None
    other_2: Float[Array, "*P C"] | None


class LossTerms(NamedTuple):
    """The objective and its two terms; `total` is differentiated."""

    total: Float[Array, ""]
    cross_entropy: Float[Array, ""]
    ranking: Float[Array, ""]


def cross_entropy(
    logits: Float[Array, "*P C"], labels: Int[Array, "*P"], smoothing: float = 0.0
) -> Float[Array, "*P"]:
    """Return the negative log-probability of the true class of each row (equation 6).

    Args:
        logits: Scores of each row.
        labels: True class of each row.
        smoothing: Share of the target that is distributed uniformly over all classes.

    Examples:
        >>> import jax.numpy as jnp
        >>> print(cross_entropy(jnp.zeros((1, 4)), jnp.array([2])))  # log 4
        [1.3862944]
    """
    log_probability = jax.nn.log_softmax(logits)
    nll = -jnp.take_along_axis(log_probability, labels[..., None], axis=-1)[..., 0]
    if not smoothing:
        return nll
    return (1 - smoothing) * nll - smoothing * jnp.mean(log_probability, axis=-1)


def score_ranking(
    self_logits: Float[Array, "*P C"],
    other_logits: Float[Array, "*P C"],
    labels: Int[Array, "*P"],
    margin: float,
) -> Float[Array, "*P"]:
    """Return the score ranking loss of each row (equation 7).

    max(0, p_other(c) - p_self(c) + margin), for the probabilities of the true class c: an image
    should be recognised better under its own gate than under its partner's.

    Args:
        self_logits: Logits of images under their own gate.
        other_logits: Logits of the same images under the partner's gate.
        labels: True class of each row.
        margin: The paper's epsilon, in units of probability.

    Examples:
        >>> import jax.numpy as jnp
        >>> logits = jnp.zeros((1, 2))  # both gates see a probability of 1/2
        >>> print(score_ranking(logits, logits, jnp.array([0]), margin=0.05))
        [0.05]
    """
    p_self = jnp.exp(-cross_entropy(self_logits, labels))
    p_other = jnp.exp(-cross_entropy(other_logits, labels))
    return jax.nn.relu(p_other - p_self + margin)


def class_contrast(
    logits: PairLogits,
    labels_1: Int[Array, "*P"],
    labels_2: Int[Array, "*P"],
    valid: Bool[Array, "*P"],
) -> Float[Array, ""]:
    """Return the cross-entropy between the two classes of each pair, as if there were no others.

    log(1 + exp(s(c') - s(c))), for the logits of the true class c and of the partner's class c'.
    The mean is over the rows of valid pairs of two classes; 0 where there are none. Not in the
    paper.

    Args:
        logits: Logits of the features of each pair.
        labels_1: True class of image 1 of each pair.
        labels_2: True class of image 2 of each pair.
        valid: Whether each pair has a true partner.

    Examples:
        >>> import jax.numpy as jnp
        >>> row = jnp.zeros((1, 3))
        >>> pair = PairLogits(row, row, row, row)
        >>> print(class_contrast(pair, jnp.array([0]), jnp.array([1]), jnp.array([True])))  # log 2
        0.6931472
    """
    labels = ((labels_1, labels_2),) * 2 + ((labels_2, labels_1),) * 2
    rows = [
        jax.nn.softplus(
            jnp.take_along_axis(row, other[..., None], axis=-1)
            - jnp.take_along_axis(row, true[..., None], axis=-1)
        )[..., 0]
        for row, (true, other) in zip(logits, labels, strict=True)
        if row is not None
    ]
    counted = valid & (labels_1 != labels_2)
    contrast = sum(rows[1:], start=rows[0])  # [*P]
    num_rows = len(rows) * jnp.maximum(jnp.sum(counted), 1).astype(contrast.dtype)
    return jnp.sum(jnp.where(counted, contrast, 0)) / num_rows


def pair_loss(
    logits: PairLogits,
    labels_1: Int[Array, "*P"],
    labels_2: Int[Array, "*P"],
    valid: Bool[Array, "*P"],
    *,
    margin: float,
    rank_weight: float,
    reduction: Reduction,
    smoothing: float = 0.0,
) -> LossTerms:
    """Return the objective over the valid pairs of the global batch (equation 8).

    A pair without a true partner counts in neither numerator nor denominator. With n valid pairs,
    `code` (the authors' program) takes means over the 4n cross-entropy rows and the 2n ranking
    rows. `paper` sums the terms of a pair and takes the mean over the n pairs: cross-entropy then
    weighs four times as much, the ranking twice as much. If only one kind of feature is
    classified, there are 2n rows and no ranking.

    Args:
        logits: Logits of the four features of each pair.
        labels_1: True class of image 1 of each pair.
        labels_2: True class of image 2 of each pair.
        valid: Whether each pair has a true partner.
        margin: The paper's epsilon, in units of probability.
        rank_weight: The paper's lambda.
        reduction: `code` or `paper`.
        smoothing: Share of each target that is distributed over all classes; not in the ranking.

    Returns:
        The total and its two terms; all are 0 when no pair is valid.
    """
    rows = [
        cross_entropy(row_logits, labels, smoothing)
        for row_logits, labels in zip(logits, (labels_1, labels_1, labels_2, labels_2), strict=True)
        if row_logits is not None
    ]
    ce = sum(rows[1:], start=rows[0])  # [*P]
    hinge = jnp.zeros_like(ce)  # [*P]
    if len(rows) == 4:
        hinge = score_ranking(logits.self_1, logits.other_1, labels_1, margin) + score_ranking(
            logits.self_2, logits.other_2, labels_2, margin
        )
    num_pairs = jnp.maximum(jnp.sum(valid), 1).astype(ce.dtype)
    ce_rows, rank_rows = (len(rows), 2) if reduction == "code" else (1, 1)
    ce_mean = jnp.sum(jnp.where(valid, ce, 0)) / (ce_rows * num_pairs)
    rank_mean = jnp.sum(jnp.where(valid, hinge, 0)) / (rank_rows * num_pairs)
    return LossTerms(ce_mean + rank_weight * rank_mean, ce_mean, rank_mean)
