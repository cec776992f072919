"""Preparation of a folder: when it is repeated, and what a failure leaves."""

import os
import resource
import shutil

import pytest
from image_folder import encoded, put

from apinet_jax.data.catalog import open_dataset
from apinet_jax.data.records import builder as records
from apinet_jax.data.records.folder import Folder
from apinet_jax.system.errors import InputError, RunError

pytestmark = pytest.mark.usefixtures("root")


@pytest.fixture
def preparations(monkeypatch):
    """Count preparations: each checks the images once."""
    calls = []
    check_images = records.check_images
    monkeypatch.setattr(
        records, "check_images", lambda *args: calls.append(1) or check_images(*args)
    )
    return calls


def test_records_keep_their_order_over_several_files(tmp_path, root, monkeypatch):
    monkeypatch.setattr(records, "_RECORDS_PER_FILE", 2)
    folder = put(tmp_path / "five", *(f"train/{name}/x.png" for name in "abcde"))
    train = open_dataset("folder", folder).train
    assert len(list(root.rglob("*-train.array_record-*"))) == 3
    for index, name in enumerate("abcde"):
        assert train.read(index) == (folder / f"train/{name}/x.png").read_bytes()


def test_prepared_once(photos, root, preparations, capfd):
    first = open_dataset("folder", photos)
    second = open_dataset("folder", f"{photos}/")
    assert preparations == [1]
    assert first.fingerprint == second.fingerprint
    assert [path.name for path in root.iterdir()] == ["folder"]  # no temporary folder
    assert capfd.readouterr().out == ""


def test_records_of_an_older_rule_are_prepared_again(photos, preparations, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "VERSION", "1.0.0")
        open_dataset("folder", photos)
    open_dataset("folder", photos)
    assert preparations == [1, 1]


def test_folders_of_one_name_have_separate_records(photos, tmp_path):
    other = put(tmp_path / "other" / "photos", "train/x/1.png", "train/y/2.png")
    assert open_dataset("folder", photos).class_names == ("cat", "dog")
    assert open_dataset("folder", other).class_names == ("x", "y")
    assert open_dataset("folder", photos).class_names == ("cat", "dog")


@pytest.mark.parametrize("change", ["add", "remove", "replace"])
def test_prepared_again_when_the_folder_changes(photos, root, preparations, change):
    before = open_dataset("folder", photos)
    held = before.train.read(0)
    target = photos / "train/cat/1.png"
    if change == "add":
        put(photos, "train/cat/0.png")
    elif change == "remove":
        target.unlink()
    else:
        target.write_bytes(encoded(99))
    after = open_dataset("folder", photos)
    assert preparations == [1, 1]
    assert after.fingerprint != before.fingerprint
    assert len(after.train) == len(before.train) + {"add": 1, "remove": -1, "replace": 0}[change]
    if change == "replace":
        assert after.train.read(0) == encoded(99)
    assert held == before.train.read(0)  # a run that has them open can still read
    assert len(list(root.glob("folder/*/*"))) == 1
    open_dataset("folder", photos)
    assert preparations == [1, 1]


def test_touched_and_copied_folders_keep_their_fingerprint(photos, tmp_path):
    before = open_dataset("folder", photos).fingerprint
    os.utime(photos / "train/cat/1.png", ns=(1, 1))
    assert open_dataset("folder", photos).fingerprint == before
    shutil.copytree(photos, tmp_path / "copy")
    assert open_dataset("folder", tmp_path / "copy").fingerprint == before


def test_failed_preparation_keeps_the_old_records(photos, root, monkeypatch):
    before = open_dataset("folder", photos)
    put(photos, "train/cat/0.png")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(records.EncodedImages, "_generate_examples", killed)
        with pytest.raises(KeyboardInterrupt):
            open_dataset("folder", photos)
    assert [path.name for path in root.iterdir()] == ["folder"]
    (photos / "train/cat/0.png").unlink()
    assert open_dataset("folder", photos).fingerprint == before.fingerprint


def test_another_process_is_faster(photos, preparations, monkeypatch):
    check_images = records.check_images

    def prepare_twice(*args):
        monkeypatch.setattr(records, "check_images", check_images)
        open_dataset("folder", photos)
        return check_images(*args)

    monkeypatch.setattr(records, "check_images", prepare_twice)
    assert len(open_dataset("folder", photos).train) == 3
    assert len(open_dataset("folder", photos).train) == 3


def test_image_changes_during_preparation(photos, monkeypatch):
    check_images = records.check_images

    def then_change(*args):
        checked = check_images(*args)
        (photos / "train/cat/1.png").write_bytes(encoded(200))
        return checked

    monkeypatch.setattr(records, "check_images", then_change)
    with pytest.raises(InputError, match=r"train/cat/1\.png changed while it was being prepared"):
        open_dataset("folder", photos)


def test_root_that_cannot_be_written(photos, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "file"))
    with pytest.raises(RunError, match="set TFDS_DATA_DIR to another folder"):
        open_dataset("folder", photos)


def test_full_disk(tmp_path, root, monkeypatch):
    photos = put(tmp_path / "photos", "a/1.png", "b/1.png")
    for path in photos.rglob("*.png"):  # 1 MB each: everything else stays below the limit
        path.write_bytes(path.read_bytes() + os.urandom(1_000_000))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, limits[1]))
    try:
        with pytest.raises(RunError, match=r"File too large.*set TFDS_DATA_DIR to another folder"):
            open_dataset("folder", photos)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(root.iterdir()) == []


def test_skip_unreadable(photos, preparations, capsys):
    (photos / "train/cat/bad.png").write_bytes(encoded()[:40])
    (photos / "train/cat/empty.jpg").write_bytes(b"")
    (photos / "test/dog/movie.gif").write_bytes(b"GIF89a")
    for _ in range(2):
        dataset = open_dataset("folder", photos, skip_unreadable=True)
        assert len(dataset.train) == 3
        assert len(dataset.test) == 2
        assert dataset.skipped == (
            "train/cat/bad.png",
            "train/cat/empty.jpg",
            "test/dog/movie.gif",
        )
        assert "Left out 3 unreadable image file(s)" in capsys.readouterr().err
    assert preparations == [1]
    # Skipping once does not accept the files for good.
    with pytest.raises(InputError, match=r"3 unreadable .*photos:(.|\n)*empty\.jpg: empty file"):
        open_dataset("folder", photos)
