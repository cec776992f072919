"""Drop path in a training step: only while the trunk learns, and anew in each step."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apinet_jax.data.batch import Batch
from apinet_jax.method.interaction import APINet
from apinet_jax.method.objective import Objective
from apinet_jax.method.optim import cosine_schedule, make_optimizer
from apinet_jax.method.steps import init_state, train_step
from apinet_jax.method.trunk_pass import Preprocess, trunk_features
from apinet_jax.models.convnext import ConvNeXt

PREPROCESS = Preprocess((0.5,) * 3, (0.25,) * 3)
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)
KEY = jax.random.key(0)


def network(drop_path):
    return APINet(ConvNeXt((2, 2), (8, 16), drop_path=drop_path), 16, 2, hidden=8)


@pytest.fixture(scope="module")
def variables():
    params = jax.jit(network(0.0).init)(KEY, jnp.zeros((1, 32, 32, 3)))["params"]
    scaled = {  # the layer scales begin at 1e-6
        name: layers | {"gamma": jnp.ones_like(layers["gamma"])} if "blocks" in name else layers
        for name, layers in params["trunk"].items()
    }
    return {"params": params | {"trunk": scaled}}


@pytest.mark.parametrize("stage", ["frozen", "full"])
def test_a_frozen_trunk_drops_nothing(stage):
    optimizer = make_optimizer(
        cosine_schedule(0.1, 10),
        momentum=0.9,
        weight_decay=0.0,
        decay_bn_bias=True,
        frozen_steps=2 if stage == "frozen" else 0,
    )

    def program(drop_path):
        model = network(drop_path)
        step = partial(
            train_step,
            model=model,
            optimizer=optimizer,
            objective=Objective(),
            preprocess=PREPROCESS,
            stage=stage,
        )
        state = jax.eval_shape(partial(init_state, model, optimizer, crop=32), KEY)
        rows = np.arange(4, dtype=np.int32)
        return str(jax.make_jaxpr(step)(state, Batch(PIXELS, rows // 2, rows, rows < 4), KEY))

    assert (program(0.5) == program(0.0)) == (stage == "frozen")


def test_microbatches_draw_separately(variables):
    twice = jnp.concatenate([PIXELS, PIXELS])

    @partial(jax.jit, static_argnames=("drop_path", "microbatches"))
    def features(key, drop_path, microbatches):
        model, rest = network(drop_path), (PREPROCESS, microbatches, 1, key)
        return trunk_features(model, variables, twice, *rest)[0].reshape(2, 4, -1)

    first, second = features(KEY, 0.5, 2)
    assert jnp.abs(first - second).max() > 1e-3
    np.testing.assert_array_equal(features(KEY, 0.5, 2)[0], first)
    plain = features(None, 0.5, 2)
    np.testing.assert_allclose(plain[0], plain[1], atol=1e-5)
    np.testing.assert_allclose(features(KEY, 0.0, 1), plain, atol=1e-5)
