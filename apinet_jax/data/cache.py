"""Decoded and resized images, either made when asked for or mapped from a file made once.

Both give the same pixels: an image is always resized whole, and crops are slices of it.
"""

import hashlib
import os
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from apinet_jax.data.source import Source
from apinet_jax.data.transforms import decode, resize
from apinet_jax.errors import RunError
from apinet_jax.writer import tracked


class ImageReader:
    """Random access to the resized images of one split; cheap to send to a worker process.

    Attributes:
        source: The encoded records.
        size: Height and width after resizing.
        cache: File of resized images, or `None` to decode each time.
    """

    def __init__(self, source: Source, size: int, cache: Path | None = None):
        """Opens the cache if there is one."""
        self.source, self.size, self.cache = source, size, cache
        self._mapped = None

    def __call__(self, index: int) -> UInt8[np.ndarray, "R R 3"]:
        """The resized image of a record."""
        if self.cache is None:
            return resize(decode(self.source.read(index)), self.size)
        if self._mapped is None:
            shape = (len(self.source), self.size, self.size, 3)
            self._mapped = np.memmap(self.cache, np.uint8, "r", shape=shape)
        return np.asarray(self._mapped[index])

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_mapped": None}  # a worker maps the file for itself


def cached_reader(source: Source, size: int, folder: Path, fingerprint: str) -> ImageReader:
    """A reader over a file of resized images, which is written first where it is missing.

    The file is named by what it holds and takes its name only when it is whole, so a run that is
    killed while writing leaves nothing that another would trust.

    Args:
        source: The encoded records.
        size: Height and width after resizing.
        folder: Where such files lie.
        fingerprint: Hash of the data set.

    Raises:
        RunError: If the disk is too full for the file.
    """
    names = hashlib.sha256("\n".join([fingerprint, *source.file_names]).encode()).hexdigest()
    path = folder / f"{names[:16]}-{size}px-{len(source)}.uint8"
    if not path.exists():
        _write(ImageReader(source, size), path)
    return ImageReader(source, size, path)


def _write(reader: ImageReader, path: Path) -> None:
    """Writes the resized images of `reader` to `path`, on all cores."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".part{os.getpid()}")
    count, image_bytes = len(reader.source), reader.size**2 * 3
    try:
        with open(part, "wb") as file, ThreadPool(os.cpu_count()) as pool:

            def write(index: int) -> None:
                os.pwrite(file.fileno(), reader(index).tobytes(), index * image_bytes)

            written = pool.imap_unordered(write, range(count), 8)
            for _ in tracked(written, f"Resizing images to {reader.size} px", count):
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
        part.unlink(missing_ok=True)
