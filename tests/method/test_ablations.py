"""The switches of the paper's ablations, by hand-computed values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numeric import max_error

from apinet_jax.config import default_config
from apinet_jax.config_checks import CHOICES, check_config
from apinet_jax.method.interaction import APINet
from apinet_jax.method.losses import PairLogits, cross_entropy, pair_loss, score_ranking
from apinet_jax.method.objective import pair_features
from apinet_jax.method.pairs import mine_pairs
from apinet_jax.models.layers import Trunk
from apinet_jax.system.errors import InputError

D, C, P = 6, 4, 5
RANDOM = np.random.default_rng(0)
X_1, X_2 = jnp.asarray(RANDOM.standard_normal((2, P, D)), jnp.float32)
LABELS_1, LABELS_2 = jnp.asarray(RANDOM.integers(0, C, (2, P)), jnp.int32)


def sigmoid(x):
    return 1 / (1 + jnp.exp(-x))


def interact(**switches):
    """Parameters and logits of a head, dropout off."""
    model = APINet(Trunk(), D, C, hidden=3, **switches)
    apply = jax.jit(lambda v: model.apply(v, X_1, X_2, train=False, method="interact"))
    variables = model.init(jax.random.key(0), X_1, X_2, train=False, method="interact")
    return variables["params"], apply(variables)


def classified(params, features):
    return features @ params["fc"]["kernel"] + params["fc"]["bias"][None]


# Both gates of each pair, from what the switches say.
GATES = {
    ("sum", "mutual"): lambda a, b: (sigmoid((a + b) * a), sigmoid((a + b) * b)),
    ("product", "mutual"): lambda a, b: (sigmoid(a * b * a), sigmoid(a * b * b)),
    ("sq_difference", "mutual"): lambda a, b: (
        sigmoid((a - b) ** 2 * a),
        sigmoid((a - b) ** 2 * b),
    ),
    ("own", "mutual"): lambda a, b: (sigmoid(a * a), sigmoid(b * b)),
    ("mlp", "alone"): lambda a, b: (sigmoid(a), sigmoid(b)),
    ("sum", "alone"): lambda a, b: (sigmoid(a), sigmoid(b)),
}


@pytest.mark.parametrize(("mutual", "gates"), GATES)
def test_gates_by_hand(mutual, gates):
    params, logits = interact(mutual=mutual, gates=gates)
    assert set(params) == {"fc"}  # no MLP that would never get a gradient
    gate_1, gate_2 = GATES[mutual, gates](X_1, X_2)
    expected = PairLogits(
        self_1=classified(params, X_1 + X_1 * gate_1),
        other_1=classified(params, X_1 + X_1 * gate_2),
        self_2=classified(params, X_2 + X_2 * gate_2),
        other_2=classified(params, X_2 + X_2 * gate_1),
    )
    assert max(map(max_error, logits, expected)) < 1e-5


def test_only_one_kind_of_feature():
    _, both = interact()
    _, own = interact(interaction="self")
    _, other = interact(interaction="other")
    assert (own.other_1, own.other_2, other.self_1, other.self_2) == (None,) * 4
    assert max_error(own.self_1, both.self_1) == max_error(own.self_2, both.self_2) == 0
    assert max_error(other.other_1, both.other_1) == max_error(other.other_2, both.other_2) == 0


@pytest.mark.parametrize(("interaction", "fields"), [("self", (0, 2)), ("other", (1, 3))])
@pytest.mark.parametrize("reduction", ["code", "paper"])
def test_loss_of_one_kind_of_feature(interaction, fields, reduction):
    _, logits = interact(interaction=interaction)
    valid = jnp.array([True, False, True, True, False])
    terms = pair_loss(
        logits,
        LABELS_1,
        LABELS_2,
        valid,
        margin=0.05,
        rank_weight=1.0,
        reduction=reduction,
    )
    first, second = (logits[field] for field in fields)
    rows = jnp.concatenate(
        [cross_entropy(first, LABELS_1)[valid], cross_entropy(second, LABELS_2)[valid]]
    )
    expected = float(rows.mean() if reduction == "code" else rows.sum() / 3)
    assert terms.cross_entropy == pytest.approx(expected, rel=1e-6)
    assert terms.ranking == 0
    assert terms.total == terms.cross_entropy


def test_without_ranking_the_total_is_the_cross_entropy():
    _, logits = interact()
    options = {"margin": 0.05, "reduction": "code"}
    valid = jnp.ones(P, bool)
    terms = pair_loss(logits, LABELS_1, LABELS_2, valid, rank_weight=0.0, **options)
    assert terms.total == terms.cross_entropy
    hinges = [
        score_ranking(logits.self_1, logits.other_1, LABELS_1, 0.05),
        score_ranking(logits.self_2, logits.other_2, LABELS_2, 0.05),
    ]
    assert terms.ranking == pytest.approx(np.mean(hinges), rel=1e-5)


LABELS = jnp.array([0, 0, 0, 1, 1, 2])
ON_A_LINE = jnp.array([[0.0], [1.0], [5.0], [6.0], [9.0], [20.0]])


def mined(choice, key=None):
    return mine_pairs(ON_A_LINE, LABELS, jnp.arange(6), choice=choice, key=key)


def test_most_dissimilar_partners_by_hand():
    pairs = mined("dissimilar")
    assert pairs.intra.tolist() == [2, 2, 0, 4, 3, 0]
    assert pairs.intra_valid.tolist() == [True] * 5 + [False]
    assert pairs.inter.tolist() == [5, 5, 5, 5, 5, 0]
    assert pairs.inter_valid.all()


def test_random_partners_cover_all_candidates():
    keys = jax.random.split(jax.random.key(0), 300)
    pairs = jax.jit(jax.vmap(lambda key: mined("random", key)))(keys)
    assert {tuple(row) for row in np.asarray(pairs.intra_valid)} == {(True,) * 5 + (False,)}
    for row in range(5):
        same = set(np.flatnonzero(LABELS[row] == LABELS)) - {row}
        others = set(np.flatnonzero(LABELS[row] != LABELS))
        assert set(np.asarray(pairs.intra)[:, row].tolist()) == same
        drawn, counts = np.unique(pairs.inter[:, row], return_counts=True)
        assert set(drawn.tolist()) == others
        assert counts.min() > 0.5 * 300 / len(others)


def test_random_choice_depends_only_on_the_key():
    first, again = mined("random", jax.random.key(1)), mined("random", jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    others = [mined("random", jax.random.key(number)).inter.tolist() for number in range(2, 6)]
    assert first.inter.tolist() not in others


def test_pairs_of_one_kind():
    pairs = mined("similar")
    both = pair_features(ON_A_LINE, LABELS, pairs)
    for row, kind in enumerate(("intra", "inter")):
        single = pair_features(ON_A_LINE, LABELS, pairs, kind)
        for one, two in zip(single, both, strict=True):
            np.testing.assert_array_equal(one, two[row : row + 1])


def test_label_smoothing_by_hand():
    logits = jnp.array([[2.0, 0.0, -1.0]])
    log_p = np.log(np.exp(logits[0]) / np.exp(logits[0]).sum())
    smoothed = cross_entropy(logits, jnp.array([0]), 0.3)
    assert smoothed[0] == pytest.approx(-(0.8 * log_p[0] + 0.1 * log_p[1] + 0.1 * log_p[2]))


@pytest.mark.parametrize(
    "field",
    ["model.mutual", "model.gates", "model.interaction", "pairs.choice", "pairs.kinds"],
)
def test_unknown_value_lists_the_valid_ones(field):
    config = default_config()
    config.update_from_flattened_dict({field: "cosine"})
    with pytest.raises(
        InputError, match=f"{field} = 'cosine': valid are {', '.join(CHOICES[field])}"
    ):
        check_config(config)
