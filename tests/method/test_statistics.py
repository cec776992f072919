"""Confidence intervals against values computed by hand."""

import pytest

from apinet_jax.method.statistics import wilson_interval


def test_wilson_by_hand():
    # p = 0.8, n = 10, z^2 = 3.84146: centre (0.8 + 0.192073) / 1.384146 = 0.716740,
    # half 1.959964 sqrt(0.016 + 0.009604) / 1.384146 = 0.226576
    assert wilson_interval(8, 10) == pytest.approx((0.490162, 0.943317), abs=2e-6)
    # Half of 4: centre 0.5, half 1.959964 sqrt(0.0625 + 0.060023) / 1.960365 = 0.349961
    assert wilson_interval(2, 4) == pytest.approx((0.150039, 0.849961), abs=2e-6)


def test_wilson_at_the_ends():
    # None of 10: 0 to z^2 / (n + z^2) = 3.841459 / 13.841459
    assert wilson_interval(0, 10) == pytest.approx((0, 0.277533), abs=1e-6)
    assert wilson_interval(10, 10) == pytest.approx((0.722467, 1), abs=1e-6)
    assert wilson_interval(0, 0) == (0, 1)


@pytest.mark.parametrize(("successes", "trials"), [(3, 2), (-1, 2)])
def test_wilson_of_impossible_counts(successes, trials):
    with pytest.raises(ValueError, match=f"{successes} successes"):
        wilson_interval(successes, trials)
