"""Features of pretrained weights are those of a run that starts from them."""

import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny_runs import config_for, save_trunk

import apinet_jax
from apinet_jax.batches import in_batches
from apinet_jax.method.interaction import APINet
from apinet_jax.models.layers import normalise
from apinet_jax.setup.auto import choose
from apinet_jax.setup.build import fresh_state, load_pretrained, make_program
from apinet_jax.system.errors import InputError
from apinet_jax.system.mesh import make_mesh

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.5, 0.125)
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (3, 24, 20, 3), np.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights of the tiny trunk, with the pixel statistics and size of their images."""
    path = save_trunk(tmp_path_factory.mktemp("weights") / "trunk.safetensors")
    about = {"pretrained_cfg": {"input_size": [3, 32, 32], "mean": MEAN, "std": STD}}
    path.with_suffix(".json").write_text(json.dumps(about))
    return path


@pytest.fixture(scope="module")
def trunk(weights):
    return apinet_jax.load_trunk(weights, device=jax.devices()[0])


def test_features_equal_those_of_a_run(trunk, weights, tmp_path):
    config = config_for(tmp_path, model__mean=MEAN, model__std=STD)
    config, _ = choose(config, np.repeat(np.arange(4), 9), 36, "cpu", 1, 2**34)
    mesh = make_mesh(jax.devices()[:1])
    program = make_program(config, 4, 36, mesh)
    state = load_pretrained(fresh_state(config, program, mesh), "test_tiny", weights)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    images = normalise(jnp.asarray(IMAGES), *program.preprocess[:2])
    expected = program.model.apply(variables, images, train=False, method=APINet.features)
    assert (trunk.mean, trunk.std) == (MEAN, STD)
    np.testing.assert_allclose(trunk.features(IMAGES), expected, rtol=1e-5, atol=1e-6)
    feature_map = trunk.feature_map(IMAGES)
    assert feature_map.shape == (3, 6, 5, 16)  # arrays are not resized
    np.testing.assert_allclose(feature_map.mean((1, 2)), expected, rtol=1e-5, atol=1e-6)


def test_the_class_token_can_be_the_feature(tmp_path):
    weights = save_trunk(tmp_path / "vit.safetensors", "test_vit")
    images = IMAGES[:, :16, :16]
    trunks = {pool: apinet_jax.load_trunk(weights, pool=pool) for pool in ("map", "token", "both")}
    assert [trunk.width for trunk in trunks.values()] == [16, 16, 32]
    found = {pool: trunk.features(images) for pool, trunk in trunks.items()}
    expected = np.concatenate([found["map"], found["token"]], axis=1)
    np.testing.assert_allclose(found["both"], expected, rtol=1e-5, atol=1e-6)


def test_a_blank_trunk_changes_nothing_else(weights, tmp_path):
    """The state of a run with pretrained weights, whose random trunk is not compiled."""
    config = config_for(tmp_path, optim__ema=0.9)
    config, _ = choose(config, np.repeat(np.arange(4), 9), 36, "cpu", 1, 2**34)
    mesh = make_mesh(jax.devices()[:1])
    program = make_program(config, 4, 36, mesh)
    states = [fresh_state(config, program, mesh, blank_trunk=blank) for blank in (False, True)]
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(states[1].params["trunk"]))
    expected, loaded = (load_pretrained(state, "test_tiny", weights) for state in states)
    assert jax.tree.structure(expected) == jax.tree.structure(loaded)
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(loaded), strict=True):
        np.testing.assert_array_equal(a, b)


def test_other_photos_are_resized_and_cropped(trunk, tmp_path):
    image = Image.fromarray(IMAGES[0])
    image.save(tmp_path / "photo.png")
    encoded = io.BytesIO()
    image.save(encoded, "png")
    photos = [image, tmp_path / "photo.png", str(tmp_path / "photo.png"), encoded.getvalue()]
    assert (trunk.resize, trunk.crop) == (37, 32)
    square = np.asarray(image.resize((37, 37), Image.Resampling.BILINEAR))
    pixels = trunk.pixels([*photos, IMAGES[0]])
    np.testing.assert_array_equal(pixels, [square[2:34, 2:34]] * 5)
    np.testing.assert_allclose(trunk.features(photos), trunk.features(pixels[:4]), rtol=1e-5)


def test_errors(trunk, weights, tmp_path):
    with pytest.raises(TypeError, match="a sequence"):
        trunk.features("photo.png")
    with pytest.raises(InputError, match="no photos"):
        trunk.features([])
    with pytest.raises(InputError, match="not one of uint8"):
        trunk.features(IMAGES.astype(np.float32))
    with pytest.raises(InputError, match=r"missing\.png cannot be read"):
        trunk.features([tmp_path / "missing.png"])
    with pytest.raises(InputError, match="no trunk named 'resnet5'"):
        apinet_jax.load_trunk(weights, "resnet5")
    with pytest.raises(InputError, match=r"does not fit model\.trunk = resnet18"):
        apinet_jax.load_trunk(weights, "resnet18")
    with pytest.raises(InputError, match=r"Cannot read the weights .*missing\.safetensors"):
        apinet_jax.load_trunk(tmp_path / "missing.safetensors")


def test_batches_are_padded_to_few_sizes():
    sizes = []

    def double(images):
        sizes.append(len(images))
        return {"twice": jnp.asarray(2 * images[:, 0, 0, 0])}

    rows = np.arange(11, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    found = in_batches(double, lambda part: rows[part], len(rows), 4, "Pass fewer.")
    np.testing.assert_array_equal(found["twice"], 2 * np.arange(11))
    assert sizes == [4, 4, 4]
    in_batches(double, lambda part: rows[part], 6, 4, "Pass fewer.")
    assert sizes[3:] == [4, 2]
