"""Drop path: residuals of some images are dropped in training, by a rule of the random stream."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from numeric import max_error
from trunk_figures import named_variables

from apinet_jax.models import check_trunk, make_trunk
from apinet_jax.models.convnext import ConvNeXt
from apinet_jax.models.layers import drop_path
from apinet_jax.models.swin import Swin
from apinet_jax.models.vit import ViT
from apinet_jax.system.errors import InputError

SMALL = {
    "convnext": partial(ConvNeXt, (1, 2), (8, 16)),
    "swin": partial(Swin, (2, 1), (1, 2), width=8, window=3),
    "vit": partial(ViT, 8, 3, width=16, depth=3, heads=2),
}
IMAGES = jax.random.normal(jax.random.key(0), (6, 24, 24, 3))


class Residual(nn.Module):
    rate: float

    @nn.compact
    def __call__(self, x):
        return drop_path(self, x, self.rate)


def test_by_hand():
    """A residual is dropped for all of an image, or scaled by 1 / (1 - rate)."""
    ones = jnp.ones((1000, 2, 3))
    y = Residual(0.2).apply({}, ones, rngs={"drop_path": jax.random.key(0)})
    assert set(np.unique(y).tolist()) == {0, 1.25}
    np.testing.assert_array_equal(y, jnp.broadcast_to(y[:, :1, :1], y.shape))
    assert abs(y.mean() - 1) < 0.05  # three standard errors are 0.047
    np.testing.assert_array_equal(Residual(0.2).apply({}, ones), ones)  # without a stream


@pytest.mark.parametrize("kind", SMALL)
def test_rates_rise_from_the_first_block(kind, monkeypatch):
    rates = []

    def recorded(block, residual, rate):
        rates.append(rate)
        return residual

    monkeypatch.setattr(f"apinet_jax.models.{kind}.drop_path", recorded)
    trunk = SMALL[kind](drop_path=0.4)
    jax.eval_shape(partial(trunk.init, train=True), jax.random.key(0), IMAGES)
    each = 1 if kind == "convnext" else 2  # residuals of a block
    np.testing.assert_allclose(rates, np.repeat([0, 0.2, 0.4], each))


@pytest.mark.parametrize("kind", SMALL)
def test_is_a_function_of_the_stream(kind):
    trunk = SMALL[kind](drop_path=0.5)
    variables = named_variables(trunk, IMAGES)

    @jax.jit
    def feature_map(key):
        return trunk.apply(variables, IMAGES, True, rngs={"drop_path": key})

    first, again, other = (feature_map(jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(again, first)
    assert (first != other).any()


def test_rematerialised_blocks_draw_the_same_again():
    trunks = [
        ViT(8, 3, width=8, depth=2, heads=1, remat=r, drop_path=0.9) for r in ("none", "full")
    ]
    variables = named_variables(trunks[0], IMAGES)

    def size(images, trunk):
        rngs = {"drop_path": jax.random.key(1)}
        return jnp.square(trunk.apply(variables, images, True, rngs=rngs)).sum()

    expected, found = (jax.jit(jax.grad(partial(size, trunk=t)))(IMAGES) for t in trunks)
    assert max_error(found, expected) < 1e-5


def test_trunks_without_it_are_refused():
    assert make_trunk("convnext_tiny", drop_path=0.1).drop_path == 0.1
    check_trunk(None, None, drop_path=0.1)
    check_trunk("resnet50", None)
    with pytest.raises(InputError, match=r"drop_path = 0\.1, but resnet50 .*choose one of .*swin_"):
        make_trunk("resnet50", drop_path=0.1)
