"""The picture of an explanation."""

import io

import numpy as np
import pytest
from PIL import Image

from apinet_jax.answers.explanation import picture
from apinet_jax.answers.explanation.explain import Exemplar, Explanation, Gates
from apinet_jax.answers.explanation.picture import draw_explanation
from apinet_jax.answers.pictures import overlay

PIXELS = np.full((32, 32, 3), 128, np.uint8)
MAP = np.array([[1.0, 0.0], [0.0, -1.0]], np.float32)
TRUNK = "vit_base_patch16_224"  # its cells divide the photo


def explanation(exemplars=(), reason=None):
    return Explanation("left", "right", 0.8, 0.1, 2.0, MAP, 2.0, PIXELS, exemplars, reason, TRUNK)


def exemplar(name, gates=None):
    return Exemplar(name, f"train/{name}.jpg", 0.9, PIXELS, gates)


def colours(found):
    """Share of red, and of blue pixels."""
    with Image.open(io.BytesIO(draw_explanation(found, "photo.jpg"))) as drawn:
        red, _, blue = np.asarray(drawn.convert("RGB")).astype(int).transpose(2, 0, 1)
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


def test_cells_are_where_the_trunk_sees_them(monkeypatch):
    trunks = []

    def recorded(*arguments, trunk, **options):
        trunks.append(trunk)
        return overlay(*arguments, trunk=trunk, **options)

    monkeypatch.setattr(picture, "overlay", recorded)
    found = explanation((exemplar("left", Gates(MAP, MAP)),))._replace(trunk="resnet50")
    draw_explanation(found, "x")
    assert trunks == ["resnet50"] * 3  # the contrast map, and both maps of gates


def test_zero_map_and_one_sided_exemplars_are_drawn():
    gates = Gates(0 * MAP, 0 * MAP)
    found = explanation((exemplar("left", gates),))._replace(contrast=0 * MAP)
    assert len(draw_explanation(found, "x")) > 10_000


@pytest.mark.parametrize("name", ["a$\\b$c", "夜鷹", "นกตบยุง \U0001f426"])
def test_names_of_any_kind(name):
    """Neither formulas nor warnings about letters that no font has."""
    found = explanation((exemplar(name),))._replace(predicted=name, against=f"$x^$ {name}")
    assert len(draw_explanation(found, f"$_$\udcff {name}.jpg")) > 10_000
