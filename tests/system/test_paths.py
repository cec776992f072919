"""Paths that a user names, and what stands in their way."""

import pwd
from pathlib import Path

import pytest

from apinet_jax.system.errors import InputError
from apinet_jax.system.paths import check_writable, local_path, records_root, to_path


def unknown_user(*_):
    raise KeyError("getpwuid(): uid not found: 1234")


def test_unknown_home_folder_is_refused():
    with pytest.raises(InputError, match=r"~nosuchuser/run needs the home folder ~nosuchuser, and"):
        to_path("~nosuchuser/run")


def test_user_without_home_folder_names_folders(monkeypatch, tmp_path):
    """As in a container that runs under a user id without a name."""
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown_user)
    with pytest.raises(InputError, match="Set TFDS_DATA_DIR to a folder"):
        records_root()
    with pytest.raises(InputError, match=r"~/run needs the home folder ~, .*set HOME"):
        local_path("~/run")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert records_root() == tmp_path
    assert local_path("runs/~x") == Path("runs/~x")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("a\\b", r"has the character \\, which"), ("caf\udce9", r"caf\\xe9/run is not valid")],
)
def test_paths_that_tensorstore_cannot_use_are_refused(name, reason, tmp_path, monkeypatch):
    folder = tmp_path / name
    folder.mkdir()
    with pytest.raises(InputError, match=rf"{reason}.*Rename the folder"):
        check_writable(folder / "run")
    monkeypatch.chdir(folder)
    with pytest.raises(InputError, match="Rename the folder"):
        check_writable(Path("run"))
