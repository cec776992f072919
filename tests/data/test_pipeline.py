"""A batch depends on (seed, step) alone: not on workers, threads, hosts, caches or the start."""

import multiprocessing
import os
import signal
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from apinet_jax.data.batch import Batch
from apinet_jax.data.cache import ImageReader, cached_reader
from apinet_jax.data.pipeline import EvalLoader, TrainLoader, stream
from apinet_jax.data.sampler import BalancedSampler
from apinet_jax.data.source import Source
from apinet_jax.data.transforms import center_crop, decode, random_crop_flip, resize
from apinet_jax.system.errors import RunError

COUNT, SIZE, CROP = 26, 20, 16


def png(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (18, 30, 3), np.uint8)
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def source():
    records = [{"image": png(i)} for i in range(COUNT)]
    labels = np.arange(COUNT) % 3
    names = tuple(f"{number}.png" for number in range(COUNT))
    return Source(records, np.arange(COUNT), labels, names, "train")


@pytest.fixture(scope="module")
def loader(source):
    sampler = BalancedSampler(source.labels, classes=3, images=4, num_steps=10, seed=5)
    return TrainLoader(ImageReader(source, SIZE), sampler, CROP, seed=5, rows=np.arange(12))


def collect(loader, start, stop, workers=0):
    with stream(loader, start, stop, workers) as batches:
        return list(batches)


def assert_same(ours, reference):
    assert len(ours) == len(reference)
    for a, b in zip(ours, reference, strict=True):
        for field, other in zip(a, b, strict=True):
            np.testing.assert_array_equal(field, other)


def test_a_batch_is_what_its_step_says(loader, source):
    batch = loader(3)
    keys = loader.sampler(3)
    assert batch.image_id.tolist() == keys.tolist()
    assert batch.label.tolist() == (keys % 3).tolist()
    assert batch.image.dtype == np.uint8
    for slot, key in enumerate(keys):
        whole = resize(decode(source.read(int(key))), SIZE)
        expected = random_crop_flip(whole, CROP, 5, 3, slot)
        np.testing.assert_array_equal(batch.image[slot], expected)


def test_an_image_is_augmented_anew_every_time(loader):
    first, later = loader(0), loader(9)
    again = [(i, j) for i in range(12) for j in range(12) if first.image_id[i] == later.image_id[j]]
    assert again
    assert any(np.any(first.image[i] != later.image[j]) for i, j in again)


def test_stream_starts_anywhere(loader):
    whole = collect(loader, 0, 10)
    assert_same(collect(loader, 7, 10), whole[7:])


def test_worker_processes_change_nothing(loader):
    assert_same(collect(loader, 2, 9, workers=2), collect(loader, 2, 9))


class Telling(EvalLoader):
    """Instead of images and labels: the platform its process was told to use, and which it is."""

    def __call__(self, index):
        told = os.environ["JAX_PLATFORMS"] == "cpu"
        return Batch(np.array([told]), np.array([os.getpid()]), np.array([index]), np.array([True]))


@pytest.mark.parametrize("workers", [0, 2])
def test_only_worker_processes_are_told_to_leave_the_accelerator_alone(
    source, monkeypatch, workers
):
    monkeypatch.setenv("JAX_PLATFORMS", "accelerator")
    loader = Telling(ImageReader(source, SIZE), CROP, 1, np.arange(1))
    with stream(loader, 0, 6, workers) as batches:
        seen = []
        for batch in batches:
            assert os.environ["JAX_PLATFORMS"] == "accelerator"
            seen.append((bool(batch.image[0]), int(batch.label[0]), int(batch.image_id[0])))
    told, processes, steps = zip(*seen, strict=True)
    assert told == (workers > 0,) * 6
    assert len(set(processes) - {os.getpid()}) == workers
    assert steps == tuple(range(6))


def test_hosts_share_the_batch(loader, source):
    halves = [
        TrainLoader(loader.reader, loader.sampler, CROP, seed=5, rows=rows)(4)
        for rows in (np.arange(6), np.arange(6, 12))
    ]
    joined = [np.concatenate(fields) for fields in zip(*halves, strict=True)]
    assert_same([joined], [loader(4)])


def test_cache_holds_the_very_pixels(source, tmp_path):
    plain = ImageReader(source, SIZE)
    cached = cached_reader(source, SIZE, tmp_path, "fingerprint")
    for index in range(COUNT):
        np.testing.assert_array_equal(cached(index), plain(index))
    (file,) = tmp_path.iterdir()
    assert file.stat().st_size == COUNT * SIZE * SIZE * 3


