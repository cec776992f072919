"""What exported files compute: the pixels of Pillow, and the answers of the run."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from apinet_jax.answers.pairs.calibration import PairCalibration
from apinet_jax.data.transforms import center_crop, resize
from apinet_jax.exports.programs import compare_photos, cut_crop

SIZES = [
    (40, 60),
    (33, 7),
    (1, 1),
    (90, 100),
    (513, 300),
    (200, 39),
    (45, 40),
    (3, 12000),
    (40000, 2),
]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(("side", "crop"), [(37, 32), (64, 64), (120, 20)])
def test_crops_are_those_of_pillow(height, width, side, crop):
    photo = np.random.default_rng(height).integers(0, 256, (height, width, 3)).astype(np.uint8)
    expected = center_crop(resize(Image.fromarray(photo), side), crop)
    np.testing.assert_array_equal(cut_crop(jnp.array(photo[None]), side, crop)[0], expected)


def test_ties_are_those_of_pillow():
    # From 90 to 297 pixels one value in 66 is halfway between two grey levels.
    photo = np.random.default_rng(0).integers(0, 256, (90, 90, 3)).astype(np.uint8)
    expected = center_crop(resize(Image.fromarray(photo), 297), 260)
    np.testing.assert_array_equal(cut_crop(jnp.array(photo[None]), 297, 260)[0], expected)


@pytest.mark.parametrize("kind", ["run", "softmax_run"])
def test_pairs_are_compared_as_by_compare(kind, request):
    run = request.getfixturevalue(kind)
    random = np.random.default_rng(0)
    first = random.integers(0, 256, (3, 40, 50, 3)).astype(np.uint8)
    second = random.integers(0, 256, (3, 44, 36, 3)).astype(np.uint8)
    second[0] = np.asarray(Image.fromarray(first[0]).resize((36, 44)))
    calibration = PairCalibration("isotonic", (-4.0, -1.0, 0.0), (-3.0, 0.5, 2.0), 8, 28)
    compare = partial(compare_photos, network=run.network, calibration=calibration)
    found = jax.jit(compare)(run.network.variables, first, second)
    expected = run.compare_pairs(list(zip(first, second, strict=True)))
    scores = np.array([each.score for each in expected])
    np.testing.assert_allclose(found.same, calibration.probability(scores), atol=1e-5)
    best = [run.class_names[label] for label in np.asarray(found.probabilities_1).argmax(axis=1)]
    assert best == [each.class_1[0] for each in expected]
