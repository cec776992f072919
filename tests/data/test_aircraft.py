"""A small FGVC-Aircraft in the exact layout of the official archive, banners included."""

import shutil

import numpy as np
import pytest
from small_archives import edit, make_small, pack, put_files, split_jpeg

from apinet_jax.data.catalog import open_dataset
from apinet_jax.data.official.aircraft import Aircraft
from apinet_jax.system.errors import InputError

VARIANTS = ("707-320", "C-130", "DHC-8-100", "F-16A/B")
TRAINVAL = {"0034309": "C-130", "1187707": "F-16A/B", "0698580": "707-320", "0450014": "DHC-8-100"}
TEST = {"1042824": "C-130", "0894380": "707-320"}
DATA = "fgvc-aircraft-2013b/data"
# x, y, width and height of what is white: all but the lowest 20 of 48 rows.
SHOWN = (0, 0, 64, 28)


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    make_small(monkeypatch, tmp_path / "root", Aircraft, classes=4, train=4, test=2)


@pytest.fixture
def manual(tmp_path):
    folder = tmp_path / "manual" / "fgvc-aircraft-2013b"
    images = {f"data/images/{name}.jpg": split_jpeg(SHOWN) for name in TRAINVAL | TEST}
    lists = {
        "README.md": ["# FGVC-Aircraft Benchmark"],
        "data/variants.txt": VARIANTS,
        "data/images_variant_trainval.txt": [f"{name} {v}" for name, v in TRAINVAL.items()],
        "data/images_variant_test.txt": [f"{name} {v}" for name, v in TEST.items()],
        # From the pixel (1, 1) to the last one, included; this box reaches into the banner.
        "data/images_box.txt": [f"{name} 9 5 40 48" for name in TRAINVAL | TEST],
    }
    put_files(folder, images | {name: list(lines) for name, lines in lists.items()})
    return folder.parent


def test_official_counts(monkeypatch):
    monkeypatch.undo()
    assert (Aircraft.CLASSES, Aircraft.TRAIN_IMAGES, Aircraft.TEST_IMAGES) == (100, 6667, 3333)


def test_folder_and_archive(manual, tmp_path):
    folder = open_dataset("aircraft", tmp_path / "first", manual)
    assert folder.class_names == VARIANTS
    assert folder.train.file_names == tuple(f"{name}.jpg" for name in TRAINVAL)
    assert folder.train.labels.tolist() == [1, 3, 0, 2]
    assert folder.test.labels.tolist() == [1, 0]
    pack(manual / "fgvc-aircraft-2013b.tar.gz", manual / "fgvc-aircraft-2013b")
    archive = open_dataset("aircraft", tmp_path / "second", manual)
    assert archive.fingerprint == folder.fingerprint
    assert archive.train.labels.tolist() == [1, 3, 0, 2]


def test_ids_keep_their_zeros(manual, tmp_path):
    open_dataset("aircraft", manual_dir=manual)
    metadata = Aircraft(data_dir=tmp_path / "root").info.metadata
    assert metadata["image_ids"] == {"train": list(TRAINVAL), "test": list(TEST)}


def test_banner_is_cropped_but_stored(manual):
    train = open_dataset("aircraft", manual_dir=manual).train
    assert train.read(0) == split_jpeg(SHOWN)
    picture = np.asarray(train.picture(0))
    assert picture.shape == (28, 64, 3)
    assert picture[:24].min() > 250  # the last rows share JPEG's blocks with the banner


def test_box_ends_above_the_banner(manual, tmp_path):
    cropped = open_dataset("aircraft", manual_dir=manual, crop_to_box=True)
    # Pixels 9 to 40 of a row and 5 to 28 of a column, counted from 1.
    assert cropped.train.windows.tolist() == [[8, 4, 32, 24]] * 4
    assert cropped.train.picture(0).size == (32, 24)
    uncropped = open_dataset("aircraft", manual_dir=manual)
    assert uncropped.train.windows.tolist() == [[0, 0, 64, 28]] * 4
    assert uncropped.fingerprint != cropped.fingerprint


def test_picture_smaller_than_the_banner(manual):
    path = manual / DATA / "images/0698580.jpg"
    path.write_bytes(split_jpeg((0, 0, 1, 1), size=(64, 20)))
    with pytest.raises(InputError, match=r"0698580\.jpg: nothing is left above the 20 rows"):
        open_dataset("aircraft", manual_dir=manual)


def test_unknown_variant(manual):
    edit(manual / DATA / "images_variant_test.txt", "707-320", "Boeing 707")
    with pytest.raises(InputError, match=r"calls image 0894380 'Boeing 707', which is not in"):
        open_dataset("aircraft", manual_dir=manual)


@pytest.mark.parametrize(
    "box", ["0894380 9 5 40", "0894380 a b c d", "0894380 1 1 nan 9", "0894380 1 1 1e308 9", ""]
)
def test_invalid_box(manual, box):
    edit(manual / DATA / "images_box.txt", "0894380 9 5 40 48\n", box)
    with pytest.raises(InputError, match=r"Image 0894380 has no box of four numbers"):
        open_dataset("aircraft", manual_dir=manual)


def test_box_outside_of_its_picture(manual):
    edit(manual / DATA / "images_box.txt", "0894380 9 5 40 48", "0894380 70 5 90 48")
    assert len(open_dataset("aircraft", manual_dir=manual).test) == 2  # boxes are not used
    with pytest.raises(InputError, match=r"0894380\.jpg: its box .* is not in its 64 x 28 pixels"):
        open_dataset("aircraft", manual_dir=manual, crop_to_box=True)
    cropped = open_dataset("aircraft", manual_dir=manual, crop_to_box=True, skip_unreadable=True)
    assert cropped.skipped == ("0894380.jpg",)
    assert cropped.test.windows.tolist() == [[8, 4, 32, 24]]


def test_other_archive_of_that_name(manual):
    folder = manual / "fgvc-aircraft-2013b"
    shutil.move(folder / "data", folder / "fgvc")
    pack(manual / "fgvc-aircraft-2013b.tar.gz", folder)
    with pytest.raises(InputError, match=r"data/variants\.txt is missing in .*2013b\.tar\.gz"):
        open_dataset("aircraft", manual_dir=manual)


def test_image_in_both_lists(manual):
    edit(manual / DATA / "images_variant_test.txt", "0894380", "0698580")
    with pytest.raises(InputError, match=r"2013b lists 0698580\.jpg more than once"):
        open_dataset("aircraft", manual_dir=manual)
