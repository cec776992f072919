"""`explain`: a picture with the figures next to it."""

import json

import numpy as np
import pytest
from PIL import Image
from tiny_runs import config_for, draw_photos, train

from apinet_jax.__main__ import run_command
from apinet_jax.system.errors import InputError


@pytest.fixture(scope="module", params=["apinet", "softmax"])
def workdir(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("explain")
    photos = draw_photos(folder / "photos", classes=3, train=6, test=2)
    settings = {"model__trunk": "test_tiny", "optim__epochs": 1.0, "data__workers": 0}
    settings |= {"batch__classes": 3, "method": request.param}
    return train(config_for(photos, **settings), folder / "run").workdir


def test_writes_picture_and_figures(workdir, tmp_path, capsys):
    photo = workdir.parent / "photos/test/class1/0.png"
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


def test_without_the_photos_of_the_run(workdir, tmp_path, capsys):
    photo = workdir.parent / "photos/test/class1/0.png"
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
def test_refuses(workdir, arguments, message):
    photo = workdir.parent / "photos/test/class1/0.png"
    with pytest.raises(InputError, match=message):
        run_command(["explain", str(workdir), str(photo), *arguments])


def test_missing_photo(workdir, tmp_path):
    with pytest.raises(InputError, match=r"none\.jpg"):
        run_command(["explain", str(workdir), str(tmp_path / "none.jpg")])
    assert list(tmp_path.iterdir()) == []
