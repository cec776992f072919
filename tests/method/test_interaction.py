"""The interaction, its losses and gradients against the authors' program; the trajectory too."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numeric import max_error

from apinet_jax.method.interaction import APINet, attend, gate
from apinet_jax.method.losses import PairLogits, pair_loss
from apinet_jax.method.objective import pair_features
from apinet_jax.method.optim import cosine_schedule, make_optimizer
from apinet_jax.method.pairs import mine_pairs
from apinet_jax.method.types import PairIndex
from apinet_jax.models.layers import Trunk

TOLERANCE = 1e-5
LINEAR = ("map1", "map2", "fc")


class Linear(Trunk):
    """The linear backbone of the trajectory: vectors pass as images of one cell."""

    width: int

    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(self.width, name="conv")(x)


def network(golden, prefix, trunk=None):
    hidden, width = golden[f"{prefix}/map1.weight"].shape[0], golden[f"{prefix}/map2.bias"].shape[0]
    classes = golden[f"{prefix}/fc.bias"].shape[0]
    trunk = trunk or Linear(width)
    return APINet(trunk, width, classes, hidden=hidden, dropout=0.0)


def from_torch(golden, prefix, names):
    return {
        name: {
            "kernel": jnp.asarray(golden[f"{prefix}/{name}.weight"].T),
            "bias": jnp.asarray(golden[f"{prefix}/{name}.bias"]),
        }
        for name in names
    }


def loss_of_features(model, params, features, labels, pairs):
    x_1, x_2, labels_1, labels_2, valid = pair_features(features, labels, pairs)
    logits = model.apply({"params": params}, x_1, x_2, train=False, method="interact")
    terms = pair_loss(
        logits, labels_1, labels_2, valid, margin=0.05, rank_weight=1.0, reduction="code"
    )
    return terms.total, (terms, logits, labels_1, labels_2)


@pytest.fixture(params=range(4))
def head(request, goldens_dir):
    return np.load(goldens_dir / f"head_{request.param}.npz")


@pytest.mark.usefixtures("strict_dtypes")
def test_golden_head(head):
    model, params = network(head, "param"), from_torch(head, "param", LINEAR)
    features, labels = jnp.asarray(head["features"]), jnp.asarray(head["labels"])
    pairs = mine_pairs(features, labels, jnp.arange(len(labels)))
    objective = jax.value_and_grad(loss_of_features, argnums=(1, 2), has_aux=True)
    (_, (terms, logits, labels_1, labels_2)), (grads, grad_features) = jax.jit(
        objective, static_argnums=0
    )(model, params, features, labels, pairs)

    assert labels_1.ravel().tolist() == head["labels1"].tolist()
    assert labels_2.ravel().tolist() == head["labels2"].tolist()
    ours = PairLogits(*(x.reshape(-1, x.shape[-1]) for x in logits))  # [2 B C] -> [P C]
    assert max_error(ours.self_1, head["logit1_self"]) <= TOLERANCE
    assert max_error(ours.other_1, head["logit1_other"]) <= TOLERANCE
    assert max_error(ours.self_2, head["logit2_self"]) <= TOLERANCE
    assert max_error(ours.other_2, head["logit2_other"]) <= TOLERANCE
    assert max_error(terms.cross_entropy, head["ce"]) <= TOLERANCE
    assert max_error(terms.ranking, head["rank"]) <= TOLERANCE
    assert max_error(grad_features, head["grad_features"]) <= TOLERANCE
    theirs = from_torch(head, "grad", LINEAR)
    errors = jax.tree.map(max_error, grads, theirs)
    assert max(jax.tree.leaves(errors)) <= TOLERANCE, errors


def test_golden_single_images(head):
    model, params = network(head, "param"), from_torch(head, "param", LINEAR)
    features = jnp.asarray(head["features"])
    logits = model.apply({"params": params}, features, train=False, method="classify")
    assert max_error(logits, head["eval_logits"]) <= TOLERANCE


def test_golden_trajectory(goldens_dir):
    """Sixty steps through the real optimizer, the backbone frozen for the first eight."""
    golden = np.load(goldens_dir / "trajectory.npz")
    steps, frozen = int(golden["steps"]), int(golden["frozen_steps"])
    width = golden["init/conv.bias"].shape[0]
    model = network(golden, "init", Linear(width))
    params = {
        **from_torch(golden, "init", LINEAR),
        "trunk": from_torch(golden, "init", ["conv"]),
    }
    schedule = cosine_schedule(float(golden["base_lr"]), steps)
    optimizer = make_optimizer(
        schedule,
        momentum=float(golden["momentum"]),
        weight_decay=float(golden["weight_decay"]),
        decay_bn_bias=True,
        frozen_steps=frozen,
    )

    def objective(params, x, labels):
        images = x[:, None, None, :]  # [B 1 1 24]
        features = model.apply({"params": params}, images, train=True, method="features")
        pairs = mine_pairs(features, labels, jnp.arange(len(labels)))
        total, (terms, *_) = loss_of_features(model, params, features, labels, pairs)
        return total, (terms, pairs)

    @jax.jit
    def step(params, opt_state, x, labels):
        (_, (terms, pairs)), grads = jax.value_and_grad(objective, has_aux=True)(params, x, labels)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, terms, pairs

    opt_state, ce, rank = optimizer.init(params), [], []
    before = params["trunk"]
    for t in range(steps):
        x, labels = jnp.asarray(golden["x"][t]), jnp.asarray(golden["y"][t])
        params, opt_state, terms, pairs = step(params, opt_state, x, labels)
        assert [pairs.intra.tolist(), pairs.inter.tolist()] == golden["pairs"][t].tolist(), t
        ce.append(terms.cross_entropy)
        rank.append(terms.ranking)
        if t < frozen:
            assert jax.tree.all(jax.tree.map(jnp.array_equal, params["trunk"], before))

    assert max_error(np.array(ce), golden["ce"]) <= TOLERANCE
    assert max_error(np.array(rank), golden["rank"]) <= TOLERANCE
    lr = np.array([schedule(t) for t in range(steps)])
    assert np.abs(lr - golden["lr"]).max() <= TOLERANCE * golden["base_lr"]
    final = {
        **from_torch(golden, "final", LINEAR),
        "trunk": from_torch(golden, "final", ["conv"]),
    }
    errors = jax.tree.map(max_error, params, final)
    assert max(jax.tree.leaves(errors)) <= TOLERANCE, errors


def test_gates_and_attention_by_hand():
    x = jnp.array([2.0, -1.0])
    gates = gate(jnp.array([jnp.log(3.0) / 2, 0.0]), x)
    np.testing.assert_allclose(gates, [0.75, 0.5], rtol=1e-6)
    np.testing.assert_allclose(attend(x, gates), [3.5, -1.5], rtol=1e-6)


@pytest.mark.parametrize(("activation", "linear"), [("none", True), ("relu", False)])
def test_mutual_activation(activation, linear):
    model = APINet(Linear(4), 4, 3, hidden=8, dropout=0.0, mutual_activation=activation)
    variables = model.init(jax.random.key(0), jnp.ones((1, 1, 1, 4)))

    def mutual(x):
        return model.apply(variables, x, x, train=False, method="mutual_vector")

    x = jax.random.normal(jax.random.key(1), (5, 4))
    constant = mutual(jnp.zeros_like(x))
    doubles = np.allclose(mutual(2 * x) - constant, 2 * (mutual(x) - constant), atol=1e-5)
    assert doubles is linear


def test_dropout_masks_differ():
    model = APINet(Linear(64), 64, 3, dropout=0.5)
    variables = model.init(jax.random.key(0), jnp.ones((1, 1, 1, 64)))
    same = jnp.ones((1, 64))
    rngs = {"dropout": jax.random.key(1)}
    logits = model.apply(variables, same, same, train=True, rngs=rngs, method="interact")
    assert len({tuple(x.ravel().tolist()) for x in logits}) == 4


def test_missing_pairs_are_masked():
    features, labels = jnp.arange(6.0).reshape(3, 2), jnp.array([0, 1, 1])
    yes = jnp.array([False, True, True])
    pairs = PairIndex(jnp.array([0, 2, 1]), jnp.array([1, 0, 0]), yes, jnp.ones(3, bool))
    x_1, x_2, labels_1, labels_2, valid = pair_features(features, labels, pairs)
    assert valid.tolist() == [[False, True, True], [True, True, True]]
    assert x_1[0].tolist() == [[0, 0], [2, 3], [4, 5]]
    assert x_2[0].tolist() == [[0, 0], [4, 5], [2, 3]]
    assert labels_1[1].tolist() == [0, 1, 1]
    assert labels_2[1].tolist() == [1, 0, 0]
