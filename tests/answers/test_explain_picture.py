"""The picture of an explanation."""

import io

import numpy as np
import pytest
from PIL import Image

from apinet_jax.answers.explanation.explain import Exemplar, Explanation, Gates
from apinet_jax.answers.explanation.picture import draw_explanation

PIXELS = np.full((32, 32, 3), 128, np.uint8)
MAP = np.array([[1.0, 0.0], [0.0, -1.0]], np.float32)
TRUNK = "vit_base_patch16_224"  # its cells divide the photo


def explanation(exemplars=(), reason=None):
    return Explanation("left", "right", 0.8, 0.1, 2.0, MAP, 2.0, PIXELS, exemplars, reason, TRUNK)


def exemplar(name, gates=None):
    return Exemplar(name, f"train/{name}.jpg", 0.9, PIXELS, gates)


def colours(found):
    """Share of red, and of blue pixels."""
    picture = np.asarray(
        Image.open(io.BytesIO(draw_explanation(found, "photo.jpg"))).convert("RGB")
    )
    red, _, blue = picture.astype(int).transpose(2, 0, 1)
    return (red - blue > 60).mean(), (blue - red > 60).mean()


def test_both_classes_have_their_colour():
    red, blue = colours(explanation(reason="none were asked for"))
    assert red > 0.01
    assert blue > 0.01
    one_sided = explanation(reason="none")._replace(contrast=np.abs(MAP))
    assert colours(one_sided)[1] < blue / 2


@pytest.mark.parametrize("gates", [None, Gates(MAP, -MAP)], ids=["softmax", "gates"])
def test_training_photos_make_it_taller(gates):
    without = Image.open(io.BytesIO(draw_explanation(explanation(reason="none"), "x")))
    exemplars = (exemplar("left", gates), exemplar("right", gates))
    drawn = Image.open(io.BytesIO(draw_explanation(explanation(exemplars), "x")))
    assert drawn.height > without.height + (100 if gates is None else 400)


@pytest.mark.parametrize("part", ["contrast", "photo", "exemplar"])
def test_cells_are_where_the_trunk_sees_them(part):
    """Of 64 pixels the last cell of 2 x 2 has 48 x 48, as a ResNet's cells are at 0 and 32."""

    def red(values):
        maps = dict.fromkeys(["contrast", "photo", "exemplar"], 0 * MAP) | {part: values}
        pixels = np.full((64, 64, 3), 128, np.uint8)
        gates = Gates(maps["photo"], maps["exemplar"])
        found = explanation((exemplar("left", gates)._replace(pixels=pixels),))
        found = found._replace(contrast=maps["contrast"], pixels=pixels, trunk="resnet50")
        return colours(found)[0]

    none, first, last = map(red, (0 * MAP, np.diag([1.0, 0]), np.diag([0, 1.0])))
    assert last - none > 3 * (first - none) > 0


def test_zero_map_and_one_sided_exemplars_are_drawn():
    gates = Gates(0 * MAP, 0 * MAP)
    found = explanation((exemplar("left", gates),))._replace(contrast=0 * MAP)
    assert len(draw_explanation(found, "x")) > 10_000


def test_dollar_signs_are_not_formulas():
    found = explanation((exemplar("a$\\b$c"),))._replace(predicted="a$\\b$c", against="$x^$")
    assert len(draw_explanation(found, "$_$\udcff.jpg")) > 10_000
