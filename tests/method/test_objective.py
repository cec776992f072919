"""Changes of the objective that are not in the paper, by hand-computed values."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apinet_jax.data.batch import Batch
from apinet_jax.method.interaction import APINet
from apinet_jax.method.losses import PairLogits, class_contrast, cross_entropy
from apinet_jax.method.objective import Objective, evaluate_objective
from apinet_jax.method.pairs import mine_pairs
from apinet_jax.models.layers import Trunk

D, C = 3, 4
LABELS = jnp.array([0, 0, 0, 1, 1, 2])
FEATURES = jnp.array(np.random.default_rng(0).standard_normal((6, D)), jnp.float32)
BATCH = Batch(FEATURES, LABELS, jnp.arange(6), jnp.ones(6, bool))
MODEL = APINet(Trunk(), D, C, hidden=2, dropout=0.0)


@cache
def params():
    draw = jax.jit(partial(MODEL.init, train=False, method="interact"))
    return draw(jax.random.key(1), FEATURES, FEATURES)["params"]


@cache
def total(**switches):
    evaluate = partial(evaluate_objective, MODEL, objective=Objective(**switches))
    terms, _, _ = jax.jit(evaluate)(params(), FEATURES, BATCH, key=jax.random.key(0))
    return float(terms.total)


def test_ungated_features_add_their_cross_entropy(strict_dtypes):
    logits = FEATURES @ params()["fc"]["kernel"] + params()["fc"]["bias"][None]
    ungated = float(jnp.mean(cross_entropy(logits, LABELS)))
    assert total(ungated_weight=0.5) - total() == pytest.approx(0.5 * ungated, rel=1e-5)


def test_more_dropout_masks():
    """Without dropout all samples are equal; with it, more of them vary less."""
    assert total(method="softmax", dropout_samples=8) == pytest.approx(total(method="softmax"))
    model = MODEL.clone(dropout=0.5)

    @partial(jax.jit, static_argnames="samples")
    def losses(samples, keys):
        objective = Objective(method="softmax", dropout_samples=samples)
        evaluate = partial(evaluate_objective, model, params(), FEATURES, BATCH, objective)
        return jax.vmap(lambda key: evaluate(key)[0].total)(keys)

    keys = jax.random.split(jax.random.key(0), 400)
    one, eight = losses(1, keys), losses(8, keys)
    assert float(eight.mean()) == pytest.approx(float(one.mean()), rel=0.05)
    assert float(eight.std()) == pytest.approx(float(one.std()) / 8**0.5, rel=0.2)


def test_class_contrast_by_hand(strict_dtypes):
    rows = [jnp.array([[0.0, 1.0, 9.0], [2.0, 2.0, 2.0], [5.0, 0.0, 0.0]]) + n for n in range(4)]
    logits = PairLogits(rows[0], rows[1], 2 * rows[2] - 4, None)
    labels_1, labels_2 = jnp.array([0, 1, 0]), jnp.array([1, 1, 2])
    # The second pair is of one class, and the third does not exist. What remains are two rows of
    # image 1, of class 0, and one of image 2, of class 1. The third class has no influence.
    expected = (2 * np.log1p(np.exp(1.0)) + np.log1p(np.exp(-2.0))) / 3
    valid = jnp.array([True, True, False])
    assert class_contrast(logits, labels_1, labels_2, valid) == pytest.approx(expected, rel=1e-6)
    assert class_contrast(logits, labels_1, labels_2, jnp.zeros(3, bool)) == 0


def test_class_contrast_is_added_with_its_weight():
    once, twice = (total(contrast_weight=weight) - total() for weight in (1.0, 2.0))
    assert twice == pytest.approx(2 * once, rel=1e-5)
    assert once > 0


def test_confused_partner_is_of_the_class_with_the_highest_score(strict_dtypes):
    on_a_line = jnp.array([[0.0], [1.0], [5.0], [6.0], [9.0], [20.0]])
    mine = partial(mine_pairs, on_a_line, LABELS, jnp.arange(6), choice="confused")
    scores = jnp.zeros((6, C)).at[0, 2].set(1.0).at[1, 1].set(1.0).at[3, 2].set(1.0)
    scores = scores.at[:, 3].set(5.0)  # a class that is not in the batch
    pairs = mine(scores=scores)
    # Image 0 is confused with class 2, images 1 and 3 with 1 and 2; where scores are equal, the
    # nearest image decides.
    assert pairs.inter.tolist() == [5, 3, 3, 5, 2, 4]
    assert pairs.intra.tolist() == mine_pairs(on_a_line, LABELS, jnp.arange(6)).intra.tolist()
    one_class = mine_pairs(
        on_a_line, jnp.zeros(6, int), jnp.arange(6), choice="confused", scores=scores
    )
    assert not one_class.inter_valid.any()


def test_confused_partners_use_the_classifier():
    assert total(choice="confused", kinds="inter") != total(kinds="inter")
