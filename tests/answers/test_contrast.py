"""Contrast maps: they sum to the difference of the logits, for every kind of trunk."""

import re
from functools import partial

import jax
import numpy as np
import pytest

from apinet_jax.answers.explanation.contrast import (
    contrast_bias,
    contrast_map,
    gate_contrast,
    mirror_average,
)
from apinet_jax.method.classify import classify_images
from apinet_jax.method.interaction import APINet
from apinet_jax.method.trunk_pass import Preprocess
from apinet_jax.models import TRUNKS, make_trunk, trunk_spec
from apinet_jax.models.layers import normalise

KERNEL = np.array([[1.0, 0.0, 3.0], [2.0, 5.0, 0.0]], np.float32)  # [D C]
BIAS = np.array([0.5, 0.25, 0.0], np.float32)
# One row of two cells.
FEATURES = np.array([[[4.0, 0.0], [2.0, 2.0]]], np.float32)  # [h w D]


def test_by_hand():
    contrast = contrast_map(FEATURES, KERNEL, 0, 1)  # weights 1, -3; two cells
    np.testing.assert_allclose(contrast, [[2.0, -2.0]])
    assert contrast_bias(BIAS, 0, 1) == 0.25
    x = FEATURES.mean(axis=(0, 1))
    logits = x @ KERNEL + BIAS
    assert contrast.sum() + 0.25 == logits[0] - logits[1]


def test_gamma_and_relu():
    np.testing.assert_allclose(contrast_map(FEATURES, KERNEL, 0, 1, gamma=0.0), [[2.0, 3.0]])
    finer = contrast_map(FEATURES, KERNEL, 0, 1, gamma=0.6, relu=True)  # weights 1, -1
    np.testing.assert_allclose(finer, [[2.0, 0.0]], atol=1e-6)


def test_a_class_for_each_image():
    batch = np.stack([FEATURES, FEATURES])
    found = contrast_map(batch, KERNEL, np.array([0, 2]), np.array([1, 1]))
    np.testing.assert_allclose(found[0], [[2.0, -2.0]])
    np.testing.assert_allclose(found[1], contrast_map(FEATURES, KERNEL, 2, 1))


def test_gate_contrast_by_hand():
    gates = np.array([0.75, 0.0], np.float32)
    found = gate_contrast(FEATURES, gates, KERNEL, 0, 1)  # weights 1/4, 3/2
    np.testing.assert_allclose(found, [[0.5, 1.75]])


# What compiles within seconds; the others run with the slow tests. Of trunks that differ only in
# the numbers of their blocks and channels, the smallest stands for all.
FAST = ("squeezenet1_1", "test_tiny", "test_convnext")
LARGER = re.compile(
    "large|convnext_(small|base)|swin_(small|base)|lite[1-4]|vit_base_.*dino|vit_small_patch14_dino"
    "|resnet(18|34|101|152)|densenet161"
)
EACH = [
    pytest.param(name, marks=() if name in FAST else pytest.mark.slow)
    for name in TRUNKS
    if not LARGER.search(name)
]


@pytest.mark.parametrize("name", EACH)
def test_sums_to_the_difference(name):
    spec = trunk_spec(name)
    model = APINet(make_trunk(name), spec.width, num_classes=3, interaction="none")
    height, width = (2 * 14, 3 * 14) if spec.patch == 14 else (64, 96)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (2, height, width, 3), np.uint8)
    variables = random_variables(model, images, random)
    preprocess = Preprocess(spec.mean, spec.std)

    def feature_map(variables, pixels):
        normal = normalise(pixels, preprocess.mean, preprocess.std, preprocess.dtype)
        return model.apply(variables, normal, method=APINet.feature_map)

    both = jax.jit(feature_map)(variables, np.concatenate([images, images[:, :, ::-1]]))
    plain, mirrored = np.split(np.asarray(both), 2)
    classify = partial(classify_images, model=model, preprocess=preprocess)
    kernel, bias = variables["params"]["fc"]["kernel"], variables["params"]["fc"]["bias"]
    for flip, maps in ((False, plain), (True, mirror_average(plain, mirrored))):
        logits = np.asarray(
            jax.jit(partial(classify, flip=flip))(
                variables["params"], variables.get("batch_stats", {}), images
            )
        )
        contrast = contrast_map(maps, kernel, 2, 0)
        total = contrast.sum(axis=(1, 2)) + contrast_bias(bias, 2, 0)
        scale = np.abs(logits).max()
        np.testing.assert_allclose(total, logits[:, 2] - logits[:, 0], rtol=0, atol=1e-4 * scale)
        assert np.ptp(contrast, axis=(1, 2)).min() > 0  # a map, not one number


def random_variables(model, images, random):
    """Random weights from shapes only: initialising a large trunk takes longer."""
    shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images / 255)

    def fill(path, leaf):
        if path[0].key == "batch_stats":
            return np.full(leaf.shape, path[-1].key == "var", np.float32)
        scale = max(1, np.prod(leaf.shape[:-1])) ** -0.5
        return scale * random.standard_normal(leaf.shape, np.float32)

    return jax.tree_util.tree_map_with_path(fill, shapes)
