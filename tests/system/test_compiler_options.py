"""Options of XLA: accepted by it, and of the effect that is meant."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from apinet_jax.system.compiler_options import compiler_options

LIBRARY = "ynn_fusion"


@pytest.mark.parametrize("deterministic", [True, False])
def test_deterministic_option_is_only_for_gpus(deterministic):
    option = "xla_gpu_exclude_nondeterministic_ops"
    assert compiler_options("gpu", deterministic) == ({option: True} if deterministic else {})
    assert option not in compiler_options("cpu", deterministic)
    assert compiler_options("tpu", deterministic) == {}
    # XLA knows the option by this name; others are refused on any platform.
    jax.jit(lambda x: x + 1, compiler_options=compiler_options("gpu", deterministic))(1)


def convolve(x, kernel):
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def program(function, *shapes, **options):
    arguments = [jnp.zeros(shape) for shape in shapes]
    return jax.jit(function, **options).lower(*arguments).compile().as_text()


def test_choice_of_the_user_stays(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_experimental_ynn_fusion_type=")
    assert compiler_options("cpu") == {}


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="these are programs for CPUs")
@pytest.mark.skipif(jax.__version_info__ >= (0, 11), reason="the default is as fast there")
def test_convolutions_leave_ynnpack_and_products_stay():
    options = {"compiler_options": compiler_options("cpu")}
    convolution = ((8, 28, 28, 16), (3, 3, 16, 64))
    assert LIBRARY in program(convolve, *convolution)
    assert LIBRARY not in program(convolve, *convolution, **options)
    assert LIBRARY in program(jnp.matmul, (256, 512), (512, 256), **options)
