"""Resized images, decoded on demand or mapped from a file that is written once.

Both give the same pixels: those of the complete image, or of its window, after resizing.
"""

import contextlib
import hashlib
import os
import uuid
from multiprocessing.pool import ThreadPool
from pathlib import Path

import filelock
import numpy as np
from jaxtyping import UInt8

from apinet_jax.data.source import Source
from apinet_jax.data.transforms import Part, cut_part
from apinet_jax.system.console import tracked
from apinet_jax.system.errors import RunError
from apinet_jax.system.file_lock import file_lock


class ImageReader:
    """Random access to the resized images of a source; cheap to send to a worker process.

    Attributes:
        source: The encoded records.
        size: Height and width after resizing.
        cache: File of the resized records of the source's split, or `None` to decode each time.
        least: See `decoding.decode`; for images that are not in the file.
    """

    def __init__(
        self, source: Source, size: int, cache: Path | None = None, least: int | None = None
    ):
        """Keep the arguments; the file is mapped at the first read."""
        self.source, self.size, self.cache, self.least = source, size, cache, least
        self._mapped = None

    def __call__(self, index: int, part: Part | None = None) -> UInt8[np.ndarray, "H W 3"]:
        """Return a part of one resized image; all of it by default."""
        if self.cache is None:
            row = int(self.source.rows[index])
            return self.source.pixels(row, self.size, part, self.least)
        if self._mapped is None:
            shape = (len(self.source.records), self.size, self.size, 3)
            self._mapped = np.memmap(self.cache, np.uint8, "r", shape=shape)
        return cut_part(np.asarray(self._mapped[self.source.rows[index]]), part)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_mapped": None}  # each worker maps the file itself


def cached_reader(
    source: Source, size: int, folder: Path, fingerprint: str, least: int | None = None
) -> ImageReader:
    """Return a reader over a file of resized images, and write that file first if it is missing.

    The file holds every record of the split, so that all parts of a split share it. Its name
    depends on its content, and an atomic rename gives it that name when it is complete. Processes
    that need the same file wait for the one that writes it.

    Args:
        source: The encoded records.
        size: Height and width after resizing.
        folder: Where such files are stored.
        fingerprint: Hash of the data set.
        least: See `decoding.decode`.

    Raises:
        RunError: The file cannot be written, for example because the disk is full.
    """
    key = hashlib.sha256(f"{fingerprint}\n{source.split}".encode())
    if source.windows is not None:  # without windows, files keep the name they always had
        key.update(source.windows.tobytes())
    if least is not None:
        key.update(f"\nleast {least}".encode())
    count, image_bytes = len(source.records), size**2 * 3
    path = folder / f"{key.hexdigest()[:16]}-{size}px-{count}.uint8"

    def is_complete() -> bool:  # a file that was truncated since keeps its name, but not its size
        return path.exists() and path.stat().st_size == count * image_bytes

    try:
        if not is_complete():
            folder.mkdir(parents=True, exist_ok=True)
            _clear_killed_writes(folder)
            with file_lock(path.with_suffix(".lock")):
                if not is_complete():
                    _write(source, size, path, least)
    except OSError as error:
        raise RunError(
            f"The cache of resized images could not be written to {folder}: {error}. It needs "
            f"{count * image_bytes / 1e9:.1f} GB; free some space or set data.cache=off."
        ) from error
    return ImageReader(source, size, path)


def _write(source: Source, size: int, path: Path, least: int | None) -> None:
    """Write the resized records of a complete split to `path`, on all cores."""
    part = path.with_suffix(f".part-{uuid.uuid4().hex}")
    count, image_bytes = len(source.records), size**2 * 3
    try:
        with open(part, "xb") as file, ThreadPool(os.cpu_count()) as pool:

            def write(row: int) -> None:
                pixels = source.pixels(row, size, least=least)
                os.pwrite(file.fileno(), pixels.tobytes(), row * image_bytes)

            written = pool.imap_unordered(write, range(count), 8)
            for _ in tracked(written, f"Resizing images to {size} px", count):
                pass
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _clear_killed_writes(folder: Path) -> None:
    """Remove the parts of writers that were killed: the system has released their locks."""
    for part in folder.glob("*.part-*"):
        # Unlike `file_lock` this fails on a file system without locks, where nothing is cleared.
        lock = filelock.FileLock(part.with_suffix(".lock"), blocking=False, fallback_to_soft=False)
        with contextlib.suppress(OSError), lock:
            part.unlink()
