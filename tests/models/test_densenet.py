"""DenseNets compute what torchvision's do, and take the names that its older files have."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numeric import max_error, sample
from trunk_figures import assert_deep_golden, map_and_gradient, named_variables

from apinet_jax.models.densenet import DenseNet
from apinet_jax.models.operations import avg_pool
from apinet_jax.models.weights.torch_names import load_torch_tensors, to_torch_tensors


@pytest.mark.slow
def test_golden_densenet161(goldens_dir):
    golden = np.load(goldens_dir / "densenet161.npz")
    assert_deep_golden("densenet161", ("features.norm5",), golden)


@pytest.mark.slow
def test_golden_densenet121(goldens_dir):
    """Both sides are computed in float64, where rounding flips no ReLU."""
    golden = np.load(goldens_dir / "densenet121.npz")
    with jax.numpy_dtype_promotion("strict"), jax.enable_x64(True):
        (figures,) = map_and_gradient("densenet121", [(2, 70, 101)], jnp.float64, train=True)
    feature_map, gradient = (sample(figures[key]) for key in ("feature_map", "gradient"))
    assert max_error(feature_map, golden["2x70x101/training/feature_map"]) < 1e-6
    assert max_error(gradient, golden["2x70x101/training/gradient"]) < 1e-3


def test_old_torchvision_names():
    variables = named_variables(DenseNet((1, 2), 4, 8), jnp.zeros((1, 32, 32, 3)))
    tensors = to_torch_tensors(variables)
    layer = re.compile(r"(denselayer\d\.(?:norm|conv))(\d)")
    old = {layer.sub(r"\1.\2", name): tensor for name, tensor in tensors.items()}
    assert "features.denseblock2.denselayer2.norm.1.running_mean" in old
    assert "features.transition1.norm.weight" in old
    loaded = load_torch_tensors(old, variables, ("classifier.",))
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)


def test_avg_pool_drops_incomplete_windows():
    x = jnp.arange(15.0).reshape(1, 3, 5, 1)
    np.testing.assert_array_equal(
        avg_pool(x, 2).ravel(), [(0 + 1 + 5 + 6) / 4, (2 + 3 + 7 + 8) / 4]
    )
