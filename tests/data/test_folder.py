"""Image folders, prepared and read back: layouts, formats, errors."""

import hashlib
import os
import shutil
import signal
import sys
import tempfile

import numpy as np
import pytest
from image_folder import encoded, put

from apinet_jax.data.catalog import open_dataset
from apinet_jax.system.errors import InputError

pytestmark = pytest.mark.usefixtures("root")


def test_train_and_test(photos):
    dataset = open_dataset("folder", photos)
    assert dataset.class_names == ("cat", "dog")
    # A folder's own files come before those of its sub-folders.
    assert dataset.train.file_names == (
        "train/cat/1.png",
        "train/cat/deep/er/2.JPG",
        "train/dog/a.webp",
    )
    assert dataset.train.labels.tolist() == [0, 0, 1]
    assert dataset.test.file_names == ("test/cat/3.png", "test/dog/b.jpeg")
    assert dataset.test.labels.tolist() == [0, 1]
    assert dataset.validation is None
    assert dataset.skipped == ()


def test_encoded_bytes_are_untouched(photos):
    dataset = open_dataset("folder", photos)
    for source in (dataset.train, dataset.test):
        for index, name in enumerate(source.file_names):
            assert source.read(index) == (photos / name).read_bytes()


def test_tensorflow_is_never_imported(photos):
    open_dataset("folder", photos)
    assert "tensorflow" not in sys.modules


def test_no_temporary_files_are_left(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    open_dataset("folder", photos)
    assert not list((tmp_path / "temporary").iterdir())


def test_fingerprint_by_hand(photos):
    digest = hashlib.sha256()
    for split, name, label in [
        ("train", "train/cat/1.png", 0),
        ("train", "train/cat/deep/er/2.JPG", 0),
        ("train", "train/dog/a.webp", 1),
        ("test", "test/cat/3.png", 0),
        ("test", "test/dog/b.jpeg", 1),
    ]:
        sha = hashlib.sha256((photos / name).read_bytes()).hexdigest()
        digest.update(f"{split}\0{name}\0{label}\0{sha}\n".encode())
    assert open_dataset("folder", photos).fingerprint == digest.hexdigest()


def test_other_files_are_ignored(photos):
    for name in ("readme.txt", "Thumbs.db", ".DS_Store", "._1.png", ".hidden/5.png"):
        path = photos / "train/cat" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"nothing")
    (photos / "train/.cache").mkdir()
    (photos / "train/stray.png").write_bytes(encoded())
    assert len(open_dataset("folder", photos).train) == 3


def test_pipes_and_devices_are_ignored(photos):
    os.mkfifo(photos / "train/cat/pipe.png")
    (photos / "train/cat/zeros.png").symlink_to("/dev/zero")
    signal.alarm(60)  # ends the process if it never stops reading
    try:
        assert len(open_dataset("folder", photos).train) == 3
    finally:
        signal.alarm(0)


def test_linked_folders_are_followed_once(photos, tmp_path):
    put(tmp_path / "elsewhere", "8.png", "9.png")
    (photos / "train/dog/linked").symlink_to(tmp_path / "elsewhere")
    (photos / "train/dog/circle").symlink_to(photos / "train")
    names = open_dataset("folder", photos).train.file_names
    assert [name for name in names if "dog" in name] == [
        "train/dog/a.webp",
        "train/dog/linked/8.png",
        "train/dog/linked/9.png",
    ]


def test_val_with_and_without_test(photos):
    put(photos, "val/cat/7.png")
    dataset = open_dataset("folder", photos)
    assert dataset.validation.file_names == ("val/cat/7.png",)
    assert dataset.test.file_names == ("test/cat/3.png", "test/dog/b.jpeg")
    shutil.rmtree(photos / "test")
    dataset = open_dataset("folder", photos)
    assert dataset.validation is None
    assert dataset.test.file_names == ("val/cat/7.png",)


@pytest.mark.parametrize("name", ["valid", "validation"])
def test_other_names_of_val(photos, name):
    put(photos, f"{name}/cat/7.png")
    dataset = open_dataset("folder", photos)
    assert dataset.validation.file_names == (f"{name}/cat/7.png",)
    assert len(dataset.train) == 3
    shutil.rmtree(photos / "test")
    assert open_dataset("folder", photos).test.file_names == (f"{name}/cat/7.png",)


def test_valid_is_a_class_without_train(tmp_path):
    folder = put(tmp_path / "flat", "invalid/1.png", "valid/1.png")
    assert open_dataset("folder", folder).class_names == ("invalid", "valid")


def test_unused_images_are_reported_at_every_opening(photos, capsys):
    put(photos, "Test/cat/1.png", "extra/1.png", "1.png")
    (photos / "notes").mkdir()
    (photos / "notes/1.txt").write_text("")
    for _ in range(2):
        assert len(open_dataset("folder", photos).test) == 2
        (line,) = (line for line in capsys.readouterr().err.splitlines() if "WARNING" in line)
        assert "photos has images that are not used, in '1.png', 'Test', 'extra': only" in line


