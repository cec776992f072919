"""ConvNeXts compute what timm's do, and pool as they do."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numeric import max_error, named_noise
from trunk_figures import assert_golden_maps, named_variables

from apinet_jax.method.interaction import APINet
from apinet_jax.models.convnext import ConvNeXt
from apinet_jax.models.weights.torch_names import load_torch_tensors, to_torch_tensors
from apinet_jax.system.errors import InputError


def tiny(**options):
    return ConvNeXt((1, 1), (8, 16), **options)


@pytest.mark.parametrize(
    "name", ["test_convnext", pytest.param("convnext_tiny", marks=pytest.mark.slow)]
)
def test_golden_convnext(name, goldens_dir):
    """The images fill no whole patches."""
    assert_golden_maps(name, np.load(goldens_dir / f"{name}.npz"))


def test_features_are_normalised_after_pooling():
    """By the definition: mean over the cells, then LayerNorm over the channels."""
    images = jnp.asarray(named_noise("images", (2, 16, 24, 3)), jnp.float32)
    trunk = tiny()
    variables = named_variables(trunk, images)
    model = APINet(trunk, 16, 3, interaction="none")

    @jax.jit
    def maps_and_features(params):
        apply = partial(model.apply, {"params": {"trunk": params}}, images)
        return trunk.apply({"params": params}, images, train=False), *(
            apply(train=False, method=method) for method in ("feature_map", "features")
        )

    feature_map, normalised, features = map(np.asarray, maps_and_features(variables["params"]))
    pooled = feature_map.mean((1, 2))
    spread = np.sqrt(pooled.var(1, keepdims=True) + 1e-6)
    scale, bias = (variables["params"][f"head.norm.{name}"] for name in ("weight", "bias"))
    expected = (pooled - pooled.mean(1, keepdims=True)) / spread * np.asarray(scale) + bias[None]
    assert max_error(features, expected) < 1e-6
    assert max_error(normalised.mean((1, 2)), features) < 1e-6


@pytest.mark.parametrize("size", [(3, 40), (7, 24)])
def test_too_small_images_are_refused(size):
    model = APINet(tiny(), 16, 3, interaction="none")
    with pytest.raises(InputError, match="too small for this trunk"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *size, 3)))


def test_tensors_have_timm_names():
    variables = named_variables(tiny(), jnp.zeros((1, 16, 16, 3)))
    tensors = to_torch_tensors(variables)
    assert tensors["stages.1.downsample.1.weight"].shape == (16, 8, 2, 2)
    assert tensors["stages.1.blocks.0.conv_dw.weight"].shape == (16, 1, 7, 7)
    assert tensors["stages.1.blocks.0.mlp.fc1.weight"].shape == (64, 16)
    assert tensors["stages.1.blocks.0.gamma"].shape == tensors["head.norm.weight"].shape == (16,)
    classifier = {"head.fc.weight": np.zeros((5, 16), np.float32)}
    restored = load_torch_tensors(tensors | classifier, variables, ("head.fc.",))
    jax.tree.map(np.testing.assert_array_equal, restored, variables)
