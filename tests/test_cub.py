"""A small CUB in the exact layout of the official archive."""

import os
import shutil
import sys
import tarfile
from io import BytesIO

import pytest
from PIL import Image

from apinet_jax.data.builders.cub import Cub
from apinet_jax.data.source import open_dataset
from apinet_jax.errors import InputError

CLASSES = ("001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross")
# Image number, class, whether it is for training; numbers as in the official lists, 1-based.
IMAGES = ((1, 1, 0), (2, 1, 1), (3, 2, 1), (4, 2, 0), (5, 3, 1), (6, 3, 1), (7, 3, 0))


def path_of(number, label):
    return f"{CLASSES[label - 1]}/Bird_{number:04d}_{number * 111}.jpg"


def jpeg(number):
    stream = BytesIO()
    Image.new("RGB", (9, 7), (number * 30, 0, 0)).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "root"))
    monkeypatch.setattr(Cub, "CLASSES", 3)
    monkeypatch.setattr(Cub, "TRAIN_IMAGES", 4)
    monkeypatch.setattr(Cub, "TEST_IMAGES", 3)


@pytest.fixture
def manual(tmp_path):
    """A folder that holds the unpacked `CUB_200_2011/`."""
    cub = tmp_path / "manual" / "CUB_200_2011"
    for number, label, _ in IMAGES:
        path = cub / "images" / path_of(number, label)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number))
    lists = {
        "classes.txt": [f"{number} {name}" for number, name in enumerate(CLASSES, 1)],
        "images.txt": [f"{number} {path_of(number, label)}" for number, label, _ in IMAGES],
        "image_class_labels.txt": [f"{number} {label}" for number, label, _ in IMAGES],
        "train_test_split.txt": [f"{number} {train}" for number, _, train in IMAGES],
        "bounding_boxes.txt": [f"{number} 0.0 0.0 9.0 7.0" for number, _, _ in IMAGES],
    }
    for name, lines in lists.items():
        (cub / name).write_text("\n".join(lines) + "\n")
    return cub.parent


def pack(manual, prefix=""):
    """Replaces the folder by its archive, with the images in another order than the lists."""
    with tarfile.open(manual / "CUB_200_2011.tgz", "w:gz") as tar:
        for path in sorted((manual / "CUB_200_2011").rglob("*"), reverse=True):
            tar.add(path, prefix + str(path.relative_to(manual)), recursive=False)
    shutil.rmtree(manual / "CUB_200_2011")


def check(dataset):
    assert dataset.class_names == CLASSES
    assert dataset.train.labels.tolist() == [0, 1, 2, 2]
    assert dataset.test.labels.tolist() == [0, 1, 2]
    assert dataset.train.file_names == (
        path_of(2, 1),
        path_of(3, 2),
        path_of(5, 3),
        path_of(6, 3),
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
    pack(manual, prefix)
    check(open_dataset("cub", manual_dir=manual))
    assert [path.name for path in manual.iterdir()] == ["CUB_200_2011.tgz"]  # nothing unpacked
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["cub"]


def test_folder_and_archive_have_one_fingerprint(manual, tmp_path):
    folder = open_dataset("cub", tmp_path / "first", manual)
    pack(manual)
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
    (manual / "CUB_200_2011/images" / path_of(2, 1)).write_bytes(jpeg(8))
    after = open_dataset("cub", manual_dir=manual)
    assert after.fingerprint != before.fingerprint
    assert after.train.read(0) == jpeg(8)


def test_nothing_there(tmp_path):
    with pytest.raises(InputError) as caught:
        open_dataset("cub", manual_dir=tmp_path / "nowhere")
    for part in (
        "nowhere",
        "CUB_200_2011.tgz",
        "data.caltech.edu",
        "65de6-vp158",
        "--config.data.manual_dir",
    ):
        assert part in str(caught.value)


def test_missing_image_is_named_even_when_skipping(manual):
    (manual / "CUB_200_2011/images" / path_of(5, 3)).unlink()
    with pytest.raises(InputError, match=f"1 image.*missing(.|\n)*{path_of(5, 3)}"):
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
    (manual / "CUB_200_2011/images" / path_of(5, 3)).write_bytes(jpeg(5)[:200])
    with pytest.raises(InputError, match=path_of(5, 3)):
        open_dataset("cub", manual_dir=manual)
    dataset = open_dataset("cub", manual_dir=manual, skip_unreadable=True)
    assert dataset.skipped == (path_of(5, 3),)
    assert len(dataset.train) == 3


def test_damaged_archive(manual, tmp_path):
    pack(manual)
    archive = manual / "CUB_200_2011.tgz"
    os.truncate(archive, archive.stat().st_size // 2)
    with pytest.raises(InputError, match=r"CUB_200_2011\.tgz is damaged"):
        open_dataset("cub", manual_dir=manual)
    archive.write_bytes(b"<html>not found</html>")
    with pytest.raises(InputError, match=r"CUB_200_2011\.tgz is damaged.*Download it again"):
        open_dataset("cub", manual_dir=manual)
    assert list((tmp_path / "root").iterdir()) == []
