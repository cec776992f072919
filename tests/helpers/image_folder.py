"""Image folders and sources that tests draw."""

from io import BytesIO

import numpy as np
from PIL import Image

from apinet_jax.data.source import Source


def encoded(grey=0, file_format="PNG", size=(8, 6)):
    stream = BytesIO()
    Image.new("RGB", size, (grey, grey, 255 - grey)).save(stream, file_format)
    return stream.getvalue()


def put(folder, *names):
    """Draw a different image at each path."""
    formats = {".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(number * 20, formats.get(path.suffix.lower(), "PNG")))
    return folder


def put_photos(folder):
    """Two classes with a test split; three formats, one image below nested folders."""
    return put(
        folder,
        "train/cat/1.png",
        "train/cat/deep/er/2.JPG",
        "train/dog/a.webp",
        "test/cat/3.png",
        "test/dog/b.jpeg",
    )


def noise_source(count):
    """A training split of small images of noise in three classes, without a folder."""
    records = []
    for seed in range(count):
        pixels = np.random.default_rng(seed).integers(0, 256, (18, 30, 3), np.uint8)
        stream = BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        records.append({"image": stream.getvalue()})
    names = tuple(f"{number}.png" for number in range(count))
    return Source(records, np.arange(count), np.arange(count) % 3, names, "train")
