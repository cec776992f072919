"""A small CUB-200-2011, read from the folder and the archive, intact and damaged."""

import errno
import os
import shutil
import sys
from functools import partial
from pathlib import Path

import pytest
from small_archives import (
    CUB_CLASSES,
    CUB_COUNTS,
    CUB_IMAGES,
    cub_path,
    edit,
    jpeg,
    make_small,
    pack,
    put_cub,
)

from apinet_jax.data.catalog import open_dataset
from apinet_jax.data.official import archive as archives
from apinet_jax.data.official import base as official
from apinet_jax.data.official.cub import Cub
from apinet_jax.data.records import builder as records
from apinet_jax.system.errors import InputError


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
    assert [dataset.train.read(index) for index in range(4)] == [
        jpeg(number) for number in (2, 3, 5, 6)
    ]
    assert [dataset.test.read(index) for index in range(3)] == [
        jpeg(number) for number in (1, 4, 7)
    ]


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


def test_records_do_not_need_the_archive(manual):
    open_dataset("cub", manual_dir=manual)
    shutil.rmtree(manual)
    check(open_dataset("cub", manual_dir=manual))


def test_prepared_again_when_an_image_changes(manual):
    before = open_dataset("cub", manual_dir=manual)
    (manual / "CUB_200_2011/images" / cub_path(2, 1)).write_bytes(jpeg(8))
    after = open_dataset("cub", manual_dir=manual)
    assert after.fingerprint != before.fingerprint
    assert after.train.read(0) == jpeg(8)


def test_prepared_again_when_a_list_changed_during_preparation(manual, monkeypatch):
    path, check_images = manual / "CUB_200_2011/classes.txt", records.check_images

    def then_edit(*args):
        edit(path, "Albatross", "Alcatraz")
        return check_images(*args)

    with monkeypatch.context() as patch:
        patch.setattr(records, "check_images", then_edit)
        assert open_dataset("cub", manual_dir=manual).class_names == CUB_CLASSES
    assert open_dataset("cub", manual_dir=manual).class_names[0].endswith("Alcatraz")


def test_missing_folder(tmp_path):
    with pytest.raises(InputError) as caught:
        open_dataset("cub", manual_dir=tmp_path / "nowhere")
    for part in (
        "The folder",
        "does not exist",
        "nowhere",
        "CUB_200_2011.tgz",
        "data.caltech.edu",
        "65de6-vp158",
        "data.manual_dir",
    ):
        assert part in str(caught.value)


def test_missing_image_is_named_even_when_skipping(manual):
    (manual / "CUB_200_2011/images" / cub_path(5, 3)).unlink()
    with pytest.raises(InputError, match=f"1 image.*missing(.|\n)*{cub_path(5, 3)}"):
        open_dataset("cub", manual_dir=manual, skip_unreadable=True)


def test_blank_lines_at_the_end_of_a_list(manual):
    with (manual / "CUB_200_2011/images.txt").open("a") as lines:
        lines.write("\n  \n")
    check(open_dataset("cub", manual_dir=manual))


def test_missing_list_is_named(manual):
    (manual / "CUB_200_2011/train_test_split.txt").unlink()
    with pytest.raises(InputError, match=r"train_test_split\.txt is missing in"):
        open_dataset("cub", manual_dir=manual)


def test_garbled_list(manual):
    with (manual / "CUB_200_2011/images.txt").open("a") as lines:
        lines.write("not a line\n")
    with pytest.raises(InputError, match=r"Line 8 of images\.txt"):
        open_dataset("cub", manual_dir=manual)


@pytest.mark.parametrize("name", ["image_class_labels.txt", "train_test_split.txt"])
def test_image_without_class_or_split(manual, name):
    edit(manual / "CUB_200_2011" / name, "\n4 ", "\n14 ")
    with pytest.raises(InputError, match=r"Image 4 .* has no class or no split"):
        open_dataset("cub", manual_dir=manual)


def test_wrong_counts(manual, monkeypatch):
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


