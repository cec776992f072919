"""ConvNeXts compute what timm's do, and pool as they do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numeric import max_error
from trunk_figures import assert_golden_maps, named_variables

from apinet_jax.method.interaction import APINet
from apinet_jax.models.convnext import ConvNeXt
from apinet_jax.models.weights.torch_names import load_torch_tensors, to_torch_tensors
from apinet_jax.system.errors import InputError


def tiny(**options):
    return ConvNeXt((1, 1), (8, 16), **options)


def test_golden_convnext(goldens_dir):
    """The image fills no whole patches."""
    assert_golden_maps("convnext_tiny", np.load(goldens_dir / "convnext_tiny.npz"))


def test_features_are_normalised_after_pooling():
    """By the definition: mean over the cells, then LayerNorm over the channels."""
    images = jax.random.normal(jax.random.key(0), (2, 16, 24, 3))
    trunk = tiny()
    variables = named_variables(trunk, images)
    feature_map = trunk.apply(variables, images, train=False)
    pooled = feature_map.mean((1, 2))
    centred = pooled - pooled.mean(1, keepdims=True)
    deviation = jnp.sqrt(jnp.square(centred).mean(1, keepdims=True) + 1e-6)
    scale, bias = (variables["params"][f"head.norm.{name}"][None] for name in ("weight", "bias"))
    model = APINet(trunk, 16, 3, interaction="none")
    head = model.init(jax.random.key(1), images)["params"]
    variables = {"params": {**head, "trunk": variables["params"]}}
    features = model.apply(variables, images, train=False, method="features")
    assert max_error(features, centred / deviation * scale + bias) < 1e-6
    maps = model.apply(variables, images, method="feature_map")
    assert max_error(maps.mean((1, 2)), features) < 1e-6


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