def test_no_warning_if_every_folder_is_used(photos, tmp_path, capsys):
    put(photos, "val/cat/7.png")
    (photos / "val/cat/7.png").write_bytes(encoded(99))
    open_dataset("folder", photos)
    open_dataset("folder", put(tmp_path / "flat", "a/1.png", "b/1.png"))
    assert "WARNING" not in capsys.readouterr().err


def test_train_only_gives_a_fifth_to_test(tmp_path):
    names = [f"train/{name}/{number}.png" for name in ("cat", "dog") for number in range(10)]
    dataset = open_dataset("folder", put(tmp_path / "photos", *names))
    assert np.bincount(dataset.train.labels).tolist() == [8, 8]
    assert np.bincount(dataset.test.labels).tolist() == [2, 2]
    everything = dataset.train.file_names + dataset.test.file_names
    assert sorted(everything) == sorted(names)


def test_class_folders_without_splits(tmp_path):
    folder = put(
        tmp_path / "flat",
        *(f"cat/{number}.png" for number in range(10)),
        *(f"dog/{number}.png" for number in range(5)),
        "one/0.png",
    )
    dataset = open_dataset("folder", folder)
    assert dataset.class_names == ("cat", "dog", "one")
    # A fifth of 10 and of 5; the class of one keeps its image in train.
    assert np.bincount(dataset.train.labels).tolist() == [8, 4, 1]
    assert np.bincount(dataset.test.labels).tolist() == [2, 1]
    assert set(dataset.train.file_names).isdisjoint(dataset.test.file_names)
    shutil.copytree(folder, tmp_path / "again")
    again = open_dataset("folder", tmp_path / "again")
    assert again.test.file_names == dataset.test.file_names


def test_one_image_in_each_of_two_classes(tmp_path):
    dataset = open_dataset("folder", put(tmp_path / "tiny", "a/1.png", "b/1.png"))
    assert dataset.train.labels.tolist() == [0, 1]
    assert dataset.test is None


def test_unreadable_files_are_all_listed(photos, root):
    (photos / "train/cat/bad.png").write_bytes(encoded()[:40])
    (photos / "train/cat/empty.jpg").write_bytes(b"")
    (photos / "test/dog/movie.gif").write_bytes(b"GIF89a")
    with pytest.raises(InputError) as caught:
        open_dataset("folder", photos)
    message = str(caught.value)
    assert "3 unreadable image file(s)" in message
    assert "train/cat/bad.png: " in message
    assert "train/cat/empty.jpg: empty file" in message
    assert "test/dog/movie.gif: not a JPEG, PNG or WebP image" in message
    assert "data.skip_unreadable=True" in message
    assert list(root.glob("folder/*/*")) == []


def test_class_without_readable_image(photos):
    (photos / "train/dog/a.webp").write_bytes(b"")
    with pytest.raises(InputError, match="No readable training image is left in 'dog'"):
        open_dataset("folder", photos, skip_unreadable=True)


def missing(photos):
    shutil.rmtree(photos)


def no_folder(photos):
    missing(photos)
    photos.write_text("")


def no_class_folders(photos):
    shutil.rmtree(photos / "train")
    put(photos, "train/1.png")


def no_images(photos):
    for path in (photos / "train").rglob("*.*"):
        path.unlink()


def empty_class(photos):
    (photos / "train/emu").mkdir()


def one_class(photos):
    shutil.rmtree(photos / "train/dog")


def unsorted_test(photos):
    shutil.rmtree(photos / "test")
    put(photos, "test/1.png")


def unknown_class(photos):
    put(photos, "test/emu/1.png")


def no_train(photos):
    shutil.rmtree(photos / "train")


def splits_by_other_names(photos):
    (photos / "train").rename(photos / "Training")
    (photos / "test").rename(photos / "Testing")


def two_validation_folders(photos):
    put(photos, "val/cat/7.png", "validation/cat/8.png")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (missing, r"photos does not exist\. Check data\.dir"),
        (no_folder, "photos is not a folder"),
        (no_class_folders, r"no class folders in .*train\. Expected train/<class>"),
        (no_images, r"no images \(\.jpg, .*train"),
        (empty_class, "1 class folder.s. of .*train hold no image .*: 'emu'"),
        (one_class, r"only one class, 'cat', in .*train; at least two"),
        (unsorted_test, r"no images below class folders in .*test.*or move test/ away"),
        (unknown_class, r"test has classes that are not in .*train: 'emu'"),
        (no_train, r"photos has test/ but no train/"),
        (splits_by_other_names, r"photos has Testing/ and Training/ but no train/"),
        (two_validation_folders, r"photos has val/ and validation/, .*Keep one"),
    ],
)
def test_one_clear_error(photos, damage, message):
    damage(photos)
    with pytest.raises(InputError, match=message):
        open_dataset("folder", photos)


def test_no_folder_named():
    with pytest.raises(InputError, match=r"Set data\.dir"):
        open_dataset("folder")
