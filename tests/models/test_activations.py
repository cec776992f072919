"""Activations have torch's values and gradients, and are computed once."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apinet_jax.models.activations import relu, relu6
from apinet_jax.models.operations import portable_operations, stored
from apinet_jax.system.compiler_options import compiler_options

POINTS = np.array([-1.0, 0.0, 2.0, 6.0, 7.0], np.float32)


@pytest.mark.parametrize(
    ("activation", "values", "slopes"),
    [(relu, [0, 0, 2, 6, 7], [0, 0, 1, 1, 1]), (relu6, [0, 0, 2, 6, 6], [0, 0, 1, 0, 0])],
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_values_and_gradients_at_the_bounds(activation, values, slopes, dtype):
    x = jnp.asarray(POINTS, dtype)
    for result, expected in (
        (activation(x), values),
        (jax.vmap(jax.grad(activation))(x), slopes),
    ):
        assert result.dtype == dtype
        np.testing.assert_array_equal(result, expected)
    with portable_operations():
        np.testing.assert_array_equal(activation(x), values)


@pytest.mark.parametrize("activation", [relu, relu6])
def test_what_is_not_a_number_stays_visible(activation):
    assert jnp.isnan(activation(jnp.float32(jnp.nan)))


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_only_programs_for_cpus_have_barriers(platform):
    def loss(x):
        return stored(x * x).sum()

    traced = jax.jit(jax.value_and_grad(loss)).trace(jnp.ones(3))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    barriers = text.count("stablehlo.optimization_barrier")
    assert barriers == (2 if platform == "cpu" else 0)  # for the value and for its gradient
    np.testing.assert_array_equal(jax.grad(loss)(jnp.arange(3.0)), [0, 2, 4])


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="barriers are for CPUs")
@pytest.mark.parametrize("activation", [relu, relu6, lambda x: stored(jnp.sin(x))])
def test_work_of_a_block_does_not_grow_with_the_depth(activation):
    def most_read(activation, depth):
        """Return how many arrays the widest elementwise operation of a gradient reads."""

        def loss(x, kernels):
            for kernel in kernels:
                x = activation(x + x @ kernel)
            return x.sum()

        step = jax.jit(jax.grad(loss), compiler_options=compiler_options("cpu"))
        compiled = step.lower(jnp.ones((256, 64)), [jnp.ones((64, 64))] * depth).compile()
        fused = re.findall(r" fusion\((.*)\), kind=kLoop", compiled.as_text())
        return max(operands.count("%") for operands in fused)

    assert most_read(activation, depth=8) == most_read(activation, depth=4)
    assert most_read(jax.nn.relu, depth=8) > most_read(jax.nn.relu, depth=4)  # what XLA does