def test_parts_of_a_split_share_one_file(source, tmp_path):
    part = source.subset(np.array([4, 2]))
    reader = cached_reader(part, SIZE, tmp_path, "fingerprint")
    (file,) = tmp_path.iterdir()
    before = file.stat().st_mtime_ns
    np.testing.assert_array_equal(reader(1), ImageReader(source, SIZE)(2))
    rest = cached_reader(source.subset(np.array([25, 0])), SIZE, tmp_path, "fingerprint")
    np.testing.assert_array_equal(rest(0), ImageReader(source, SIZE)(25))
    assert [path.stat().st_mtime_ns for path in tmp_path.iterdir()] == [before]


@pytest.mark.parametrize(
    "other",
    [{"split": "test"}, {"fingerprint": "other images of the same names"}, {"size": SIZE + 1}],
)
def test_what_differs_has_a_file_of_its_own(source, tmp_path, other):
    cached_reader(source, SIZE, tmp_path, "fingerprint")
    split = replace(source, split=other.get("split", source.split))
    cached_reader(split, other.get("size", SIZE), tmp_path, other.get("fingerprint", "fingerprint"))
    assert len(list(tmp_path.iterdir())) == 2


def test_cache_that_was_cut_off_is_written_again(source, tmp_path):
    cached_reader(source, SIZE, tmp_path, "fingerprint")
    (file,) = tmp_path.iterdir()
    os.truncate(file, file.stat().st_size - 1)
    cached = cached_reader(source, SIZE, tmp_path, "fingerprint")
    np.testing.assert_array_equal(cached(25), ImageReader(source, SIZE)(25))
    assert list(tmp_path.iterdir()) == [file]


class Records(list):
    """Records of which the last one does something when it is read."""

    def __init__(self, records, at_last):
        super().__init__(records)
        self.at_last = at_last

    def __getitem__(self, row):
        if row == COUNT - 1:
            self.at_last()
        return super().__getitem__(row)


def write_and_be_killed(source, folder):
    killed = Records(source.records, lambda: os.kill(os.getpid(), signal.SIGKILL))
    cached_reader(replace(source, records=killed), SIZE, folder, "fingerprint")


def test_what_a_killed_write_left_is_cleared_by_the_next(source, tmp_path):
    process = multiprocessing.get_context("spawn").Process(
        target=write_and_be_killed, args=(source, tmp_path)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (part,) = tmp_path.iterdir()
    assert part.stat().st_size > 0
    cached_reader(source, SIZE, tmp_path, "fingerprint")
    assert [path.suffix for path in tmp_path.iterdir()] == [".uint8"]


def test_a_write_that_goes_on_is_not_cleared_by_another(source, tmp_path):
    records = Records(
        source.records, lambda: cached_reader(source, SIZE, tmp_path, "written meanwhile")
    )
    slow = cached_reader(replace(source, records=records), SIZE, tmp_path, "fingerprint")
    np.testing.assert_array_equal(slow(24), ImageReader(source, SIZE)(24))
    assert [path.suffix for path in tmp_path.iterdir()] == [".uint8"] * 2


def test_cache_that_cannot_be_written_says_so_and_leaves_nothing(source, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(RunError, match=r"No space left.*--config\.data\.cache=off"):
        cached_reader(source, SIZE, tmp_path, "fingerprint")
    assert not list(tmp_path.iterdir())


def test_cache_folder_that_cannot_be_made(source, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"could not be written to .*file/cache"):
        cached_reader(source, SIZE, tmp_path / "file/cache", "fingerprint")


@pytest.mark.parametrize(
    ("batch_size", "workers"), [(1, 0), (4, 0), (4, 2), (13, 0), (26, 0), (40, 0)]
)
def test_evaluation_shows_every_image_once(source, batch_size, workers):
    loader = EvalLoader(ImageReader(source, SIZE), CROP, batch_size, np.arange(batch_size))
    batches = collect(loader, 0, loader.num_batches, workers)
    mask = np.concatenate([batch.mask for batch in batches])
    ids = np.concatenate([batch.image_id for batch in batches])[mask]
    assert ids.tolist() == list(range(COUNT))
    assert all(len(batch.image) == batch_size for batch in batches)
    whole = resize(decode(source.read(25)), SIZE)
    last = np.concatenate([batch.image for batch in batches])[mask][-1]
    np.testing.assert_array_equal(last, center_crop(whole, CROP))


def test_evaluation_rows_of_two_hosts_cover_all(source):
    loaders = [
        EvalLoader(ImageReader(source, SIZE), CROP, 8, rows)
        for rows in (np.arange(4), np.arange(4, 8))
    ]
    seen = [
        image
        for loader in loaders
        for index in range(loader.num_batches)
        for image in loader(index).image_id[loader(index).mask].tolist()
    ]
    assert sorted(seen) == list(range(COUNT))
