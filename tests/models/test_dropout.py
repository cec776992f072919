"""Our masks are JAX's, to the bit, and our module is Flax's."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apinet_jax.models.dropout import Dropout, keep_mask


@pytest.mark.parametrize("probability", [0.1, 0.3, 0.5, 0.999])
@pytest.mark.parametrize("shape", [(), (1,), (7, 33), (2, 12, 64)])
def test_masks_are_those_of_jax(probability, shape):
    key = jax.random.key(7)
    expected = jax.random.bernoulli(key, probability, shape)
    np.testing.assert_array_equal(keep_mask(key, probability, shape), expected)


@pytest.mark.parametrize(
    "setting", [{"jax_enable_x64": True}, {"jax_threefry_partitionable": False}]
)
def test_masks_under_other_settings(setting):
    with jax.enable_x64(setting.get("jax_enable_x64", False)):
        before = jax.config.jax_threefry_partitionable
        jax.config.update(
            "jax_threefry_partitionable", setting.get("jax_threefry_partitionable", before)
        )
        try:
            key = jax.random.key(7)
            expected = jax.random.bernoulli(key, 0.3, (5, 40))
            np.testing.assert_array_equal(keep_mask(key, 0.3, (5, 40)), expected)
        finally:
            jax.config.update("jax_threefry_partitionable", before)


def test_masks_of_another_generator():
    key = jax.random.key(7, impl="rbg")
    expected = jax.random.bernoulli(key, 0.3, (5, 40))
    np.testing.assert_array_equal(keep_mask(key, 0.3, (5, 40)), expected)


class Twice(nn.Module):
    """A parent that draws two masks, by our module or by Flax's."""

    ours: bool

    def setup(self):
        self.drop = Dropout(0.3) if self.ours else nn.Dropout(0.3)

    def __call__(self, x, train):
        if self.ours:
            return self.drop(self.drop(x, train), train)
        return self.drop(self.drop(x, deterministic=not train), deterministic=not train)


@pytest.mark.parametrize("train", [True, False])
def test_module_draws_as_flax_does(train, strict_dtypes):
    x = jnp.linspace(-1, 1, 600, dtype=jnp.float32).reshape(6, 100)
    rngs = {"dropout": jax.random.key(1)}
    ours, theirs = (Twice(ours).apply({}, x, train, rngs=rngs) for ours in (True, False))
    np.testing.assert_array_equal(ours, theirs)
    assert train == bool((ours == 0).sum() > 200)
