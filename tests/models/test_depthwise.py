"""Both formulations of the depthwise convolution agree with its definition, gradients included."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numeric import max_error

from apinet_jax.models.depthwise import (
    depthwise_conv,
    plain_depthwise_conv,
    summed_depthwise_conv,
)
from apinet_jax.models.operations import pads_of
from apinet_jax.system.mesh import make_mesh, replicated, sharded_by_batch


def definition(x, kernel, stride, pads):
    side, x = len(kernel), np.pad(x, ((0, 0), *pads, (0, 0)))
    h, w = ((size - side) // stride + 1 for size in x.shape[1:3])
    y = np.zeros((len(x), h, w, x.shape[-1]))
    for i, j in np.ndindex(h, w):
        window = x[:, stride * i : stride * i + side, stride * j : stride * j + side]
        y[:, i, j] = (window * kernel[:, :, 0]).sum((1, 2))
    return y


@pytest.mark.parametrize(
    ("images", "side", "stride", "padding", "size"),
    [
        (8, 3, 1, "SAME", (5, 4)),
        (2, 3, 2, "SAME", (6, 7)),
        (1, 5, 2, "SAME", (8, 3)),
        (4, 3, 2, 0, (6, 7)),  # the last row of pixels is not used
        (3, 7, 1, 3, (4, 9)),
    ],
)
def test_equals_its_definition(images, side, stride, padding, size):
    """The gradients are those of a sum weighted with noise, by linearity."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(images, *size, 3)).astype(np.float32)
    kernel = generator.normal(size=(side, side, 1, 3)).astype(np.float32)
    pads = pads_of(padding, size, side, stride)
    expected = definition(x, kernel, stride, pads)
    cotangent = generator.normal(size=expected.shape).astype(np.float32)

    def gradient(argument, of):
        unit = np.eye(argument.size).reshape(-1, *argument.shape)
        return np.array([(of(one) * cotangent).sum() for one in unit]).reshape(argument.shape)

    def of_x(one):
        return definition(one, kernel, stride, pads)

    def of_kernel(one):
        return definition(x, one, stride, pads)

    for formulation in (
        lambda x, kernel: summed_depthwise_conv(x, kernel, stride, pads),
        partial(plain_depthwise_conv, stride=stride, pads=pads),
        partial(depthwise_conv, stride=stride, padding=padding),
    ):
        with jax.numpy_dtype_promotion("strict"):
            y, pull_back = jax.vjp(formulation, jnp.asarray(x), jnp.asarray(kernel))
            by_x, by_kernel = pull_back(jnp.asarray(cotangent))
        assert max_error(y, expected) < 1e-6
        assert max_error(by_x, gradient(x, of_x)) < 1e-6
        assert max_error(by_kernel, gradient(kernel, of_kernel)) < 1e-6


@pytest.mark.parametrize("devices", [2, 4])
def test_devices_that_share_a_batch_gather_no_images(devices):
    def loss(x, kernel):
        return summed_depthwise_conv(x, kernel, 1, ((1, 1), (1, 1))).sum()

    mesh = make_mesh(jax.devices()[:devices])
    x = jax.ShapeDtypeStruct((8, 4, 4, 3), jnp.float32, sharding=sharded_by_batch(mesh))
    kernel = jax.ShapeDtypeStruct((3, 3, 1, 3), jnp.float32, sharding=replicated(mesh))
    text = jax.jit(jax.grad(loss, (0, 1))).lower(x, kernel).compile().as_text()
    assert "all-reduce" in text
    assert "all-gather" not in text


def test_same_padding_adds_the_odd_zero_at_the_end():
    assert pads_of("SAME", (6, 7), 3, 2) == ((0, 1), (1, 1))
    assert pads_of("SAME", (6, 7), 5, 2) == ((1, 2), (2, 2))
    assert pads_of(2, (6, 7), 5, 2) == ((2, 2), (2, 2))


def test_half_precision_adds_in_float32():
    """In bfloat16, 256 + 1 is 256."""
    x = jnp.ones((1, 3, 3, 1), jnp.bfloat16).at[0, 0, 0].set(256)
    kernel = jnp.ones((3, 3, 1, 1), jnp.bfloat16)
    y, pull_back = jax.vjp(partial(depthwise_conv, stride=1, padding=0), x, kernel)
    assert y.dtype == jnp.bfloat16
    assert y.item() == 264
    assert all(leaf.dtype == jnp.bfloat16 for leaf in pull_back(jnp.ones_like(y)))


@pytest.mark.parametrize(("platform", "plain"), [("cpu", False), ("cuda", True), ("tpu", True)])
def test_each_platform_compiles_its_formulation(platform, plain):
    def loss(x, kernel):
        return depthwise_conv(x, kernel, stride=2, padding="SAME").sum()

    arrays = jnp.ones((1, 7, 7, 2)), jnp.ones((3, 3, 1, 2))
    traced = jax.jit(jax.grad(loss, argnums=(0, 1))).trace(*arrays)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert ("stablehlo.convolution" in text) == plain
