"""Where the cells of a feature map are in the image."""

import jax
import numpy as np
import pytest

from apinet_jax.models import make_trunk, trunk_spec


@pytest.mark.parametrize("name", ["test_tiny", "resnet10_w16", "squeezenet1_1"])
def test_centre_of_what_a_cell_sees(name):
    """Of three by three cells, the borders cut what the middle one sees on all sides alike."""
    spec = trunk_spec(name)
    centre = spec.first_centre(0) + spec.cell_step
    side = int(2 * centre + 1)
    trunk, images = make_trunk(name), jax.random.normal(jax.random.key(0), (4, side, side, 3))
    variables = jax.jit(lambda key: trunk.init(key, images, train=False))(jax.random.key(1))

    def middle_cell(images):
        feature_map = trunk.apply(variables, images, train=False)
        assert feature_map.shape[1:3] == (3, 3)
        return (feature_map[:, 1, 1] ** 2).sum()

    seen = np.square(jax.jit(jax.grad(middle_cell))(images)).sum(axis=(0, 3))
    for axis in (0, 1):
        found = seen.sum(axis=1 - axis) @ np.arange(side) / seen.sum()
        assert abs(found - centre) < spec.cell_step / 3
