"""Pair calibration: the prior, both maps, the choice between them, and what is stored."""

import math
import tracemalloc

import numpy as np
import pytest

import apinet_jax
from apinet_jax.answers.pairs import calibration as pair_calibration
from apinet_jax.answers.pairs.calibration import (
    PairCalibration,
    calibration_pairs,
    fit_map,
    fit_pair_calibration,
)
from apinet_jax.system.errors import InputError
from benchmarks.pair_metrics import all_pairs

LINE = PairCalibration("logistic", (0.0, 2.0), (0.0, math.log(9)), 0, 0)


def test_prior_shifts_the_log_odds():
    scores = np.array([0.0, 1.0, 2.0])
    np.testing.assert_allclose(LINE.probability(scores), [1 / 2, 3 / 4, 9 / 10])
    # Odds of 1:3 at a prior of 1/4.
    np.testing.assert_allclose(LINE.probability(scores, 1 / 4), [1 / 4, 1 / 2, 3 / 4])
    # Constant outside of the knots.
    np.testing.assert_allclose(LINE.probability(np.array([-1.0, 5.0])), [1 / 2, 9 / 10])


@pytest.mark.parametrize("prior", [0.0, 1.0, -0.5, math.nan])
def test_prior_must_be_a_share(prior):
    with pytest.raises(InputError, match="between 0 and 1"):
        LINE.probability(np.zeros(1), prior)


def test_isotonic_map_counts_pairs_of_equal_weight():
    # Score 0: three different pairs; 1: one of both kinds; 2: one of the same class.
    scores = np.array([0, 0, 0, 1, 1, 2.0])
    same = np.array([False, False, False, False, True, True])
    found = fit_map("isotonic", scores, same, images=4)
    # Weights 1/8 and 1/4. Targets 1/(4 + 2) and (2 + 1)/(2 + 2).
    middle = (1 / 8 * 1 / 6 + 1 / 4 * 3 / 4) / (1 / 8 + 1 / 4)
    np.testing.assert_allclose(found.probability(np.array([-9.0, 1, 9])), [1 / 6, middle, 3 / 4])
    assert (found.images, found.pairs) == (4, 6)


def test_logistic_map_of_separated_pairs():
    # Two scores and two parameters: the map reaches the targets 1/(2 + 2) and (2 + 1)/(2 + 2).
    scores, same = np.array([-3, -3, 5, 5.0]), np.array([False, False, True, True])
    found = fit_map("logistic", scores, same, images=4)
    np.testing.assert_allclose(found.probability(scores), [1 / 4, 1 / 4, 3 / 4, 3 / 4], rtol=1e-3)
    assert found.probability(np.array([1.0])) == pytest.approx(0.5, abs=1e-3)
    np.testing.assert_allclose(found.probability(np.array([-99.0, 99])), [1 / 4, 3 / 4])


def test_equal_scores_say_nothing():
    same = np.array([False, False, True, True])
    found = fit_map("logistic", np.ones(4), same, images=4)
    np.testing.assert_allclose(found.probability(np.array([-1.0, 1, 3])), 1 / 2, atol=1e-6)


def test_score_that_is_worse_than_chance():
    same = np.array([False, False, True, True])
    found = fit_map("logistic", np.array([1.0, 1, 0, 0]), same, images=4)
    np.testing.assert_allclose(found.probability(np.array([0.0, 1])), [3 / 4, 1 / 4], rtol=1e-3)
    assert found.scores[0] < found.scores[1]


def pairs_with_probability(curve, classes=6, images=12):
    """Labels, and scores of all pairs, such that `curve` is the odds of the same class."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), images)
    first, second = all_pairs(len(labels)).T
    same = labels[first] == labels[second]
    grid = np.linspace(-6, 6, 1201)
    p = 1 / (1 + np.exp(-curve(grid)))
    draw = {kind: random.choice(grid, size=len(same), p=w / w.sum()) for kind, w in
            ((True, p), (False, 1 - p))}  # fmt: skip
    return labels, np.where(same, draw[True], draw[False])


def test_the_better_map_is_chosen():
    labels, scores = pairs_with_probability(lambda score: score)
    found = fit_pair_calibration(labels, all_pairs(72), scores)
    assert found.method == "logistic"
    slope = (found.log_odds[1] - found.log_odds[0]) / (found.scores[1] - found.scores[0])
    assert slope == pytest.approx(1, abs=0.1)
    labels, scores = pairs_with_probability(lambda score: 4 * np.sign(score - 2))
    step = fit_pair_calibration(labels, all_pairs(72), scores)
    assert step.method == "isotonic"
    assert (np.diff(step.log_odds) >= 0).all()


def test_pairs_of_one_kind_cannot_be_calibrated():
    with pytest.raises(InputError, match="no two show the same class"):
        fit_pair_calibration(np.arange(3), all_pairs(3), np.zeros(3))
    with pytest.raises(InputError, match="no two show different classes"):
        fit_pair_calibration(np.zeros(3, int), all_pairs(3), np.zeros(3))


def test_few_images_give_a_line():
    found = fit_pair_calibration(np.array([0, 0, 1]), all_pairs(3), np.array([2.0, 0, 1]))
    assert found.method == "logistic"


def test_many_pairs_are_thinned_evenly():
    labels = np.array([0, 0, 0, 1, 1])  # 4 pairs of the same class and 6 others
    assert len(calibration_pairs(labels)) == 10
    # Same: 01 02 12 34. Different: 03 04 13 14 23 24.
    found = calibration_pairs(labels, most=2).tolist()
    assert found == [[0, 1], [0, 3], [2, 4], [3, 4]]


def test_only_the_chosen_pairs_need_memory():
    labels = np.random.default_rng(0).integers(0, 50, 3000)  # 4.5 million pairs
    tracemalloc.start()
    pairs = calibration_pairs(labels, most=1000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5e6
    assert (pairs[:, 0] < pairs[:, 1]).all()
    assert (labels[pairs[:, 0]] == labels[pairs[:, 1]]).sum() == 1000 == len(pairs) / 2


def test_map_is_fitted_once_and_without_photos_then(run, workdir, tmp_path, monkeypatch):
    expected = run.pair_calibration
    monkeypatch.setattr(pair_calibration, "pair_scores", lambda *_: pytest.fail("fitted again"))
    moved = apinet_jax.load(workdir, data_dir=str(tmp_path / "nowhere"))
    assert moved.pair_calibration == expected


def test_damaged_map_is_fitted_again(run, workdir):
    expected = run.pair_calibration
    path = workdir / "answers" / f"{run.step}-pairs.npz"
    path.write_bytes(path.read_bytes()[:50])
    assert apinet_jax.load(workdir).pair_calibration == expected
