"""Maps of a pair: the channels of each gate, and evidence that sums to a logit."""

import io

import numpy as np
import pytest
from PIL import Image

from apinet_jax.answers.pairs.compare import Comparison
from apinet_jax.answers.pairs.maps import most_active, pair_gates, pair_maps
from apinet_jax.answers.pairs.picture import Side, draw_comparison

BIRD = "夜鷹 \U0001f426"  # letters that Matplotlib's font lacks


@pytest.fixture(scope="module")
def two(photos):
    return [photos / f"test/class{label}/0.png" for label in (0, 1)]


def test_most_active_channels_are_those_that_a_gate_adds_to():
    gates, features = np.array([0.9, 0.6, 0.5, 0.5]), np.array([0.0, 1.0, -2.0, 1.0])
    assert most_active(gates, features, 3).tolist() == [2, 1, 3]


def test_gates_do_not_depend_on_the_order(run, two):
    features = run.features(two)
    own, reversed_ = (pair_gates(run, *pair[:, None]) for pair in (features, features[::-1]))
    np.testing.assert_array_equal(own, reversed_[::-1])


def test_evidence_sums_to_the_logit(run, two):
    found = pair_maps(run, two)
    features, logits = run.describe(two)
    gates = np.concatenate(pair_gates(run, *features[:, None]))
    for side in (0, 1):
        label = int(logits[side].argmax())
        for evidence, gate in zip(
            found.evidence[side], (gates[side], gates[1 - side]), strict=True
        ):
            expected = features[side] * (1 + gate) @ run.kernel + run.bias
            bias = run.bias[label] - run.bias.mean()
            total = expected[label] - expected.mean()
            np.testing.assert_allclose(evidence.cells.sum() + bias, total, rtol=1e-3, atol=1e-5)
            odds = np.exp((expected - expected[label]) / (1.5 * run.temperature))
            assert evidence.probability == pytest.approx(1 / odds.sum(), rel=1e-3)
        gate = found.gates[side]
        np.testing.assert_allclose(gate.gates, gates[side][gate.channels], rtol=1e-5)
        means = gate.maps[side].mean(axis=(1, 2))
        np.testing.assert_allclose(means, features[side][gate.channels], rtol=1e-4, atol=1e-6)


def test_evidence_of_a_softmax_run_is_that_of_the_prediction(softmax_run, two):
    found = pair_maps(softmax_run, two)
    assert found.gates is None
    for photo, evidence in zip(two, found.evidence, strict=True):
        [(_, probability)] = softmax_run.predict([photo], top=1)[0]
        assert len(evidence) == 1
        assert evidence[0].probability == pytest.approx(probability, rel=1e-4)


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_picture(run, softmax_run, two, kind):
    sides = [
        Side(
            Comparison(same, -1.0, 0.5, (f"A very long name {BIRD}", 0.5), ("$x^$", 1.0), "why"),
            pair_maps(one, two),
        )
        for one, same in ((run, 0.9), (softmax_run, None))
    ]
    for run_, baseline in (sides, (sides[1], None)):
        drawn = draw_comparison(run_, ["a" * 200, f"$_$\udcff {BIRD}.jpg"], baseline, kind)
        with Image.open(io.BytesIO(drawn)) as picture:
            assert picture.width == 1650
