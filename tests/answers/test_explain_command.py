"""`explain`: a picture with the figures next to it."""

import json

import numpy as np
import pytest
from PIL import Image

from apinet_jax.__main__ import run_command
from apinet_jax.system.errors import InputError


@pytest.fixture
def photo(photos):
    return photos / "test/class1/0.png"


@pytest.mark.parametrize("kind", ["workdir", "softmax_workdir"])
def test_writes_picture_and_figures(kind, request, photo, tmp_path, capsys):
    workdir = request.getfixturevalue(kind)
    out = tmp_path / "why.png"
    others = tmp_path / "why.json"
    others.write_text("{}")
    run_command(["explain", str(workdir), str(photo), "--out", str(out), "--exemplars", "1"])
    assert others.read_text() == "{}"
    assert np.asarray(Image.open(out)).std() > 10
    figures = json.loads((tmp_path / "why.png.json").read_text())
    total = np.sum(figures["contrast"]) + figures["bias"]
    assert total == pytest.approx(figures["difference"], abs=1e-4)
    names = [one["class_name"] for one in figures["exemplars"]]
    assert names == [figures["predicted"], figures["against"]]
    printed = capsys.readouterr().out
    assert f"predicted    {figures['predicted']} (0." in printed
    assert str(out) in printed


def test_without_the_photos_of_the_run(workdir, photo, tmp_path, capsys):
    arguments = ["--out", str(tmp_path / "why.png"), "--data-dir", str(tmp_path / "moved")]
    run_command(["explain", str(workdir), str(photo), *arguments])
    assert "No training photos are shown" in capsys.readouterr().err
    assert json.loads((tmp_path / "why.png.json").read_text())["exemplars"] == []
    assert (tmp_path / "why.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--against", "klass2"], "Nearest to 'klass2'"),
        (["--out", "why.jpg"], "not a PNG"),
        (["--out", "missing/why.png"], "There is no folder missing"),
        (["--exemplars", "-1"], "not between 0 and 12"),
        (["--checkpoint", "99"], "99"),
    ],
)
def test_refuses(workdir, photo, arguments, message):
    with pytest.raises(InputError, match=message):
        run_command(["explain", str(workdir), str(photo), *arguments])


def test_missing_photo(workdir, tmp_path):
    with pytest.raises(InputError, match=r"none\.jpg"):
        run_command(["explain", str(workdir), str(tmp_path / "none.jpg")])
    assert list(tmp_path.iterdir()) == []
