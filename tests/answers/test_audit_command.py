"""`audit DATA --features WEIGHTS`: photos without a run."""

import csv
import shutil

import pytest
from tiny_runs import draw_photos, save_trunk

from apinet_jax.__main__ import run_command
from apinet_jax.system.errors import InputError


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_trunk(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


def test_copies_are_found(weights, tmp_path, capsys):
    photos = draw_photos(tmp_path / "photos")
    shutil.copy(photos / "train/class0/0.png", photos / "test/class1/copy.png")
    page = tmp_path / "out.html"
    options = [f"--features={weights}", "--trunk=test_tiny", f"--out={page}"]
    run_command(["audit", str(photos), *options])
    printed = capsys.readouterr().out
    assert "across splits" in printed
    assert f"Open {page.as_uri()} in a browser." in printed
    text = page.read_text()
    assert "Audit of photos" in text
    assert "test/class1/copy.png" in text
    with open(tmp_path / "out-tables/near_duplicates.csv", newline="") as file:
        pair, *others = csv.DictReader(file)
    assert (pair["file_1"], pair["class_2"]) == ("train/class0/0.png", "class1")
    assert float(pair["ratio"]) == 0
    assert all(float(other["ratio"]) > 0 for other in others)


def test_wrong_input(weights, tmp_path):
    with pytest.raises(InputError, match="not an HTML file"):
        run_command(["audit", str(tmp_path), f"--features={weights}", f"--out={tmp_path}/x.png"])
    with pytest.raises(InputError, match="missing"):
        run_command(["audit", str(tmp_path / "missing"), f"--features={weights}"])
    with pytest.raises(InputError, match="--features"):
        run_command(["audit", str(tmp_path)])
