"""Maps over photos."""

import numpy as np

from apinet_jax.answers.pictures import overlay

PHOTO = np.full((8, 8, 3), (90, 120, 150), np.uint8)


def test_zero_map_leaves_a_grey_photo():
    assert (overlay(PHOTO, np.zeros((2, 2)), signed=True) == 120).all()


def test_sign_decides_the_colour():
    values = np.array([[1.0, -1.0], [1.0, -1.0]])
    drawn = overlay(PHOTO, values, signed=True).astype(int)
    assert drawn[4, 0, 0] > drawn[4, 0, 2]  # red
    assert drawn[4, 7, 2] > drawn[4, 7, 0]  # blue
    unsigned = overlay(PHOTO, values)
    assert (unsigned[4, 7] == 120).all()
    assert (unsigned[4, 0] != 120).any()
