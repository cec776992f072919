"""The file of resized images: the same pixels, shared by processes, safe against kills."""

import multiprocessing
import os
import signal
from dataclasses import replace
from io import BytesIO
from multiprocessing.pool import ThreadPool

import numpy as np
import pytest
from image_folder import noise_source
from PIL import Image

from apinet_jax.data.cache import ImageReader, cached_reader
from apinet_jax.data.source import Source
from apinet_jax.system.errors import RunError

COUNT, SIZE = 26, 20


@pytest.fixture(scope="module")
def source():
    return noise_source(COUNT)


def files(folder):
    """What a cache folder holds besides locks."""
    return sorted(path for path in folder.iterdir() if path.suffix != ".lock")


def test_cache_holds_the_same_pixels(source, tmp_path):
    plain = ImageReader(source, SIZE)
    cached = cached_reader(source, SIZE, tmp_path, "fingerprint")
    for index in range(COUNT):
        np.testing.assert_array_equal(cached(index), plain(index))
    (file,) = files(tmp_path)
    assert file.stat().st_size == COUNT * SIZE * SIZE * 3


def test_parts_of_a_split_share_one_file(source, tmp_path):
    part = source.subset(np.array([4, 2]))
    reader = cached_reader(part, SIZE, tmp_path, "fingerprint")
    (file,) = files(tmp_path)
    before = file.stat().st_mtime_ns
    np.testing.assert_array_equal(reader(1), ImageReader(source, SIZE)(2))
    rest = cached_reader(source.subset(np.array([25, 0])), SIZE, tmp_path, "fingerprint")
    np.testing.assert_array_equal(rest(0), ImageReader(source, SIZE)(25))
    assert [path.stat().st_mtime_ns for path in files(tmp_path)] == [before]


@pytest.mark.parametrize(
    "other",
    [
        {"split": "test"},
        {"fingerprint": "other images of the same names"},
        {"size": SIZE + 1},
        {"least": 2 * SIZE},
    ],
)
def test_other_content_has_another_file(source, tmp_path, other):
    settings = {"size": SIZE, "folder": tmp_path, "fingerprint": "fingerprint"}
    cached_reader(source, **settings)
    split = replace(source, split=other.pop("split", source.split))
    cached_reader(split, **{**settings, **other})
    assert len(files(tmp_path)) == 2


def test_reduced_photos_are_the_same_with_and_without_a_file(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (160, 200, 3), np.uint8)
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    photo = Source([{"image": stream.getvalue()}], np.arange(1), np.zeros(1, int), ("0",), "train")
    plain = ImageReader(photo, SIZE, least=2 * SIZE)
    cached = cached_reader(photo, SIZE, tmp_path, "fingerprint", least=2 * SIZE)
    np.testing.assert_array_equal(cached(0), plain(0))
    assert (plain(0) != ImageReader(photo, SIZE)(0)).any()
    # A window is in pixels of the photo, which is then decoded at full size.
    boxed = replace(photo, windows=np.array([[40, 20, 120, 100]]))
    boxed_pixels = ImageReader(boxed, SIZE, least=2 * SIZE)(0)
    np.testing.assert_array_equal(boxed_pixels, ImageReader(boxed, SIZE)(0))


def test_truncated_cache_is_written_again(source, tmp_path):
    cached_reader(source, SIZE, tmp_path, "fingerprint")
    (file,) = files(tmp_path)
    os.truncate(file, file.stat().st_size - 1)
    cached = cached_reader(source, SIZE, tmp_path, "fingerprint")
    np.testing.assert_array_equal(cached(25), ImageReader(source, SIZE)(25))
    assert files(tmp_path) == [file]


class Records(list):
    """Records that call a function when the last one is read."""

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


@pytest.mark.parametrize("fingerprint", ["fingerprint", "of another data set"])
def test_part_of_a_killed_writer_is_cleared(source, tmp_path, fingerprint):
    process = multiprocessing.get_context("spawn").Process(
        target=write_and_be_killed, args=(source, tmp_path)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (part,) = files(tmp_path)
    assert part.stat().st_size > 0
    cached_reader(source, SIZE, tmp_path, fingerprint)
    assert [path.suffix for path in files(tmp_path)] == [".uint8"]


def test_part_of_a_running_writer_is_kept(source, tmp_path):
    records = Records(
        source.records, lambda: cached_reader(source, SIZE, tmp_path, "written meanwhile")
    )
    slow = cached_reader(replace(source, records=records), SIZE, tmp_path, "fingerprint")
    np.testing.assert_array_equal(slow(24), ImageReader(source, SIZE)(24))
    assert [path.suffix for path in files(tmp_path)] == [".uint8"] * 2


def test_two_writers_of_one_file_write_it_once(source, tmp_path):
    reads = []
    counted = replace(source, records=Records(source.records, lambda: reads.append(1)))
    with ThreadPool(2) as pool:
        readers = pool.starmap(cached_reader, [(counted, SIZE, tmp_path, "fingerprint")] * 2)
    assert reads == [1]
    np.testing.assert_array_equal(readers[0](24), readers[1](24))


def test_file_system_without_locks(source, tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", unsupported)
    (tmp_path / "other.part-1").write_bytes(b"another writer's")
    cached_reader(source, SIZE, tmp_path, "fingerprint")
    assert [path.suffix for path in files(tmp_path)] == [".uint8", ".part-1"]


def test_full_disk(source, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(RunError, match=r"No space left.*data\.cache=off"):
        cached_reader(source, SIZE, tmp_path, "fingerprint")
    assert not files(tmp_path)


def test_cache_folder_that_cannot_be_created(source, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"could not be written to .*file/cache"):
        cached_reader(source, SIZE, tmp_path / "file/cache", "fingerprint")
