"""Both formulations of each operation agree with torch's definition, gradients included."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numeric import max_error

from apinet_jax.models.operations import (
    chained_max_pool,
    classifier_product,
    conv,
    max_pool,
    plain_conv,
    plain_max_pool,
    pointwise_conv,
)


def reference_max_pool(x, window, stride, padding, ceil_mode):
    """Pools one plane as torch documents it; returns the maxima and how often each cell won."""
    sizes = []
    for size in x.shape:
        span = size + 2 * padding - window
        out = (int(np.ceil(span / stride)) if ceil_mode else span // stride) + 1
        sizes.append(out - 1 if (out - 1) * stride >= size + padding else out)
    maxima, wins = np.zeros(sizes), np.zeros(x.shape)
    for i, j in np.ndindex(*sizes):
        rows = range(i * stride - padding, i * stride - padding + window)
        columns = range(j * stride - padding, j * stride - padding + window)
        cells = [(r, c) for r in rows for c in columns if 0 <= r < len(x) and 0 <= c < len(x[0])]
        winner = max(cells, key=lambda cell: x[cell])  # the first of equals
        maxima[i, j] = x[winner]
        wins[winner] += 1
    return maxima, wins


@pytest.mark.parametrize(
    ("shape", "window", "stride", "padding", "ceil_mode"),
    [
        ((7, 8), 3, 2, 0, True),
        ((6, 9), 3, 2, 0, True),
        ((7, 8), 3, 2, 1, False),
        ((5, 4), 2, 2, 1, True),
        ((4, 5), 1, 3, 0, True),  # a ceil-mode window would start beyond the image
    ],
)
@pytest.mark.parametrize("formulation", ["platform", "plain"])
def test_max_pool_gradient_of_ties_goes_to_the_first(
    shape, window, stride, padding, ceil_mode, formulation, monkeypatch
):
    if formulation == "plain":
        monkeypatch.setattr("apinet_jax.models.operations.chained_max_pool", plain_max_pool)
    x = np.random.default_rng(0).integers(-4, -1, shape).astype(np.float32)  # many ties, all < 0
    maxima, wins = reference_max_pool(x, window, stride, padding, ceil_mode)

    def pool(x):
        y = max_pool(x[None, ..., None], window, stride, padding, ceil_mode)
        return y.sum(), y[0, ..., 0]

    gradient, y = jax.jit(jax.grad(pool, has_aux=True))(x)
    np.testing.assert_array_equal(y, maxima)
    np.testing.assert_array_equal(gradient, wins)


@pytest.mark.parametrize("pool", [plain_max_pool, chained_max_pool])
def test_max_pool_never_hides_nan(pool):
    x = jnp.array([1.0, jnp.nan, 3.0, 0.0]).reshape(1, 2, 2, 1)
    assert jnp.isnan(pool(x, 2, 2, [(0, 0), (0, 0)])).all()


@pytest.mark.parametrize("stride", [1, 2])
def test_pointwise_convolution_equals_plain_convolution(stride):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (2, 7, 5, 6))
    kernel = jax.random.normal(keys[1], (1, 1, 6, 4))
    cotangent = jax.random.normal(keys[2], (2, *((n - 1) // stride + 1 for n in (7, 5)), 4))

    def value_and_gradients(formulation):
        y, pull_back = jax.vjp(formulation, x, kernel)
        return y, *pull_back(cotangent)

    expected = value_and_gradients(partial(plain_conv, stride=stride, padding=0))
    for formulation in (
        partial(pointwise_conv, stride=stride),
        partial(conv, stride=stride, padding=0),
    ):
        for a, b in zip(value_and_gradients(formulation), expected, strict=True):
            assert max_error(a, b) < 1e-6


@pytest.mark.parametrize(("platform", "plain"), [("cpu", False), ("cuda", True), ("tpu", True)])
def test_each_platform_compiles_its_formulation(platform, plain):
    def loss(x, kernel):
        return max_pool(conv(x, kernel, stride=1, padding=0), window=3, stride=2).sum()

    arrays = jnp.ones((1, 7, 7, 2)), jnp.ones((1, 1, 2, 2))
    traced = jax.jit(jax.grad(loss, argnums=(0, 1))).trace(*arrays)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert ("stablehlo.convolution" in text) == plain
    assert ("stablehlo.select_and_scatter" in text) == plain
    if platform == jax.default_backend():
        assert "conditional" not in traced.lower().compile().as_text()


@pytest.mark.parametrize("shape", [(5,), (7, 5), (2, 7, 5)])
def test_gradients_are_those_of_a_plain_product(shape):
    draw = np.random.default_rng(0)
    x, kernel = (jnp.asarray(draw.standard_normal(s), jnp.float32) for s in (shape, (5, 3)))
    weights = jnp.asarray(draw.standard_normal((*shape[:-1], 3)), jnp.float32)

    def gradients(product):
        return jax.vjp(product, x, kernel)[1](weights)

    for ours, plain in zip(gradients(classifier_product), gradients(jnp.matmul), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-6)
