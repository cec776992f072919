"""The objective by hand-computed values: both reductions, masks, and no NaN where none belongs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from apinet_jax.method.losses import PairLogits, cross_entropy, pair_loss, score_ranking
from apinet_jax.method.objective import pair_features
from apinet_jax.method.types import PairIndex

pytestmark = pytest.mark.usefixtures("strict_dtypes")

# Two classes: logits (0, z) give the second class the probability 1 / (1 + exp(-z)).
P80, P60 = float(np.log(4)), float(np.log(1.5))


def logits(*z):
    return jnp.stack([jnp.zeros(len(z)), jnp.array(z)], axis=-1)


def loss(valid, reduction, rank_weight=1.0):
    """Three pairs; image 1 is sure under its own gate (0.8 against 0.6), image 2 is not."""
    four = PairLogits(
        self_1=logits(P80, P80, P80),
        other_1=logits(P60, P60, P60),
        self_2=logits(P60, P60, P60),
        other_2=logits(P80, P80, P80),
    )
    ones = jnp.ones(3, jnp.int32)
    return pair_loss(
        four,
        ones,
        ones,
        jnp.array(valid),
        margin=0.05,
        rank_weight=rank_weight,
        reduction=reduction,
    )


CE_OF_A_PAIR = -2 * np.log(0.8) - 2 * np.log(0.6)
RANK_OF_A_PAIR = 0.0 + (0.8 - 0.6 + 0.05)


def test_ranking_is_zero_only_beyond_the_margin():
    hinge = score_ranking(
        logits(P80, P60, P60), logits(P60, P80, P60), jnp.ones(3, jnp.int32), 0.05
    )
    np.testing.assert_allclose(hinge, [0.0, 0.25, 0.05], atol=1e-6)


@pytest.mark.parametrize("valid", [(True, True, True), (True, False, True), (False, True, False)])
def test_code_reduction_by_hand(valid):
    terms = loss(valid, "code")
    np.testing.assert_allclose(terms.cross_entropy, CE_OF_A_PAIR / 4, rtol=1e-6)
    np.testing.assert_allclose(terms.ranking, RANK_OF_A_PAIR / 2, rtol=1e-5)
    np.testing.assert_allclose(terms.total, terms.cross_entropy + terms.ranking, rtol=1e-6)


def test_paper_reduction_by_hand():
    terms = loss((True, False, True), "paper", rank_weight=0.5)
    np.testing.assert_allclose(terms.cross_entropy, CE_OF_A_PAIR, rtol=1e-6)
    np.testing.assert_allclose(terms.ranking, RANK_OF_A_PAIR, rtol=1e-5)
    np.testing.assert_allclose(terms.total, CE_OF_A_PAIR + 0.5 * RANK_OF_A_PAIR, rtol=1e-5)


@pytest.mark.parametrize("reduction", ["code", "paper"])
def test_no_valid_pairs(reduction):
    assert loss((False, False, False), reduction) == (0.0, 0.0, 0.0)


def test_mean_is_over_all_valid_pairs():
    """n of all pairs divides, not n of some: a mean of per-half means would differ here."""
    four = PairLogits(*(logits(P80, P60, P60, P60) for _ in range(4)))
    ones = jnp.ones(4, jnp.int32)
    valid = jnp.array([True, False, True, True])  # halves with 1 and 2 valid pairs
    terms = pair_loss(four, ones, ones, valid, margin=0.0, rank_weight=1.0, reduction="code")
    np.testing.assert_allclose(terms.cross_entropy, -np.log([0.8, 0.6, 0.6]).mean(), rtol=1e-6)


def test_gradients_agree_with_finite_differences():
    def total(z):
        four = PairLogits(logits(*z[:2]), logits(*z[2:4]), logits(*z[4:6]), logits(*z[6:]))
        ones = jnp.ones(2, jnp.int32)
        valid = jnp.array([True, True])
        return pair_loss(
            four, ones, ones, valid, margin=0.5, rank_weight=1.0, reduction="code"
        ).total

    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        check_grads(total, (jnp.linspace(-1.0, 1.0, 8),), order=1, modes=["rev"])


def test_missing_pair_leaves_the_gradient_finite():
    """Its features are made finite before any non-linearity: 0 * inf would be NaN."""
    features = jnp.array([[1e30, 1.0], [2.0, 1.0], [3.0, 1.0]])
    no, yes = jnp.zeros(3, bool), jnp.array([False, True, True])
    pairs = PairIndex(jnp.array([0, 2, 1]), jnp.zeros(3, jnp.int32), yes, no)
    labels = jnp.array([0, 1, 1])

    def total(features):
        x_1, x_2, labels_1, labels_2, valid = pair_features(features, labels, pairs)
        four = PairLogits(*(x_1 * x_2 * x_1,) * 4)
        return pair_loss(
            four, labels_1, labels_2, valid, margin=0.05, rank_weight=1.0, reduction="code"
        ).total

    assert jnp.isfinite(jax.grad(total)(features)).all()


def test_cross_entropy_of_extreme_logits_is_finite():
    value = cross_entropy(jnp.array([[1e4, -1e4]]), jnp.array([1]))
    np.testing.assert_allclose(value, [2e4])
