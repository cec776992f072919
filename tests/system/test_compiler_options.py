"""Options of XLA: accepted by it, and of the effect that is meant."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from apinet_jax.method.interaction import APINet
from apinet_jax.method.steps import Preprocess, make_eval_step
from apinet_jax.models import make_trunk
from apinet_jax.system.compiler_options import compiler_options
from apinet_jax.system.mesh import make_mesh

LIBRARY = "ynn_fusion"

on_cpu = pytest.mark.skipif(
    jax.default_backend() != "cpu" or jax.__version_info__ >= (0, 11),
    reason="these options are for CPUs with jax 0.10",
)


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


@pytest.mark.parametrize("flag", ["xla_cpu_experimental_ynn_fusion_type", "xla_disable_hlo_passes"])
def test_choice_of_the_user_stays(flag, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    options = compiler_options("cpu")
    monkeypatch.setenv("XLA_FLAGS", f"--{flag}=")
    assert compiler_options("cpu") == {name: options[name] for name in options if name != flag}


@on_cpu
def test_convolutions_leave_ynnpack_and_products_stay():
    options = {"compiler_options": compiler_options("cpu")}
    convolution = ((8, 28, 28, 16), (3, 3, 16, 64))
    assert LIBRARY in program(convolve, *convolution)
    assert LIBRARY not in program(convolve, *convolution, **options)
    assert LIBRARY in program(jnp.matmul, (256, 512), (512, 256), **options)


@on_cpu
def test_steps_are_compiled_with_the_options():
    model = APINet(make_trunk("resnet10_w16"), 128, num_classes=4, interaction="none")
    preprocess = Preprocess((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    step = make_eval_step(make_mesh(jax.devices()[:1]), model=model, preprocess=preprocess)
    images = jax.ShapeDtypeStruct((8, 64, 64, 3), jnp.uint8)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3))))
    compiled = step.lower(shapes["params"], shapes["batch_stats"], images).compile()
    libraries, main = compiled.as_text().split("\nENTRY ")
    assert " convolution(" not in libraries
    assert " convolution(" in main
