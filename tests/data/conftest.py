"""Fixtures of the tests that prepare image folders."""

import pytest
from image_folder import put_photos


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A separate folder of records."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "root"))
    return tmp_path / "root"


@pytest.fixture
def photos(tmp_path, root):
    """An image folder with a train and a test split, whose records are stored in `root`."""
    return put_photos(tmp_path / "photos")
