"""A small CUB-200-2011: from the folder and the archive, what is kept, what is refused."""

import os
import shutil
import sys

import pytest
from small_archives import CUB_CLASSES, CUB_COUNTS, cub_path, jpeg, make_small, pack, put_cub

from apinet_jax.data.builders.cub import Cub
from apinet_jax.data.source import open_dataset
from apinet_jax.errors import InputError


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    make_small(monkeypatch, tmp_path / "root", Cub, **CUB_COUNTS)


@pytest.fixture
def manual(tmp_path):
    """A folder that holds the unpacked `CUB_200_2011/`."""
    return put_cub(tmp_path / "manual")


def packed(manual, prefix=""):
    return pack(manual / "CUB_200_2011.tgz", manual / "CUB_200_2011", prefix=prefix)


def check(dataset):
    assert dataset.class_names == CUB_CLASSES
    assert dataset.train.labels.tolist() == [0, 1, 2, 2]
    assert dataset.test.labels.tolist() == [0, 1, 2]
    assert dataset.train.file_names == (
        cub_path(2, 1),
        cub_path(3, 2),
        cub_path(5, 3),
        cub_path(6, 3),
    )
    assert dataset.train.read_many(range(4)) == [jpeg(number) for number in (2, 3, 5, 6)]
    assert dataset.test.read_many(range(3)) == [jpeg(number) for number in (1, 4, 7)]


def test_official_counts(monkeypatch):
    monkeypatch.undo()
    assert (Cub.CLASSES, Cub.TRAIN_IMAGES, Cub.TEST_IMAGES) == (200, 5994, 5794)


def test_unpacked_folder(manual):
    check(open_dataset("cub", manual_dir=manual))
    check(open_dataset("cub", manual_dir=manual / "CUB_200_2011"))
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize("prefix", ["", "./"])
def test_archive(manual, tmp_path, prefix):
    packed(manual, prefix)
    check(open_dataset("cub", manual_dir=manual))
    assert [path.name for path in manual.iterdir()] == ["CUB_200_2011.tgz"]  # nothing unpacked
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["cub"]


def test_folder_and_archive_have_one_fingerprint(manual, tmp_path):
    folder = open_dataset("cub", tmp_path / "first", manual)
    packed(manual)
    assert open_dataset("cub", tmp_path / "second", manual).fingerprint == folder.fingerprint


def test_image_numbers_are_kept(manual, tmp_path):
    open_dataset("cub", manual_dir=manual)
    builder = Cub(data_dir=tmp_path / "root")
    assert builder.info.metadata["image_ids"] == {"train": [2, 3, 5, 6], "test": [1, 4, 7]}


def test_default_manual_folder(manual, tmp_path):
    shutil.copytree(manual, tmp_path / "root" / "downloads" / "manual")
    check(open_dataset("cub"))


def test_prepared_records_outlive_the_archive(manual):
    open_dataset("cub", manual_dir=manual)
    shutil.rmtree(manual)
    check(open_dataset("cub", manual_dir=manual))


def test_prepared_again_when_an_image_changes(manual):
    before = open_dataset("cub", manual_dir=manual)
    (manual / "CUB_200_2011/images" / cub_path(2, 1)).write_bytes(jpeg(8))
    after = open_dataset("cub", manual_dir=manual)
    assert after.fingerprint != before.fingerprint
    assert after.train.read(0) == jpeg(8)


def test_nothing_there(tmp_path):
    with pytest.raises(InputError) as caught:
        open_dataset("cub", manual_dir=tmp_path / "nowhere")
    for part in (
        "There is no folder",
        "nowhere",
        "CUB_200_2011.tgz",
        "data.caltech.edu",
        "65de6-vp158",
        "--config.data.manual_dir",
    ):
        assert part in str(caught.value)


def test_missing_image_is_named_even_when_skipping(manual):
    (manual / "CUB_200_2011/images" / cub_path(5, 3)).unlink()
    with pytest.raises(InputError, match=f"1 image.*missing(.|\n)*{cub_path(5, 3)}"):
        open_dataset("cub", manual_dir=manual, skip_unreadable=True)


def test_missing_list_is_named(manual):
    (manual / "CUB_200_2011/train_test_split.txt").unlink()
    with pytest.raises(InputError, match=r"train_test_split\.txt is missing in"):
        open_dataset("cub", manual_dir=manual)


def test_list_that_is_garbled(manual):
    with (manual / "CUB_200_2011/images.txt").open("a") as lines:
        lines.write("not a line\n")
    with pytest.raises(InputError, match=r"Line 8 of images\.txt"):
        open_dataset("cub", manual_dir=manual)


@pytest.mark.parametrize("line", ["", "4 Laysan\n", "4 9\n"])
def test_image_without_class(manual, line):
    path = manual / "CUB_200_2011/image_class_labels.txt"
    path.write_text(path.read_text().replace("4 2\n", line))
    with pytest.raises(InputError, match=r"Image 4 .* has no class or no split"):
        open_dataset("cub", manual_dir=manual)


def test_counts_are_asserted(manual, monkeypatch):
    monkeypatch.setattr(Cub, "TRAIN_IMAGES", 5_994)
    with pytest.raises(InputError, match=r"3 classes, 4 training and 3 test images.*5,994"):
        open_dataset("cub", manual_dir=manual)


def test_unreadable_image(manual):
    (manual / "CUB_200_2011/images" / cub_path(5, 3)).write_bytes(jpeg(5)[:200])
    with pytest.raises(InputError, match=cub_path(5, 3)):
        open_dataset("cub", manual_dir=manual)
    dataset = open_dataset("cub", manual_dir=manual, skip_unreadable=True)
    assert dataset.skipped == (cub_path(5, 3),)
    assert len(dataset.train) == 3


def test_damaged_archive(manual, tmp_path):
    archive = packed(manual)
    os.truncate(archive, archive.stat().st_size // 2)
    with pytest.raises(InputError, match=r"CUB_200_2011\.tgz is damaged"):
        open_dataset("cub", manual_dir=manual)
    archive.write_bytes(b"<html>not found</html>")
    with pytest.raises(
        InputError, match=r"CUB_200_2011\.tgz is damaged.*Download CUB_200_2011\.tgz again"
    ):
        open_dataset("cub", manual_dir=manual)
    assert list((tmp_path / "root").iterdir()) == []
