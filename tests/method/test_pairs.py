"""Pair mining: by hand-computed distances, masks, ties and the reference indices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apinet_jax.method.pairs import mine_pairs, squared_distances

pytestmark = pytest.mark.usefixtures("strict_dtypes")

# Points on a line, so that distances can be read off.
LINE = jnp.array([[0.0], [1.0], [3.0], [7.0], [7.5]])


def test_squared_distances_by_hand():
    distances = squared_distances(jnp.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]]))
    np.testing.assert_allclose(distances, [[0, 25, 1], [25, 0, 18], [1, 18, 0]])


def test_partners_by_hand():
    labels = jnp.array([0, 1, 0, 1, 0])
    pairs = mine_pairs(LINE, labels, jnp.arange(5))
    assert pairs.intra.tolist() == [2, 3, 0, 1, 2]
    assert pairs.inter.tolist() == [1, 0, 1, 4, 3]
    assert pairs.intra_valid.all()
    assert pairs.inter_valid.all()


def test_ties_go_to_the_lowest_index():
    features = jnp.array([[0.0], [1.0], [-1.0], [1.0], [-1.0]])
    pairs = mine_pairs(features, jnp.array([0, 0, 0, 1, 1]), jnp.arange(5))
    assert pairs.intra[0] == 1
    assert pairs.inter[0] == 3


def test_only_image_of_a_class_has_no_intra_pair():
    pairs = mine_pairs(LINE, jnp.array([0, 1, 1, 1, 1]), jnp.arange(5))
    assert pairs.intra_valid.tolist() == [False, True, True, True, True]
    assert pairs.inter_valid.all()


def test_one_class_has_no_inter_pairs():
    pairs = mine_pairs(LINE, jnp.zeros(5, jnp.int32), jnp.arange(5))
    assert not pairs.inter_valid.any()
    assert pairs.intra_valid.all()


def test_copies_never_pair():
    features = jnp.array([[0.0], [0.0], [5.0], [9.0]])
    pairs = mine_pairs(features, jnp.array([0, 0, 0, 1]), jnp.array([4, 4, 8, 9]))
    assert pairs.intra.tolist()[:3] == [2, 2, 0]
    only_copies = mine_pairs(features, jnp.array([0, 0, 1, 1]), jnp.array([4, 4, 8, 9]))
    assert only_copies.intra_valid.tolist() == [False, False, True, True]


def test_choice_has_no_gradient():
    gradient = jax.grad(lambda x: jnp.sum(squared_distances(x)))(LINE)
    assert not gradient.any()


def test_bfloat16_features_are_compared_in_float32():
    assert squared_distances(LINE.astype(jnp.bfloat16)).dtype == jnp.float32


def test_both_distances_choose_the_same_partners():
    key_x, key_y = jax.random.split(jax.random.key(0))
    features = jax.random.normal(key_x, (48, 16))
    labels = jax.random.randint(key_y, (48,), 0, 6)
    squared = mine_pairs(features, labels, jnp.arange(48), "sq_euclidean")
    root = mine_pairs(features, labels, jnp.arange(48), "euclidean")
    assert all(bool(jnp.array_equal(a, b)) for a, b in zip(squared, root, strict=True))


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("distance", ["sq_euclidean", "euclidean"])
def test_golden_indices(goldens_dir, index, distance):
    golden = np.load(goldens_dir / f"head_{index}.npz")
    labels = jnp.asarray(golden["labels"])
    pairs = mine_pairs(jnp.asarray(golden["features"]), labels, jnp.arange(len(labels)), distance)
    assert pairs.intra.tolist() == golden["intra"].tolist()
    assert pairs.inter.tolist() == golden["inter"].tolist()
    assert pairs.intra_valid.all()
    assert pairs.inter_valid.all()
