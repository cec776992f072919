"""Splits, subsets and held-out images, and records that are damaged."""

import pickle
import shutil
from functools import partial

import numpy as np
import pytest
from image_folder import put
from small_archives import CUB_COUNTS, jpeg, make_small, put_cub

from apinet_jax.data.birds.builder import Birds, BirdsConfig
from apinet_jax.data.catalog import open_dataset
from apinet_jax.data.official.cub import Cub
from apinet_jax.data.source import Dataset, Source
from apinet_jax.data.stratify import draw_stratified, hold_out
from apinet_jax.system.errors import InputError, RunError


def make_source(labels):
    """A source with one record per label; the bytes of a record are its number."""
    return Source(
        records=[{"image": str(number).encode()} for number in range(len(labels))],
        rows=np.arange(len(labels)),
        labels=np.array(labels),
        file_names=tuple(f"{number}.png" for number in range(len(labels))),
        split="train",
    )


def dataset(labels, validation=None):
    names = tuple("abcdefgh"[: max(labels) + 1])
    return Dataset("folder", names, make_source(labels), validation, None, "0" * 64)


def test_reading():
    source = make_source([0, 1, 1])
    assert len(source) == 3
    assert source.read(2) == b"2"
    assert [source.read(index) for index in [2, 0, 2]] == [b"2", b"0", b"2"]


def test_subset_of_a_subset():
    part = make_source([0, 1, 2, 3, 4]).subset(np.array([4, 2, 0])).subset(np.array([1, 0]))
    assert part.labels.tolist() == [2, 4]
    assert part.file_names == ("2.png", "4.png")
    assert [part.read(index) for index in [0, 1]] == [b"2", b"4"]


def test_hold_out_from_every_class():
    labels = [0] * 10 + [1] * 4 + [2]
    complete = dataset(labels)
    split = hold_out(complete, 0.2, seed=1)
    # 0.2 * 10 = 2; 0.2 * 4 = 0.8, so 1; the only image of the third class stays.
    assert np.bincount(split.validation.labels).tolist() == [2, 1]
    assert np.bincount(split.train.labels).tolist() == [8, 3, 1]
    both = split.train.file_names + split.validation.file_names
    assert sorted(both) == sorted(complete.train.file_names)
    assert len(complete.train) == 15  # the argument is unchanged
    assert complete.validation is None


def test_hold_out_is_a_function_of_the_seed():
    complete = dataset([0] * 30 + [1] * 30)
    first, again, other = (hold_out(complete, 0.1, seed) for seed in (1, 1, 2))
    assert first.validation.file_names == again.validation.file_names
    assert first.validation.file_names != other.validation.file_names


def test_hold_out_of_no_fraction_or_with_own_validation():
    complete = dataset([0, 0, 1, 1])
    assert hold_out(complete, 0.0, seed=0) is complete
    with_own = dataset([0, 0, 1, 1], validation=make_source([0]))
    assert hold_out(with_own, 0.5, seed=0) is with_own


def test_hold_out_of_single_images():
    with pytest.raises(InputError, match=r"val_fraction = 0\.5 .*single.*val_fraction=0, or add"):
        hold_out(dataset([0, 1, 2]), 0.5, seed=0)


@pytest.mark.parametrize(("fraction", "drawn"), [(0.01, 1), (0.5, 2), (0.7, 3), (0.99, 3)])
def test_draw_leaves_at_least_one(fraction, drawn):
    assert draw_stratified(np.zeros(4, int), fraction, seed=0).sum() == drawn


def test_draw_never_changes():
    # As first recorded: a change here changes the splits behind every recorded run.
    drawn = draw_stratified(np.array([0, 1] * 6), 0.5, seed=0)
    assert np.flatnonzero(drawn).tolist() == [1, 3, 4, 5, 6, 10]


@pytest.mark.parametrize("fraction", [-0.1, 0.0, 1.0])
def test_draw_of_no_fraction(fraction):
    with pytest.raises(ValueError, match="between 0 and 1"):
        draw_stratified(np.zeros(4, int), fraction, seed=0)


