"""What users expect in a recipe: each setting tested for its effect, by hand where it can be."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from apinet_jax.data.transforms import random_resized_crop_flip
from apinet_jax.method.calibration import calibration_error, fit_temperature
from apinet_jax.method.interaction import APINet
from apinet_jax.method.optim import cosine_schedule, make_optimizer
from apinet_jax.models.vit import ViT

PARAMS = {"trunk": {"w": jnp.array([1.0, -2.0])}, "fc": {"w": jnp.array([3.0, 0.5])}}
GRADS = [
    {"trunk": {"w": jnp.array([0.5, 1.0])}, "fc": {"w": jnp.array([-1.0, 2.0])}},
    {"trunk": {"w": jnp.array([0.1, -0.4])}, "fc": {"w": jnp.array([0.3, 0.2])}},
]
AUTHORS = {"momentum": 0.9, "weight_decay": 0.01, "decay_bn_bias": True, "frozen_steps": 0}


def trajectory(optimizer):
    params, state = PARAMS, optimizer.init(PARAMS)
    for grads in GRADS:
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params


def by_hand(lr, nesterov, factor=1.0):
    """PyTorch's SGD, one leaf at a time."""
    result = {}
    for group in PARAMS:
        w, buffer = np.array(PARAMS[group]["w"]), 0.0
        rate = lr * (factor if group != "trunk" else 1)
        for grads in GRADS:
            g = np.array(grads[group]["w"]) + 0.01 * w
            buffer = 0.9 * buffer + g
            w = w - rate * (g + 0.9 * buffer if nesterov else buffer)
        result[group] = w
    return result


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("factor", [1.0, 10.0])
def test_sgd_by_hand(nesterov, factor):
    optimizer = make_optimizer(lambda _: 0.1, **AUTHORS, nesterov=nesterov, head_lr_factor=factor)
    ours, expected = trajectory(optimizer), by_hand(0.1, nesterov, factor)
    for group in PARAMS:
        np.testing.assert_allclose(ours[group]["w"], expected[group], rtol=1e-5)


def test_adamw_equals_optax():
    ours = trajectory(make_optimizer(lambda _: 0.1, **AUTHORS, rule="adamw"))
    reference = trajectory(optax.adamw(0.1, b1=0.9, weight_decay=0.01))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, reference)


def test_adamw_starts_when_the_trunk_thaws():
    frozen = {**AUTHORS, "frozen_steps": 1}
    ours = trajectory(make_optimizer(lambda _: 0.1, **frozen, rule="adamw"))
    one = optax.adamw(0.1, b1=0.9, weight_decay=0.01)
    updates, _ = one.update(GRADS[1], one.init(PARAMS), PARAMS)
    expected = optax.apply_updates(PARAMS, updates)["trunk"]["w"]
    np.testing.assert_allclose(ours["trunk"]["w"], expected, rtol=1e-6)


@pytest.mark.parametrize("everything", [True, False])
def test_which_parameters_decay(everything):
    trunk = ViT(
        8, 2, registers=1, layer_scale=("ls1.gamma", "ls2.gamma"), width=8, depth=1, heads=2
    )
    network = APINet(trunk, 8, 3, hidden=4)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), shapes)
    recipe = {**AUTHORS, "decay_bn_bias": everything}
    optimizer = make_optimizer(lambda _: 0.1, **recipe)
    no_gradient = jax.tree.map(jnp.zeros_like, params)
    updates, _ = jax.jit(optimizer.update)(no_gradient, optimizer.init(params), params)
    decayed = {path for path, update in flatten_dict(updates).items() if update.any()}
    every = set(flatten_dict(params))
    leaves = {path[-1] for path in every}
    assert {"kernel", "bias", "scale", "ls1.gamma", "cls_token", "pos_embed"} <= leaves
    assert decayed == (every if everything else {path for path in every if path[-1] == "kernel"})


def test_warm_up_by_hand():
    schedule = cosine_schedule(0.8, 12, warmup_steps=4)
    rates = [float(schedule(step)) for step in range(12)]
    assert rates[:5] == pytest.approx([0.2, 0.35, 0.5, 0.65, 0.8])
    assert rates[8] == pytest.approx(0.4)  # half of the cosine's 8 steps
    assert rates[11] == pytest.approx(0.4 * (1 + math.cos(math.pi * 7 / 8)), rel=1e-4)


def gradient_image(size):
    """Return an image whose pixels encode their position."""
    rows, columns = np.mgrid[:size, :size].astype(np.uint8)
    return np.stack([rows, columns, np.zeros_like(rows)], axis=-1)


def test_random_resized_crops():
    image = gradient_image(200)
    areas, aspects, mirrored = [], [], 0
    for slot in range(300):
        cut = random_resized_crop_flip(image, 64, 1, 2, slot, min_area=0.3).astype(int)
        assert cut.shape == (64, 64, 3)
        mirrored += cut[0, 0, 1] > cut[0, -1, 1]
        # The ends of a resized ramp lie half a pixel of the result inside it.
        height = (cut[-1, 0, 0] - cut[0, 0, 0]) * 64 / 63
        width = abs(cut[0, -1, 1] - cut[0, 0, 1]) * 64 / 63
        areas.append(height * width / 200**2)
        aspects.append(width / height)
    assert 0.27 < min(areas) < 0.36
    assert 0.85 < max(areas) <= 1.02
    assert 0.7 < min(aspects) < 0.8
    assert 1.25 < max(aspects) < 1.45
    assert 110 < mirrored < 190


def test_random_resized_crop_depends_on_its_key():
    image = gradient_image(50)
    first = random_resized_crop_flip(image, 16, 3, 5, 7, 0.2)
    np.testing.assert_array_equal(first, random_resized_crop_flip(image, 16, 3, 5, 7, 0.2))
    for other in ((4, 5, 7), (3, 6, 7), (3, 5, 8)):
        assert not np.array_equal(first, random_resized_crop_flip(image, 16, *other, 0.2))


def test_random_resized_crop_of_the_full_area():
    image = gradient_image(32)
    cut = random_resized_crop_flip(image, 32, 0, 0, 0, min_area=1.0)
    assert np.array_equal(cut, image) or np.array_equal(cut, image[:, ::-1])


def logits_of(probability):
    return np.log(np.array([[p, 1 - p] for p in probability]))


def test_calibration_error_by_hand():
    """Two images at 0.9, one of them right; two at 0.6, both right."""
    logits = logits_of([0.9, 0.9, 0.6, 0.6])
    labels = np.array([0, 1, 0, 0])
    assert calibration_error(logits, labels) == pytest.approx(0.5 * 0.4 + 0.5 * 0.4)
    assert calibration_error(logits_of([1 - 1e-12] * 4), np.zeros(4, int)) < 1e-9
    assert math.isnan(calibration_error(np.full((2, 2), np.nan), np.zeros(2, int)))


def test_temperature_corrects_overconfidence():
    random = np.random.default_rng(0)
    honest = random.normal(size=(4000, 5))
    probability = np.exp(honest) / np.exp(honest).sum(1, keepdims=True)
    labels = np.array([random.choice(5, p=row) for row in probability])
    assert fit_temperature(3 * honest, labels) == pytest.approx(3, rel=0.06)
    before = calibration_error(3 * honest, labels)
    assert calibration_error(3 * honest, labels, 3.0) < 0.03 < 0.2 < before


def test_temperature_bounds():
    assert fit_temperature(np.full((2, 2), np.inf), np.zeros(2, int)) == 1
