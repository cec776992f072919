"""Figures of a report, against values computed by hand."""

import numpy as np
import pytest

from apinet_jax.answers.report import figures
from apinet_jax.answers.report.figures import Bin

# Six images of three classes; the predictions are 0 0 1 1 0 2.
LABELS = np.array([0, 0, 0, 1, 1, 2])
PROBABILITY = np.array(
    [
        [0.8, 0.1, 0.1],
        [0.6, 0.3, 0.1],
        [0.3, 0.5, 0.2],
        [0.1, 0.7, 0.2],
        [0.9, 0.05, 0.05],
        [0.2, 0.2, 0.6],
    ]
)


def test_headline():
    found = figures.headline(np.log(PROBABILITY), LABELS, 1.0)
    assert found.images == 6
    assert found.top1 == pytest.approx(4 / 6)
    assert found.macro == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert found.top5 == 1.0
    assert found.interval.low < 4 / 6 < found.interval.high
    # Bins of 1/15: 0.8 | 0.6 0.6 | 0.5 | 0.7 | 0.9, with accuracies 1 | 1 1 | 0 | 1 | 0.
    expected = (0.2 + 2 * 0.4 + 0.5 + 0.3 + 0.9) / 6
    assert found.ece == found.ece_scaled == pytest.approx(expected)


def test_class_table():
    first, second, third = figures.class_table(PROBABILITY, LABELS)
    assert (first.images, first.precision, first.recall) == (3, 2 / 3, 2 / 3)
    assert first.f1 == pytest.approx(2 / 3)
    # Scores of class 0: 0.8 0.6 0.3 of its own, 0.1 0.9 0.2 of others: 2 + 2 + 2 of 9 pairs.
    assert first.auroc == pytest.approx(6 / 9)
    assert (first.confused_with, first.mistakes) == (1, 1)
    assert (second.confused_with, second.mistakes) == (0, 1)
    assert (third.precision, third.recall, third.confused_with) == (1.0, 1.0, None)


def test_class_without_images_has_no_figures():
    *_, empty = figures.class_table(np.eye(4)[:3], np.arange(3))
    assert (empty.images, empty.precision, empty.recall, empty.f1, empty.auroc) == (0, *[None] * 4)


def test_auroc_counts_ties_half():
    scores = np.array([0.5, 0.5, 0.1, 0.9])
    assert figures.auroc(scores, np.array([True, False, False, True])) == pytest.approx(3.5 / 4)
    assert figures.auroc(scores, np.ones(4, bool)) is None


def test_confused_pairs_are_ranked():
    labels = np.array([1, 1, 0, 2, 2])
    probability = np.array(
        [[0.6, 0.4, 0.0], [0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.0, 0.7, 0.3], [0.1, 0.1, 0.8]]
    )
    most, least = figures.confused_pairs(probability, labels)
    # Two images of class 1 are named 0, one of class 0 is named 1; the most confident is first.
    assert most == (1, 0, 3, (1, 0), (2,))
    assert least == (2, 1, 1, (3,), ())


def test_losses_are_of_the_true_class():
    expected = -np.log([0.8, 0.6, 0.3, 0.7, 0.05, 0.6])
    np.testing.assert_allclose(figures.losses(PROBABILITY, LABELS), expected)
    assert np.isfinite(figures.losses(np.array([[0.0, 1.0]]), np.array([0]))).all()


def test_reliability_bins_are_those_of_the_calibration_error():
    bins = figures.reliability(PROBABILITY, LABELS)
    assert [one.images for one in bins] == [1, 2, 1, 1, 1]
    assert bins[1] == Bin(2, pytest.approx(0.6), 1.0)
    gap = sum(one.images * abs(one.confidence - one.accuracy) for one in bins) / 6
    assert gap == pytest.approx(figures.headline(np.log(PROBABILITY), LABELS, 1.0).ece)


def test_coverage_takes_the_surest_first():
    # By confidence: 0.9 wrong, 0.8, 0.7, 0.6, 0.6 right, 0.5 wrong.
    found = {
        share: (one.images, one.accuracy) for share, one in figures.coverage(PROBABILITY, LABELS)
    }
    assert found[0.1] == (1, 0.0)
    assert found[0.5] == (3, pytest.approx(2 / 3))
    assert found[0.9] == (6, pytest.approx(4 / 6))
    assert found[1.0] == (6, pytest.approx(4 / 6))


def test_terciles():
    correct = np.array([True, True, False, True, False, False])
    low, medium, high = figures.by_terciles(np.array([1.0, 2, 3, 4, 5, 6]), correct)
    assert [part[:2] for part in (low, medium, high)] == [(1, 2), (3, 4), (5, 6)]
    assert [part[2].accuracy for part in (low, medium, high)] == [1.0, 0.5, 0.0]
    assert low[2].interval.low > 0.3


def test_equal_values_are_one_part():
    ((least, most, share),) = figures.by_terciles(np.full(4, 7.0), np.array([True] * 3 + [False]))
    assert (least, most, share.images, share.accuracy) == (7, 7, 4, 0.75)
