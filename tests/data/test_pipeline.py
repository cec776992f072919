"""A batch depends only on (seed, step): not on workers, threads, hosts or the first step."""

import os
from dataclasses import replace

import numpy as np
import pytest
from image_folder import noise_source

from apinet_jax.data import pipeline
from apinet_jax.data.batch import Batch
from apinet_jax.data.cache import ImageReader
from apinet_jax.data.crops import ArrayReader, CentralCrop, RandomCrop
from apinet_jax.data.decoding import decode
from apinet_jax.data.pipeline import EvalLoader, TrainLoader, stream, stream_split
from apinet_jax.data.sampler import BalancedSampler
from apinet_jax.data.transforms import center_crop, resize
from apinet_jax.system.errors import RunError

COUNT, SIZE, CROP = 26, 20, 16


@pytest.fixture(scope="module")
def source():
    return noise_source(COUNT)


@pytest.fixture(scope="module")
def loader(source):
    sampler = BalancedSampler(source.labels, classes=3, images=4, num_steps=10, seed=5)
    crops = RandomCrop(ImageReader(source, SIZE), CROP, seed=5)
    return TrainLoader(crops, source.labels, sampler, rows=np.arange(12))


def eval_loader(source, batch_size, rows):
    return EvalLoader(CentralCrop(ImageReader(source, SIZE), CROP), source.labels, batch_size, rows)


def collect(loader, start, stop, workers=0):
    with stream(loader, start, stop, workers) as batches:
        return list(batches)


def assert_same(ours, reference):
    assert len(ours) == len(reference)
    for a, b in zip(ours, reference, strict=True):
        for field, other in zip(a, b, strict=True):
            np.testing.assert_array_equal(field, other)


def test_batch_of_a_step(loader, source):
    batch = loader(3)
    keys = loader.sampler(3)
    assert batch.image_id.tolist() == keys.tolist()
    assert batch.label.tolist() == (keys % 3).tolist()
    assert batch.image.dtype == np.uint8
    for slot, key in enumerate(keys):
        image = resize(decode(source.read(int(key))), SIZE)
        expected = RandomCrop(ArrayReader(image[None]), CROP, 5)(0, 3, slot)
        np.testing.assert_array_equal(batch.image[slot], expected)


def test_augmentation_differs_between_steps(loader):
    first, later = loader(0), loader(9)
    again = [(i, j) for i in range(12) for j in range(12) if first.image_id[i] == later.image_id[j]]
    assert again
    assert any(np.any(first.image[i] != later.image[j]) for i, j in again)


def test_stream_starts_anywhere(loader):
    assert_same(collect(loader, 7, 10), collect(loader, 0, 10)[7:])


def test_worker_processes_change_nothing(loader):
    assert_same(collect(loader, 2, 9, workers=2), collect(loader, 2, 9))


class Probe(EvalLoader):
    """A loader whose images say whether its process is limited to the CPU, and labels its id."""

    def __call__(self, index):
        on_cpu = os.environ["JAX_PLATFORMS"] == "cpu"
        process = np.array([os.getpid()])
        return Batch(np.array([on_cpu]), process, np.array([index]), np.array([True]))


@pytest.mark.parametrize("workers", [0, 2])
def test_only_worker_processes_are_limited_to_the_cpu(source, monkeypatch, workers):
    monkeypatch.setenv("JAX_PLATFORMS", "accelerator")
    loader = Probe(CentralCrop(ImageReader(source, SIZE), CROP), source.labels, 1, np.arange(1))
    with stream(loader, 0, 6, workers) as batches:
        seen = []
        for batch in batches:
            assert os.environ["JAX_PLATFORMS"] == "accelerator"
            seen.append((bool(batch.image[0]), int(batch.label[0]), int(batch.image_id[0])))
    on_cpu, processes, steps = zip(*seen, strict=True)
    assert on_cpu == (workers > 0,) * 6
    assert len(set(processes) - {os.getpid()}) == workers
    assert steps == tuple(range(6))


def test_few_batches_of_a_split_start_no_worker(source):
    loader = Probe(CentralCrop(ImageReader(source, SIZE), CROP), source.labels[:7], 1, np.arange(1))
    with stream_split(loader, workers=2) as batches:
        assert {int(batch.label[0]) for batch in batches} == {os.getpid()}


def test_hosts_share_the_batch(loader, source):
    halves = [replace(loader, rows=rows)(4) for rows in (np.arange(6), np.arange(6, 12))]
    joined = [np.concatenate(fields) for fields in zip(*halves, strict=True)]
    assert_same([joined], [loader(4)])


@pytest.mark.parametrize(
    ("batch_size", "workers"), [(1, 0), (4, 0), (4, 2), (13, 0), (26, 0), (40, 0)]
)
def test_evaluation_has_every_image_once(source, batch_size, workers):
    loader = eval_loader(source, batch_size, np.arange(batch_size))
    batches = collect(loader, 0, loader.num_batches, workers)
    mask = np.concatenate([batch.mask for batch in batches])
    ids = np.concatenate([batch.image_id for batch in batches])[mask]
    assert ids.tolist() == list(range(COUNT))
    assert all(len(batch.image) == batch_size for batch in batches)
    image = resize(decode(source.read(25)), SIZE)
    last = np.concatenate([batch.image for batch in batches])[mask][-1]
    np.testing.assert_array_equal(last, center_crop(image, CROP))


def test_evaluation_rows_of_two_hosts_cover_all(source):
    loaders = [eval_loader(source, 8, rows) for rows in (np.arange(4), np.arange(4, 8))]
    seen = [
        image
        for loader in loaders
        for index in range(loader.num_batches)
        for image in loader(index).image_id[loader(index).mask].tolist()
    ]
    assert sorted(seen) == list(range(COUNT))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (-9, r"exit code -9; -9 is usually .* memory\).*try a lower data\.workers"),
        (-7, r"exit code -7; \S+, which has [\d,]+ MB, was too small.*data\.workers=0"),
    ],
)
def test_killed_worker(tmp_path, monkeypatch, code, message):
    monkeypatch.setattr(pipeline, "_SHARED_MEMORY", tmp_path)
    with pytest.raises(RunError, match=message), pipeline._explain_lost_worker():
        raise RuntimeError(f"Worker process was terminated unexpectedly with exit code {code}")
