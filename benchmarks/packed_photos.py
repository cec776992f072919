"""Packs a photo folder into one file, which needs neither TFDS nor thousands of small files.

    python -m benchmarks.packed_photos --photos=PHOTOS --file=cub50.npz
    python -m benchmarks.packed_photos --photos=PHOTOS --file=cub50-256.npz --size=256 --quality=75
    python -m benchmarks.packed_photos --data=birds --file=birds.npz

The folder has `train/<class>/*` and `test/<class>/*`. Without `--size` the file has the photos as
they are; with it they are resized to a square as in training, and encoded as JPEG.
"""

import argparse
import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from apinet_jax.data.decoding import decode
from apinet_jax.data.transforms import to_pixels

SPLITS = ("train", "test")


class Photos(NamedTuple):
    """The photos of a split, resized and in memory.

    Attributes:
        pixels: Resized images.
        labels: Class of each image.
        num_classes: Classes, `C`.
    """

    pixels: UInt8[np.ndarray, "N R R 3"]
    labels: Int[np.ndarray, " N"]
    num_classes: int


class Encoded(NamedTuple):
    """Encoded photos, as they are on the disk.

    Attributes:
        class_names: Name of each label.
        splits: Photos and labels of `train` and `test`.
    """

    class_names: tuple[str, ...]
    splits: dict[str, list[tuple[bytes, int]]]


def read_folder(folder: Path) -> Encoded:
    """Return the photos of a folder."""
    names = sorted(path.name for path in (folder / "train").iterdir() if path.is_dir())
    splits = {
        split: [
            (path.read_bytes(), label)
            for label, name in enumerate(names)
            for path in sorted((folder / split / name).iterdir())
        ]
        for split in SPLITS
    }
    return Encoded(tuple(names), splits)


def read_dataset(name: str) -> Encoded:
    """Return the photos of a data set, which is prepared if needed."""
    from apinet_jax.data.catalog import open_dataset

    dataset = open_dataset(name)
    splits = {
        split: [(source.read(row), label) for row, label in enumerate(source.labels.tolist())]
        for split, source in dataset.splits.items()
        if split in SPLITS
    }
    return Encoded(dataset.class_names, splits)


def pack(photos: Encoded, file: Path, size: int | None, quality: int) -> None:
    """Write photos into one file."""
    arrays: dict[str, np.ndarray] = {"class_names": np.array(photos.class_names)}
    for split, rows in photos.splits.items():
        with ThreadPoolExecutor() as pool:
            encoded = list(pool.map(lambda row: _encode(row[0], size, quality), rows))
        arrays[f"{split}_bytes"] = np.frombuffer(b"".join(encoded), np.uint8)
        arrays[f"{split}_ends"] = np.cumsum([len(photo) for photo in encoded])
        arrays[f"{split}_labels"] = np.array([label for _, label in rows], np.int32)
    np.savez(file, **arrays)
    print(f"{file}: {file.stat().st_size / 1e6:.1f} MB")


def _encode(photo: bytes, size: int | None, quality: int) -> bytes:
    if size is None:
        return photo
    stream = io.BytesIO()
    Image.fromarray(to_pixels(decode(photo), None, size)).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def unpack(file: Path, size: int) -> dict[str, Photos]:
    """Read the splits of a packed file.

    Args:
        file: Written by `pack`.
        size: Height and width to resize to.
    """
    photos = {}
    with np.load(file) as arrays, ThreadPoolExecutor(os.cpu_count()) as pool:
        for split in SPLITS:
            content, ends = arrays[f"{split}_bytes"], arrays[f"{split}_ends"]
            encoded = [part.tobytes() for part in np.split(content, ends[:-1])]
            pixels = list(pool.map(lambda photo: to_pixels(decode(photo), None, size), encoded))
            labels = arrays[f"{split}_labels"]
            photos[split] = Photos(np.stack(pixels), labels, len(arrays["class_names"]))
    return photos


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--photos", type=Path, help="a folder")
    source.add_argument("--data", help="a data set by its name, as birds")
    parser.add_argument("--file", type=Path, required=True, help="the packed file, NAME.npz")
    parser.add_argument("--size", type=int, help="height and width of the packed photos")
    parser.add_argument("--quality", type=int, default=75, help="of JPEG (default: %(default)s)")
    options = parser.parse_args()
    photos = read_folder(options.photos) if options.photos else read_dataset(options.data)
    pack(photos, options.file, options.size, options.quality)


if __name__ == "__main__":
    main()