def test_unknown_name():
    with pytest.raises(
        InputError, match=r"'cars98'.*birds, cub, aircraft, cars, dogs, nabirds, folder"
    ):
        open_dataset("cars98")


def test_source_can_be_pickled(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "root"))
    photos = put(
        tmp_path / "photos", "train/a/1.png", "train/b/1.png", "train/b/2.png", "test/a/3.png"
    )
    source = open_dataset("folder", photos).train.subset(np.array([2, 0]))
    opened = source.read(0)  # now the reader has a file open, which cannot be pickled
    copy = pickle.loads(pickle.dumps(source))
    assert copy.read(0) == opened == (photos / "train/b/2.png").read_bytes()
    assert copy.labels.tolist() == [1, 0]


def test_birds_on_a_full_disk(tmp_path, monkeypatch):
    def full(_builder):
        raise RuntimeError("write() failed: No space left on device")

    monkeypatch.setattr(Birds, "download_and_prepare", full)
    with pytest.raises(RunError, match=r"No space left.*set TFDS_DATA_DIR to another folder"):
        open_dataset("birds", tmp_path)


@pytest.fixture(scope="module")
def few_birds(tmp_path_factory):
    """The records of a few drawn birds, and the configuration that draws them."""
    few = BirdsConfig(train_per_species=1, test_per_species=1)
    root = tmp_path_factory.mktemp("few_birds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Birds, "BUILDER_CONFIGS", (few,))
        open_dataset("birds", root)
    return root, few


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("metadata.json", 50),
        ("metadata.json", 0),
        ("dataset_info.json", 50),
        ("dataset_info.json", None),
    ],
)
def test_damaged_birds(few_birds, tmp_path, monkeypatch, name, left):
    drawn, few = few_birds
    monkeypatch.setattr(Birds, "BUILDER_CONFIGS", (few,))
    shutil.copytree(drawn, tmp_path, dirs_exist_ok=True)
    (path,) = tmp_path.glob(f"birds/*/*/{name}")
    content = path.read_bytes()
    path.unlink()
    if left is not None:
        path.write_bytes(content[:left])
    folder = tmp_path / "birds"
    with pytest.raises(RunError, match=rf"The drawn birds in {folder} cannot .*Delete that folder"):
        open_dataset("birds", tmp_path)


def test_deleted_birds_are_drawn_again(few_birds, tmp_path, monkeypatch):
    drawn, few = few_birds
    monkeypatch.setattr(Birds, "BUILDER_CONFIGS", (few,))
    copy = shutil.copytree(drawn, tmp_path / "copy")
    before = open_dataset("birds", copy)
    shutil.rmtree(copy / "birds")
    after = open_dataset("birds", copy)
    assert after.class_names == before.class_names
    assert after.train.read(0) == before.train.read(0)


@pytest.fixture
def cub(tmp_path, monkeypatch):
    """A function that opens a small CUB, and the folder of its records."""
    make_small(monkeypatch, tmp_path / "root", Cub, **CUB_COUNTS)
    manual = put_cub(tmp_path / "manual")
    open_dataset("cub", manual_dir=manual)
    return partial(open_dataset, "cub", manual_dir=manual), tmp_path / "root/cub/1.0.0"


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("metadata.json", 50),
        ("metadata.json", None),
        ("dataset_info.json", 50),
        ("dataset_info.json", 0),
        ("cub-test.array_record-00000", 0),
        ("cub-test.array_record-00000", None),
    ],
)
def test_damaged_records_are_prepared_again(cub, capsys, name, left):
    opened, folder = cub
    before = opened().fingerprint
    path = folder / name
    content = path.read_bytes()
    path.unlink()
    if left is not None:
        path.write_bytes(content[:left])
    capsys.readouterr()
    dataset = opened()
    assert dataset.fingerprint == before
    assert dataset.test.read(0) == jpeg(1)
    assert capsys.readouterr().err.count("they are prepared again") == 1


def test_damaged_record(cub):
    opened, folder = cub
    test = opened().test
    (folder / "cub-test.array_record-00000").write_bytes(b"half")
    with pytest.raises(
        RunError, match=rf"Record 0 of test in {folder} cannot .*Delete that folder"
    ):
        test.read(0)
