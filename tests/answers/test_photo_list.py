"""The photos that a command names."""

import os

import pytest

from apinet_jax.answers.prediction.photo_list import list_photos
from apinet_jax.system.errors import InputError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("b.jpg", "a.PNG", "sub/c.webp", "sub/.hidden.jpg", ".trash/d.jpg", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def paths(*names, lines=None):
    return [photo.path for photo in list_photos(names, lines)]


def test_folder_is_read_as_training_reads_it(folder):
    assert paths(".") == ["./a.PNG", "./b.jpg", "./sub/c.webp"]
    (folder / "sub/raw.heic").touch()  # not supported, and therefore reported
    os.symlink("nowhere", folder / "sub/link.jpg")
    assert paths("sub") == ["sub/c.webp", "sub/raw.heic", "sub/link.jpg"]


def test_named_files_may_have_any_name(folder):
    assert paths("notes.txt", "sub/.hidden.jpg") == ["notes.txt", "sub/.hidden.jpg"]


def test_each_photo_once_in_order(folder):
    assert paths("sub/c.webp", str(folder), "./b.jpg", "b.jpg") == [
        *("sub/c.webp", f"{folder}/a.PNG", f"{folder}/b.jpg"),
    ]


def test_patterns(folder):
    assert paths("*") == ["a.PNG", "b.jpg", "sub/c.webp"]
    assert paths("**/*.webp") == ["sub/c.webp"]
    (folder / "x[1].jpg").touch()  # a file before a pattern
    assert paths("x[1].jpg") == ["x[1].jpg"]


def test_lists(folder):
    lines = b"b.jpg\r\n\nsub\nmissing.jpg\nx\xff.jpg\n"
    assert paths("-", lines=lines) == [
        *("b.jpg", "sub/c.webp", "missing.jpg", os.fsdecode(b"x\xff.jpg")),
    ]
    assert paths("-", lines=b"a.PNG\0b.jpg\0") == ["a.PNG", "b.jpg"]


def test_no_line_of_a_list_is_dropped(folder):
    names = [
        "x[1].jpg",
        "*.jpg",
        "~nosuchuser/a.jpg",
        "http://x/y.jpg",
        "gs://b/photo",
        "gs://b/*.jpg",
    ]
    assert paths("-", lines="\n".join(names).encode()) == names


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.jpg", "missing.jpg does not exist"),
        ("*.gif", "matches no photo"),
        (".trash/empty", "does not exist"),
        ("-", "standard input is empty"),
        ("http://x/y.jpg", "not on a disk"),
    ],
)
def test_nothing_found(folder, name, message):
    with pytest.raises(InputError, match=message):
        list_photos(["b.jpg", name], b"\n")
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match="empty matches no photo"):
        list_photos(["empty"])


def test_class_folders(folder):
    for name in ("Wren/x/1.jpg", "Wren/2.jpg", "x/Robin/3.jpg"):
        (folder / "test" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "test" / name).touch()
    label_of = {"Robin": 0, "Wren": 1, "test": 2}

    def labels(*names):
        return [photo.true_label(label_of) for photo in list_photos(names)]

    assert labels("test/Wren/2.jpg", "b.jpg", "test/Wren") == [1, None, 1]
    # The nearest folder that is a class; not above the folder that was named.
    assert labels("test/x/Robin") == [0]
    assert labels("test/Wren/x") == [None]
    assert labels("test") == [1, 1, 0]


def test_runs_in_a_folder_are_skipped(folder, capsys):
    (folder / "sub/run").mkdir()
    for name in ("run.json", "curves.png"):
        (folder / "sub/run" / name).touch()
    assert paths("sub") == ["sub/c.webp"]
    assert "Skipped in sub" in capsys.readouterr().err
