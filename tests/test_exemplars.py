"""The candidates of the studies of pairs at test time, against values found by hand."""

import numpy as np

from benchmarks.exemplars import Known, Scored, hard_pairs

KNOWN = Known(
    rows=np.array([10, 11, 12]),
    labels=np.array([0, 0, 1]),
    features=np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]),
)


def test_nearest_exemplar_of_each_class():
    features = np.array([[0.6, 0.8], [1.0, 0.0]])
    assert KNOWN.nearest(features).tolist() == [[11, 12], [10, 12]]


def test_a_photo_is_not_its_own_exemplar():
    own = np.array([10])
    assert KNOWN.nearest(KNOWN.features[:1], own).tolist() == [[11, 12]]


def test_hard_pairs_are_the_true_class_and_the_likeliest_wrong_ones():
    logits = np.array([[5.0, 1.0, 3.0, 2.0, 4.0, 0.0]])
    nearest = np.array([[20, 21, 22, 23, 24, 25]])
    assert hard_pairs(logits, np.array([1]), nearest).tolist() == [[21, 20, 24, 22, 23]]


def scored(score):
    """Return two photos: the first is named right without a score, the second wrong."""
    log_p = np.log([[0.6, 0.4], [0.6, 0.4]])
    return Scored(log_p, {"pair": np.array(score)}, np.array([[True, False], [False, True]]))


def test_a_score_that_helps_has_a_weight():
    found = scored([[1.0, 0.0], [0.0, 1.0]])
    assert found.top1() == 50.0
    weight = found.weights()["pair"]
    assert weight > np.log(1.5)  # the least that changes the second answer
    assert found.top1("pair", weight) == 100.0


def test_a_score_that_misleads_has_the_weight_0():
    found = scored([[0.0, 1.0], [1.0, 0.0]])
    assert found.weights() == {"pair": 0.0}
    assert found.top1("pair", 0.0) == 50.0