def test_repeated_id(manual):
    with (manual / "CUB_200_2011/images.txt").open("a") as lines:
        lines.write(f"4 {cub_path(5, 3)}\n")
    with pytest.raises(InputError, match=r"Line 8 of images\.txt in .* repeats id 4"):
        open_dataset("cub", manual_dir=manual)


def test_image_skipped_for_its_box_returns_without_boxes(manual):
    edit(manual / "CUB_200_2011/bounding_boxes.txt", "5 1.0 2.0", "5 90.0 90.0")
    opened = partial(open_dataset, "cub", manual_dir=manual)
    cropped = opened(crop_to_box=True, skip_unreadable=True)
    assert cropped.skipped == (cub_path(5, 3),)
    assert len(opened().train) == 4
    assert opened(skip_unreadable=True).skipped == ()
    assert opened(crop_to_box=True, skip_unreadable=True).fingerprint == cropped.fingerprint


@pytest.mark.parametrize(("image", "label"), [(5, 2), (4, 3), (1, 2)])
def test_label_contradicts_folder(manual, image, label):
    path = manual / "CUB_200_2011/image_class_labels.txt"
    edit(path, f"{image} {CUB_IMAGES[image - 1][1]}\n", f"{image} {label}\n")
    with pytest.raises(InputError, match=r"image_class_labels\.txt in .* puts .*\.jpg into the cl"):
        open_dataset("cub", manual_dir=manual)


def test_class_missing_in_the_list(manual):
    edit(manual / "CUB_200_2011/image_class_labels.txt", "4 2\n", "4 999\n")
    with pytest.raises(InputError, match=r"Image 4 .* is in class 999, .* not in classes\.txt of"):
        open_dataset("cub", manual_dir=manual)


def test_image_with_two_numbers(manual):
    lists = manual / "CUB_200_2011"
    edit(lists / "images.txt", cub_path(7, 3), cub_path(6, 3))
    with pytest.raises(InputError, match=rf"lists {cub_path(6, 3)} more than once"):
        open_dataset("cub", manual_dir=manual)


def refuse(place):
    raise PermissionError(errno.EACCES, "Permission denied", str(place))


def test_list_without_read_permission(manual, monkeypatch):
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(InputError, match=r"Cannot read classes\.txt in .*2011: Permission denied"):
        open_dataset("cub", manual_dir=manual)


@pytest.mark.parametrize("suffix", [".tgz", ".tar"])
def test_archive_without_read_permission(manual, tmp_path, monkeypatch, suffix):
    path = pack(manual / f"CUB_200_2011{suffix}", manual / "CUB_200_2011")
    monkeypatch.setattr(archives, "open", lambda place, _: refuse(place), raising=False)
    with (
        pytest.raises(InputError, match=rf"Cannot read {path}: Permission denied\. Check its perm"),
        archives.open_files(Cub.LAYOUTS[0][0], path, tmp_path),
    ):
        pass


def test_checksum_without_read_permission(manual, monkeypatch):
    path = packed(manual)
    monkeypatch.setattr(official, "differs", lambda _, place: refuse(place))
    with pytest.raises(InputError, match=rf"Cannot read {path}: Permission denied"):
        open_dataset("cub", manual_dir=manual)


def test_folder_without_read_permission(manual, monkeypatch):
    monkeypatch.setattr(official, "_place", lambda _, folder: refuse(folder))
    with pytest.raises(InputError, match=rf"Cannot read {manual}: Permission denied"):
        open_dataset("cub", manual_dir=manual)


def test_manual_dir_is_a_file(manual):
    path = packed(manual)
    with pytest.raises(InputError, match=rf"{path} is a file\. Name the folder .*, {manual}\."):
        open_dataset("cub", manual_dir=path)


def test_half_an_archive_next_to_the_unpacked_folder(manual):
    path = packed(manual)
    os.truncate(path, path.stat().st_size // 2)
    put_cub(manual)
    with pytest.raises(
        InputError, match=r"is damaged .* Or remove it: then CUB_200_2011/ next to it is used"
    ):
        open_dataset("cub", manual_dir=manual)
    path.unlink()
    check(open_dataset("cub", manual_dir=manual))
