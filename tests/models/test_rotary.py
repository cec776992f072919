"""Rotary positions by hand; that they are DINOv3's is tested on its golden figures."""

import jax.numpy as jnp
import numpy as np

from apinet_jax.models.rotary import rotary_positions, rotate


def test_angles_by_hand():
    """Two rows and one column: the vertical coordinates are -1/2 and 1/2, the horizontal one 0."""
    cos, sin = rotary_positions((2, 1), prefix=1, channels=8, dtype=jnp.float32)
    slow = np.pi / 10  # the second of the periods 1 and 10
    angles = [[0, 0, 0, 0], [-np.pi, -slow, 0, 0], [np.pi, slow, 0, 0]]
    np.testing.assert_allclose(cos, np.cos(np.tile(angles, 2)), atol=1e-6)
    np.testing.assert_allclose(sin, np.sin(np.tile(angles, 2)), atol=1e-6)


def test_channels_rotate_with_the_other_half():
    rotation = rotary_positions((1, 2), prefix=0, channels=4, dtype=jnp.float32)
    x = jnp.array([[1.0, 2.0, 3.0, 4.0]] * 2).reshape(1, 2, 1, 4)
    # Horizontal coordinates -1/2 and 1/2, period 1: half a turn of channels 1 and 3.
    np.testing.assert_allclose(
        rotate(x, rotation)[0, :, 0], [[1.0, -2.0, 3.0, -4.0]] * 2, atol=1e-6
    )


def test_only_relative_positions_count():
    """Products of queries and keys are those of their distance."""
    rotation = rotary_positions((4, 4), prefix=0, channels=16, dtype=jnp.float32)
    x = jnp.asarray(np.random.default_rng(0).standard_normal(16), jnp.float32)
    same = jnp.broadcast_to(x, (1, 16, 1, 16))
    turned = rotate(same, rotation)[0, :, 0]
    products = np.asarray(turned @ turned.T).reshape(4, 4, 4, 4)
    np.testing.assert_allclose(
        products[1:, 1:, 1:, 1:], products[:-1, :-1, :-1, :-1], rtol=1e-4, atol=1e-4
    )
    assert rotate(same.astype(jnp.bfloat16), rotation).dtype == jnp.bfloat16
