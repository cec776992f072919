"""EfficientNet-Lites compute what timm's do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numeric import max_error, named_noise, sample
from trunk_figures import map_and_gradient, named_variables

from apinet_jax.models import make_trunk, trunk_spec
from apinet_jax.models.depthwise import depthwise_conv
from apinet_jax.models.efficientnet import STAGES, first_cell

CASE, SHAPE = "1x33x44", (1, 33, 44)


def test_golden_lite0(goldens_dir):
    """One side of the image is odd, one even."""
    golden = np.load(goldens_dir / "tf_efficientnet_lite0.npz")
    images = jnp.asarray(named_noise("images", (*SHAPE, 3)), jnp.float32)
    trunk = make_trunk("tf_efficientnet_lite0")
    variables = named_variables(trunk, images)
    with jax.numpy_dtype_promotion("strict"):
        feature_map = jax.jit(trunk.apply, static_argnames="train")(variables, images, train=False)
    assert max_error(sample(feature_map), golden[f"{CASE}/evaluation/feature_map"]) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 4])
def test_golden_in_training(size, goldens_dir):
    """Both sides are computed in float64, where rounding flips no ReLU."""
    name = f"tf_efficientnet_lite{size}"
    golden = np.load(goldens_dir / f"{name}.npz")
    with jax.numpy_dtype_promotion("strict"), jax.enable_x64(True):
        (figures,) = map_and_gradient(name, [SHAPE], jnp.float64, train=True)
    for figure, tolerance in (("feature_map", 1e-6), ("gradient", 1e-3)):
        assert max_error(sample(figures[figure]), golden[f"{CASE}/training/{figure}"]) < tolerance


@pytest.mark.parametrize(("side", "expected"), [(224, 31), (240, 15), (260, 3), (300, 11), (65, 0)])
def test_where_the_first_cell_is(side, expected):
    """With an even number of cells before it, a strided layer moves the first cell by one."""
    assert first_cell(side) == trunk_spec("tf_efficientnet_lite2").first_centre(side) == expected


def test_cells_are_pixels_under_the_middle_taps():
    """Kernels with only that tap pick one pixel for each cell, here its own number."""

    @jax.jit
    def picked(pixels):
        for kernel_size, stride in ((3, 2), *((kernel, stride) for kernel, stride, *_ in STAGES)):
            middle = (kernel_size // 2,) * 2
            kernel = jnp.zeros((kernel_size, kernel_size, 1, 1)).at[middle].set(1)
            pixels = depthwise_conv(pixels, kernel, stride, "SAME")
        return pixels[0, 0, :, 0]

    pixels = jnp.broadcast_to(jnp.arange(84.0).reshape(1, 1, 84, 1), (1, 1, 84, 1))
    np.testing.assert_array_equal(picked(pixels), first_cell(84) + 32 * np.arange(3))
