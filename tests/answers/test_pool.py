"""Runs that classify the class token of a ViT, with and without the mean of its feature map."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import settings_for

import apinet_jax
from apinet_jax.answers.explanation.contrast import token_contrast
from apinet_jax.answers.pairs.maps import pair_gates, pair_maps
from apinet_jax.answers.pairs.scores import pair_temperature
from apinet_jax.config import default_config
from apinet_jax.method.calibration import softmax
from apinet_jax.method.types import TrainState
from apinet_jax.setup.build import make_network
from apinet_jax.system.errors import InputError
from apinet_jax.workdir.checkpoint import Checkpoints

WIDTH, CLASSES = 16, 4


def untrained(folder, photos, pool):
    """A run of no steps on a small ViT."""
    config = default_config()
    settings = {"data.name": "folder", "model.trunk": "test_vit", "model.pool": pool}
    config.update_from_flattened_dict(settings_for(photos) | settings)
    model, _ = make_network(config, CLASSES)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    state = TrainState(jnp.zeros((), jnp.int32), params, {}, ())
    names = [f"class{label}" for label in range(CLASSES)]
    with Checkpoints(folder, keep=1) as checkpoints:
        checkpoints.save(state, {"config": config.to_dict(), "class_names": names})
    return apinet_jax.load(folder, device=jax.devices()[0])


@pytest.fixture(scope="module")
def both(photos, tmp_path_factory):
    return untrained(tmp_path_factory.mktemp("both"), photos, "both")


@pytest.fixture(scope="module")
def token(photos, tmp_path_factory):
    return untrained(tmp_path_factory.mktemp("token"), photos, "token")


def test_features_are_classified(both, token, photos):
    photo = photos / "test/class0/0.png"
    features, (logits,) = both.describe([photo])
    assert both.kernel.shape == (2 * WIDTH, CLASSES)
    np.testing.assert_allclose(features[0, :WIDTH], both.feature_map([photo])[0].mean((0, 1)), 1e-4)
    np.testing.assert_allclose(features[0] @ both.kernel + both.bias, logits, rtol=1e-4)
    # Both have the same trunk, whose parameters are drawn by name.
    np.testing.assert_allclose(token.features([photo])[0], features[0, WIDTH:], rtol=1e-4)


def test_map_and_token_sum_to_the_difference(both, photos):
    run = apinet_jax.load(both.checkpoint, device=both.device)
    run.config.eval.flip = True
    found = run.explain(photos / "test/class0/0.png", exemplars=0)
    assert found.contrast.sum() + found.bias == pytest.approx(found.difference, abs=1e-5)
    biases = dict(zip(run.class_names, run.bias, strict=True))
    assert abs(found.bias - biases[found.predicted] + biases[found.against]) > 0.01
    assert found.bias_source == "biases, class token"


def test_the_token_has_no_map(token, photos):
    photo = photos / "test/class0/0.png"
    for answer in (lambda: token.explain(photo), lambda: pair_maps(token, [photo, photo])):
        with pytest.raises(InputError, match=r"model\.pool = token.*model\.pool=map"):
            answer()


def test_maps_of_a_pair_leave_the_token_out(both, photos):
    found = pair_maps(both, [photos / "test/class0/0.png", photos / "test/class1/0.png"])
    assert found.gates[0].channels.max() < WIDTH
    features, logits = both.describe_pixels(found.pixels)
    gates, _ = pair_gates(both, features[:1], features[1:])
    attentive = features[0] * (1 + gates[0]) @ both.kernel + both.bias
    expected = softmax(attentive[None], pair_temperature(both))[0, logits[0].argmax()]
    assert found.evidence[0][0].probability == pytest.approx(expected, abs=1e-5)


def test_token_contrast_by_hand():
    kernel = np.array(
        [[1.0, 0.0], [2.0, 5.0], [3.0, 1.0]]
    )  # one channel of the map, two of a token
    found = token_contrast(np.array([7.0, 1.0, 2.0]), np.zeros((1, 1, 1)), kernel, 0, 1)
    assert found == 1 * (2 - 5) + 2 * (3 - 1)
    assert token_contrast(np.array([7.0]), np.zeros((1, 1, 1)), kernel[:1], 0, 1) == 0
