"""Configuration files by their path, or by their name from any folder."""

from pathlib import Path

import pytest

from apinet_jax.setup.config_file import find_config, read_config
from apinet_jax.sweeps.spec import read_sweep
from apinet_jax.system.errors import InputError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["cub", "cub.py", "configs/cub.py"])
def test_name_in_any_folder(name):
    assert find_config(name) == ROOT / "configs/cub.py"
    assert read_config(f"{name}:paper").data.name == "cub"


def test_own_file_comes_first(tmp_path):
    own = tmp_path / "configs/cub.py"
    own.parent.mkdir()
    own.write_text("")
    assert find_config("configs/cub.py").read_text() == ""
    assert find_config("cub") == ROOT / "configs/cub.py"


def test_sweeps_by_name():
    heads = read_sweep(ROOT / "configs/sweeps/heads.py")
    assert read_sweep("heads").cells == read_sweep("configs/sweeps/heads.py").cells == heads.cells
    with pytest.raises(InputError, match=r"no sweep file 'cub'.*ablations"):
        read_sweep("cub")


@pytest.mark.parametrize("name", ["cubs", "configs/none.py", "../cub", ".", ""])
def test_missing(name):
    with pytest.raises(
        InputError, match=f"There is no configuration file '{name}'.*aircraft, cars"
    ):
        find_config(name)


def test_similar_names_are_suggested():
    with pytest.raises(InputError, match="Did you mean nabirds"):
        find_config("nabird")
