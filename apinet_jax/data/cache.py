"""Decoded and resized images, either made when asked for or mapped from a file made once.

Both give the same pixels: an image, or the window of it that the data set names, is always resized
whole, and crops are slices of that.
"""

import contextlib
import fcntl
import hashlib
import os
import uuid
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from apinet_jax.data.source import Source
from apinet_jax.system.console import tracked
from apinet_jax.system.errors import RunError


class ImageReader:
    """Random access to the resized images of a source; cheap to send to a worker process.

    Attributes:
        source: The encoded records.
        size: Height and width after resizing.
        cache: File of the resized records of the source's whole split, or `None` to decode each
            time.
    """

    def __init__(self, source: Source, size: int, cache: Path | None = None):
        """Opens the cache if there is one."""
        self.source, self.size, self.cache = source, size, cache
        self._mapped = None

    def __call__(self, index: int) -> UInt8[np.ndarray, "R R 3"]:
        """The resized image of a record."""
        if self.cache is None:
            return self.source.pixels(int(self.source.rows[index]), self.size)
        if self._mapped is None:
            shape = (len(self.source.records), self.size, self.size, 3)
            self._mapped = np.memmap(self.cache, np.uint8, "r", shape=shape)
        return np.asarray(self._mapped[self.source.rows[index]])

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_mapped": None}  # a worker maps the file for itself


def cached_reader(source: Source, size: int, folder: Path, fingerprint: str) -> ImageReader:
    """A reader over a file of resized images, which is written first where it is missing.

    The file holds every record of the split, so that all parts of a split share it, whatever was
    held out. It is named by what it holds and takes its name only when it is whole, so a run that
    is killed while writing leaves nothing that another would trust.

    Args:
        source: The encoded records.
        size: Height and width after resizing.
        folder: Where such files lie.
        fingerprint: Hash of the data set.

    Raises:
        RunError: If the file cannot be written, for example because the disk is full.
    """
    key = hashlib.sha256(f"{fingerprint}\n{source.split}".encode())
    if source.windows is not None:  # whole pictures keep the name that they have always had
        key.update(source.windows.tobytes())
    count = len(source.records)
    path = folder / f"{key.hexdigest()[:16]}-{size}px-{count}.uint8"
    # A file that was copied or cut off since then may have the name and not the size.
    if not path.exists() or path.stat().st_size != count * size**2 * 3:
        _write(source, size, path)
    return ImageReader(source, size, path)


def _write(source: Source, size: int, path: Path) -> None:
    """Writes the resized records of a whole split to `path`, on all cores."""
    part = path.with_suffix(f".part-{uuid.uuid4().hex}")
    count, image_bytes = len(source.records), size**2 * 3
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_killed_writes(path.parent)
        with open(part, "xb") as file, ThreadPool(os.cpu_count()) as pool:
            with contextlib.suppress(OSError):  # without locks, what is killed is never cleared
                fcntl.flock(file, fcntl.LOCK_EX)

            def write(row: int) -> None:
                pixels = source.pixels(row, size)
                os.pwrite(file.fileno(), pixels.tobytes(), row * image_bytes)

            written = pool.imap_unordered(write, range(count), 8)
            for _ in tracked(written, f"Resizing images to {size} px", count):
                pass
            os.fsync(file.fileno())
            part.replace(path)
    except OSError as error:
        raise RunError(
            f"The cache of resized images could not be written to {path.parent}: {error}. It needs "
            f"{count * image_bytes / 1e9:.1f} GB; free some space or set "
            "--config.data.cache=off."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def _clear_killed_writes(folder: Path) -> None:
    """Removes the parts that nobody writes any more.

    A writer holds a lock on its part, which its end frees however it comes, and which holds
    between containers and hosts where process numbers mean nothing. An empty part is left alone:
    its writer may be about to lock it.
    """
    for part in folder.glob("*.part-*"):
        with contextlib.suppress(OSError), open(part, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_size:
                part.unlink()
