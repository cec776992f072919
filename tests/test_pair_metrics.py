"""Verification figures of pairs, against values computed by hand."""

import numpy as np
import pytest

from benchmarks.pair_metrics import (
    all_pairs,
    auroc,
    equal_error_rate,
    far_at_tar,
    hardest_pairs,
    pair_calibration_error,
    roc_curve,
    tar_at_far,
)


def curve(scores, same):
    return roc_curve(np.array(scores, float), np.array(same, bool))


def test_auroc_counts_ordered_pairs_and_half_of_ties():
    # Same: 4, 2. Different: 3, 2, 1, 0. Of 8 comparisons 4 win for the 4, and 2 + 1/2 for the 2.
    found = curve([4, 2, 3, 2, 1, 0], [1, 1, 0, 0, 0, 0])
    assert auroc(found) == pytest.approx(6.5 / 8)
    assert auroc(curve([2, 1], [1, 0])) == 1
    assert auroc(curve([1, 2], [1, 0])) == 0
    assert auroc(curve([1, 1, 1], [1, 0, 0])) == 0.5


def test_equal_error_rate():
    # At threshold 2: one of four different pairs accepted, one of four same pairs rejected.
    assert equal_error_rate(curve([9, 8, 7, 1, 2, 0, 0, 0], [1] * 4 + [0] * 4)) == 0.25
    assert equal_error_rate(curve([2, 1], [1, 0])) == 0
    assert equal_error_rate(curve([1, 2], [1, 0])) == 1
    # From (0, 0.5) to (1, 1): FAR = 1 - TAR at 1/3.
    assert equal_error_rate(curve([2, 1, 1], [1, 1, 0])) == pytest.approx(1 / 3)


def test_tar_at_far_is_conservative():
    scores, same = [9, 8, 7, 6, 5, 4, 3, 2], [1, 1, 0, 1, 0, 1, 0, 0]
    # Accepted down to 6: TAR 3/4 at FAR 1/4; down to 4: TAR 1 at FAR 1/2.
    found = curve(scores, same)
    assert tar_at_far(found, 0.0) == 0.5
    assert tar_at_far(found, 0.24) == 0.5
    assert tar_at_far(found, 0.25) == 0.75
    assert tar_at_far(found, 0.5) == 1
    assert tar_at_far(curve([1, 1], [1, 0]), 0.5) == 0  # a tie is not split


def test_far_at_tar():
    found = curve([9, 8, 7, 6, 5, 4, 3, 2], [1, 1, 0, 1, 0, 1, 0, 0])
    assert far_at_tar(found, 0.5) == 0
    assert far_at_tar(found, 0.75) == 0.25
    assert far_at_tar(found, 0.95) == 0.5
    assert far_at_tar(curve([1, 1], [1, 0]), 0.95) == 1


def test_calibration_error_of_weighted_pairs():
    # One bin at 0.9: one pair of the same class of weight 1/2, one of three others of weight 1/6.
    probability, same = np.array([0.9, 0.9, 0.1, 0.1]), np.array([True, False, False, False])
    high = abs((1 / 2 + 1 / 6) * 0.9 - 1 / 2)
    low = 2 / 6 * 0.1
    assert pair_calibration_error(probability, same, 0.5) == pytest.approx(high + low)
    assert pair_calibration_error(np.array([1.0, 0.0]), np.array([True, False]), 0.5) == 0


def test_hardest_pairs_are_the_nearest_of_another_class():
    labels = np.array([0, 0, 1, 2])
    # Pairs:            01 02 03 12 13 23
    scores = np.array([9, 1, 5, 4, 2, 3], float)
    # 0 and 3 are nearest to each other, 1 to 2, 2 to 1.
    assert hardest_pairs(scores, labels).tolist() == [0, 2, 3]
    assert all_pairs(4)[2:4].tolist() == [[0, 3], [1, 2]]


@pytest.mark.parametrize(("scores", "same"), [([1, 2], [1, 1]), ([1, np.nan], [1, 0])])
def test_no_curve(scores, same):
    with pytest.raises(ValueError, match=r"needed|finite"):
        curve(scores, same)
