"""Image folders as people have them: links, odd names, files of other programs, runs inside."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from image_folder import encoded, put

from apinet_jax.data.catalog import open_dataset
from apinet_jax.system.errors import InputError

pytestmark = pytest.mark.usefixtures("root")


@pytest.fixture
def flat(tmp_path):
    """Two classes of five images each, without splits."""
    return put(tmp_path / "flat", *(f"{name}/{i}.png" for name in ("cat", "dog") for i in range(5)))


def put_run(workdir):
    """A finished run, as far as an image folder can see it."""
    put(workdir, "curves.png")
    (workdir / "run.json").write_text("{}")
    for name in ("best", "checkpoints", "tensorboard"):
        (workdir / name / "1").mkdir(parents=True)
        (workdir / name / "1/data").write_text("")


@pytest.mark.parametrize("workdir", [".", "run", "runs/folder", "cat/run", "runs/sweep/cell"])
def test_run_in_the_image_folder_is_no_class(flat, capsys, workdir):
    before = open_dataset("folder", flat).fingerprint
    put_run(flat / workdir)
    dataset = open_dataset("folder", flat)
    assert dataset.class_names == ("cat", "dog")
    assert dataset.fingerprint == before
    assert (f"runs or records are stored there: '{workdir}'" in capsys.readouterr().err) == (
        workdir != "."
    )


def test_run_next_to_the_splits(photos, capsys):
    put_run(photos / "run")
    assert len(open_dataset("folder", photos).train) == 3
    assert "WARNING" not in capsys.readouterr().err


@pytest.mark.parametrize("records", [".", "records", "a/records"])
def test_records_in_the_image_folder_are_no_class(flat, monkeypatch, records):
    before = open_dataset("folder", flat)
    for _ in range(2):
        monkeypatch.setenv("TFDS_DATA_DIR", str(flat / records))
        assert open_dataset("folder", flat).fingerprint == before.fingerprint
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(flat.parent))
    assert open_dataset("folder", flat).class_names == before.class_names


def test_output_folder_of_the_caller_is_no_class(flat):
    (flat / "runs/new").mkdir(parents=True)
    (flat / "runs/log.txt").write_text("")
    with pytest.raises(InputError, match=r"'runs'.*move everything that is not a class out of"):
        open_dataset("folder", flat)
    assert len(open_dataset("folder", flat, outputs=[flat / "runs/new"]).class_names) == 2


def test_links_without_target_are_listed(photos):
    for name in ("train/cat/9.jpg", "train/fox", "test/dog/deep", "notes"):
        (photos / name).symlink_to("/mnt/gone/x")
    (photos / "train/dog/loop").symlink_to("loop")
    (photos / "train/dog/.hidden").symlink_to("gone")
    with pytest.raises(InputError) as caught:
        open_dataset("folder", photos)
    message = str(caught.value)
    assert "5 link(s) in" in message
    assert "'notes', 'test/dog/deep', 'train/fox', 'train/cat/9.jpg', 'train/dog/loop'" in message


def test_split_that_is_a_link_without_target(photos):
    shutil.rmtree(photos / "test")
    (photos / "test").symlink_to("/mnt/gone/test")
    with pytest.raises(InputError, match=r"1 link.s. in .*photos point to nothing: 'test'\. Mount"):
        open_dataset("folder", photos)
    shutil.rmtree(photos / "train")
    (photos / "train").symlink_to("/mnt/gone/train")
    with pytest.raises(InputError, match="point to nothing: 'test', 'train'"):
        open_dataset("folder", photos)


def test_folders_of_operating_systems_are_ignored(photos):
    names = ("__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "#recycle", "lost+found")
    before = open_dataset("folder", photos).fingerprint
    put(photos, *(f"{place}/{name}/1.png" for name in names for place in ("train", "train/cat")))
    assert open_dataset("folder", photos).fingerprint == before


def test_class_folders_may_begin_with_underscores(photos):
    put(photos, "train/__other__/1.png", "train/_x/1.png")
    assert open_dataset("folder", photos).class_names == ("__other__", "_x", "cat", "dog")


def test_links_into_each_other_show_each_folder_once(photos):
    put(photos, "train/emu/e.png")
    for one in ("cat", "dog", "emu"):
        for other in {"cat", "dog", "emu"} - {one}:
            (photos / f"train/{one}/{other}").symlink_to(f"../{other}")
    (photos / "train/cat/again").symlink_to("deep")
    train = open_dataset("folder", photos).train
    assert np.bincount(train.labels).tolist() == [4, 4, 4]  # each the 2 + 1 + 1 of all
    assert sum(name.endswith("2.JPG") for name in train.file_names) == 3


def test_link_to_a_folder_outside_that_links_back(photos, tmp_path):
    put(tmp_path / "elsewhere", "8.png")
    (tmp_path / "elsewhere/back").symlink_to(photos / "train")
    (photos / "train/dog/linked").symlink_to(tmp_path / "elsewhere")
    names = open_dataset("folder", photos).train.file_names
    assert [name for name in names if "linked" in name] == ["train/dog/linked/8.png"]


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS refuses such names")
def test_names_that_are_not_utf8(photos):
    for split in ("train", "test"):
        (photos / split / "cat").rename(photos / split / os.fsdecode(b"caf\xe9"))
    (photos / os.fsdecode(b"train/dog/\xe9.png")).write_bytes(encoded(7))
    for _ in range(2):
        dataset = open_dataset("folder", photos)
        assert dataset.class_names == (r"caf\xe9", "dog")
        assert dataset.test.labels.tolist() == [0, 1]
        train = dataset.train
        assert train.read(train.file_names.index(r"train/dog/\xe9.png")) == encoded(7)


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS refuses such names")
def test_image_folder_whose_name_is_not_utf8(photos):
    renamed = photos.rename(photos.parent / os.fsdecode(b"caf\xe9"))
    assert len(open_dataset("folder", renamed).train) == 3
    (renamed / "train/cat/bad.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"1 unreadable image.*caf"):
        open_dataset("folder", renamed)


def test_records_folder_whose_name_is_not_utf8(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / os.fsdecode(b"caf\xe9")))
    with pytest.raises(InputError, match=r"in .*caf\\xe9, whose name is not UTF-8\. Set TFDS_DATA"):
        open_dataset("folder", photos)


@pytest.mark.parametrize("name", ["[1]", "a@2", "a*b?", "{a}", "a\\b", "caf\u00e9 $HOME #1"])
def test_special_characters_in_folder_names(photos, tmp_path, monkeypatch, name):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / f"root {name}"))
    renamed = photos.rename(tmp_path / name)
    for _ in range(2):
        assert open_dataset("folder", renamed).train.read(0) == encoded(0)


def test_files_that_are_not_used_are_counted(photos, capsys):
    others = ("x", "y", "x.mpo", "x.jpg?w=300", "train.txt", "deep/z.TXT", "Thumbs.db", ".hidden")
    for name in others:
        (photos / "train/cat" / name).write_bytes(encoded())
    (photos / "notes.txt").write_text("")
    assert len(open_dataset("folder", photos).train) == 3
    expected = (
        f"6 file(s) in class folders of {photos} are not used: "
        "2 .txt, 2 without extension, 1 .jpg?w=300, 1 .mpo."
    )
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".ppm", ".jxl", ".dng", ".CR2", ".nef", ".arw"])
def test_images_in_other_formats_are_refused_by_name(photos, suffix):
    (photos / f"train/cat/x{suffix}").write_bytes(b"P6 1 1 255 rgb")
    with pytest.raises(InputError, match=rf"train/cat/x{suffix}: not a JPEG, PNG or WebP"):
        open_dataset("folder", photos)


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS normalises names")
def test_two_spellings_of_one_class(photos):
    put(photos, "train/caf\u00e9/1.png", "train/cafe\u0301/2.png")
    with pytest.raises(InputError, match=r"same name, .*'cafe\\u0301' and 'caf\\xe9'\. Move their"):
        open_dataset("folder", photos)
    shutil.rmtree(photos / "train/caf\u00e9")
    put(photos, "test/caf\u00e9/3.png")
    dataset = open_dataset("folder", photos)
    assert dataset.class_names == ("cafe\u0301", "cat", "dog")
    assert dataset.test.labels.tolist() == [0, 1, 2]


def test_long_lists_are_cut(flat):
    for number in range(2000):
        (flat / f"c{number:04d}").mkdir()
    with pytest.raises(InputError, match=r"^2,000 class folder.*'c0019' and 1,980 more\. Add") as e:
        open_dataset("folder", flat)
    assert len(str(e.value)) < 1000


def test_long_name_of_an_image_folder(photos):
    renamed = photos.rename(photos.parent / ("x" * 250))
    assert len(open_dataset("folder", renamed).train) == 3


def test_counts_and_drawn_split_are_printed(flat, photos, capsys):
    open_dataset("folder", photos)
    assert "folder: 3 train, 2 test images of 2 classes." in capsys.readouterr().err
    open_dataset("folder", flat)
    printed = capsys.readouterr().err
    assert f"{flat} has no test/ or val/: a fifth of each class is set apart" in printed
    assert "folder: 8 train, 2 test images of 2 classes." in printed
    open_dataset("folder", photos / "train")
    warning = f"WARNING: {photos / 'test'} is not used. To use it, set data.dir={photos}."
    assert warning in capsys.readouterr().err


def test_all_images_as_test_images(flat, photos, capsys):
    everything = open_dataset("folder", flat, all_as_test=True)
    printed = capsys.readouterr().err
    assert "set apart" not in printed
    assert "folder: 10 test images of 2 classes." in printed
    assert len(everything.test) == 10
    assert np.bincount(everything.test.labels).tolist() == [5, 5]
    for index, name in enumerate(everything.test.file_names):
        assert everything.test.read(index) == (flat / name).read_bytes()
    assert everything.fingerprint == open_dataset("folder", flat).fingerprint
    assert len(open_dataset("folder", photos, all_as_test=True).test) == 2  # it has a test split


def test_copies_in_two_splits_or_classes_are_reported(flat, photos, capsys):
    shutil.copy(photos / "train/cat/1.png", photos / "test/cat/copy.png")
    open_dataset("folder", photos)
    message = "1 image(s) are in more than one of the splits: train/cat/1.png = test/cat/copy.png."
    assert f"WARNING: {message}" in capsys.readouterr().err
    for number in range(5):
        shutil.copy(flat / f"cat/{number}.png", flat / f"dog/copy{number}.png")
    open_dataset("folder", flat)
    printed = capsys.readouterr().err
    assert "WARNING: 5 image(s) are in more than one of the classes: cat/" in printed
    assert "; ...\n" in printed


def test_changes_since_the_previous_preparation(photos):
    before = open_dataset("folder", photos)
    assert before.changes_since(before.fingerprint) == ""
    (photos / "train/cat/1.png").unlink()
    (photos / "test/cat/3.png").write_bytes(encoded(99))
    put(photos, "train/dog/new.png")
    os.utime(photos / "train/dog/new.png", ns=(1, 1))
    expected = "1 removed: 'train/cat/1.png'; 1 added: 'train/dog/new.png'; "
    expected += "1 changed: 'test/cat/3.png'"
    assert open_dataset("folder", photos).changes_since(before.fingerprint) == expected
    os.utime(photos / "train/dog/new.png", ns=(2, 2))  # prepared again, with the same images
    after = open_dataset("folder", photos)
    assert after.changes_since(before.fingerprint) == expected
    assert after.changes_since("another") == ""


def test_folder_that_cannot_be_read(photos, monkeypatch):
    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(InputError, match=r"Cannot read .*photos: Permission denied\. Check"):
        open_dataset("folder", Path(photos))
