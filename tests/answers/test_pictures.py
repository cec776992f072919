"""Maps over photos."""

import numpy as np

from apinet_jax.answers.pictures import enlarge, overlay

PHOTO = np.full((8, 8, 3), (90, 120, 150), np.uint8)


def test_zero_map_leaves_a_grey_photo():
    assert (overlay(PHOTO, np.zeros((2, 2)), trunk="test_tiny", signed=True) == 120).all()


def test_sign_decides_the_colour():
    values = np.array([[1.0, -1.0], [1.0, -1.0]])
    drawn = overlay(PHOTO, values, trunk="test_tiny", signed=True).astype(int)
    assert drawn[4, 0, 0] > drawn[4, 0, 2]  # red
    assert drawn[4, 7, 2] > drawn[4, 7, 0]  # blue
    unsigned = overlay(PHOTO, values, trunk="test_tiny")
    assert (unsigned[4, 7] == 120).all()
    assert (unsigned[4, 0] != 120).any()


def test_cells_are_where_the_trunk_sees_them():
    values = np.zeros((3, 4))
    values[1, 2] = 1

    def peak(trunk):
        enlarged = enlarge(values, 96, 128, trunk)
        assert enlarged.shape == (96, 128)
        return np.unravel_index(enlarged.argmax(), enlarged.shape)

    assert peak("resnet50") == (32, 64)
    # 16 pixels a cell from 7.5 on: all cells of 3 x 4 are in the upper left part.
    assert peak("vit_base_patch16_224") in {(y, x) for y in (23, 24) for x in (39, 40)}
