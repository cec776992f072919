"""Encoded bytes to uint8 pixels: decode, resize, crop, flip; uint8 in, uint8 out.

The whole image is resized to a square first (its aspect is not kept, as in the paper) and crops
are plain slices of that square, so a cache of resized images yields the very same pixels. The
resize is Pillow's antialiased bilinear one. A JPEG decoded at reduced size ("draft") was measured
to move large photos by more than one grey level on average, so every image is decoded in full.
"""

import math
import re
import threading
from contextlib import nullcontext
from io import BytesIO

import numpy as np
from jaxtyping import UInt8
from PIL import Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

# The size at which Pillow itself speaks of a decompression bomb. Cameras of 100 and 150 megapixels
# stay below; a PNG of one colour that is larger fits into some kilobytes.
MAX_PIXELS = 178_956_970
# The largest take 3 GB on their way to RGB, which threads on all cores would multiply: images
# beyond this, which are larger than most photos, wait for one another.
_LARGE = 1 << 25
_one_large_image = threading.Lock()
# A progressive JPEG of a few bytes a scan can ask for any number of passes over all its pixels.
# Encoders write about ten.
_MAX_SCANS = 500
# What begins a segment: neither a stuffed byte of pixels, nor a restart, nor filling.
_SEGMENT = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_START_OF_IMAGE, _END_OF_IMAGE, _START_OF_SCAN, _BARE = 0xD8, 0xD9, 0xDA, 0x01

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Second word of the Philox key: keeps these draws apart from every other use of the seed.
_AUGMENT_STREAM = 0x617567
_WORD = (1 << 64) - 1
# Of a random resized crop: the widest aspect, and the draws before the whole image is taken.
_LOG_ASPECT = math.log(4 / 3)
_TRIES = 10


def decode(data: bytes) -> Image.Image:
    """Decodes a JPEG, PNG or WebP file into an upright RGB image.

    The signature decides about the format, not the file's name. The EXIF orientation is applied;
    transparency is composited over white; 16-bit grey keeps its high byte; colour profiles are
    ignored. Of an animation the first frame counts.

    Args:
        data: The whole encoded file.

    Returns:
        The image in mode RGB.

    Raises:
        ValueError: The file cannot be decoded; the message is the reason alone.
    """
    try:
        image = _open(data)
        pixels = image.width * image.height
        if pixels > MAX_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels, more than {MAX_PIXELS:,}")
        if image.info.get("progressive") and _has_too_many_scans(data):
            raise ValueError(f"a JPEG of more than {_MAX_SCANS} scans")
        with _one_large_image if pixels > _LARGE else nullcontext():
            image.load()
            return upright_rgb(image)
    except Exception as error:  # a broken file surfaces as almost any exception type in Pillow
        raise ValueError(str(error) or type(error).__name__) from error


def upright_rgb(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation, composite transparency over white, and convert to RGB."""
    orientation, rgb = _orientation(image), _to_rgb(image)
    return rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb


def to_pixels(
    image: Image.Image, window: tuple[int, int, int, int] | None, size: int
) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """Cut an upright image to its window and resize that to a square.

    Training, evaluation and inference all read their pixels through this function.

    Args:
        image: The image, from `decode`.
        window: The part to use, as x, y, width and height in pixels; `None` for all of it.
        size: Height and width after resizing.

    Raises:
        ValueError: If the window is not inside the image.
    """
    if window is not None:
        x, y, width, height = window
        if min(x, y) < 0 or min(width, height) < 1:
            raise ValueError(f"the window {window} is empty or outside of the image")
        if x + width > image.width or y + height > image.height:
            raise ValueError(f"the window {window} exceeds {image.width} x {image.height} pixels")
        image = image.crop((x, y, x + width, y + height))
    return resize(image, size)


def stored_size(data: bytes) -> tuple[int, int]:
    """Reads width and height from the header, before any orientation is applied.

    Raises:
        ValueError: There is no such header; the message is the reason alone.
    """
    try:
        return _open(data).size
    except Exception as error:  # as in `decode`
        raise ValueError(str(error) or type(error).__name__) from error


def resize(image: Image.Image, size: int) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """Resizes the whole image to a square with Pillow's antialiased bilinear filter."""
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def random_crop_flip(
    image: UInt8[np.ndarray, "R R 3"], crop: int, seed: int, step: int, slot: int
) -> UInt8[np.ndarray, "{crop} {crop} 3"]:
    """Cuts a random square and mirrors it half of the time.

    The draw is a pure function of (seed, step, slot): raw Philox words, which numpy promises never
    to change, and not its distributions, which it may.

    Args:
        image: The resized image.
        crop: Side of the square.
        seed: Seed of the run.
        step: Training step the image is for.
        slot: Row of the image in the global batch.

    Returns:
        A view of `image`, not a copy.
    """
    _check_crop(image, crop)
    top_word, left_word, flip_word = _words(seed, step, slot, 3)
    top = _below(top_word, image.shape[0] - crop + 1)
    left = _below(left_word, image.shape[0] - crop + 1)
    cut = image[top : top + crop, left : left + crop]
    return cut[:, ::-1] if flip_word >> 63 else cut


def random_resized_crop_flip(
    image: UInt8[np.ndarray, "R R 3"],
    crop: int,
    seed: int,
    step: int,
    slot: int,
    min_area: float,
) -> UInt8[np.ndarray, "{crop} {crop} 3"]:
    """Cuts a random rectangle, resizes it to a square and mirrors it half of the time.

    As torchvision's `RandomResizedCrop`: the rectangle's area is uniform between `min_area` and 1
    of the image's, the logarithm of its aspect uniform between 3:4 and 4:3; of ten draws the first
    that fits is taken, else the whole image.

    Args:
        image: The resized image.
        crop: Side of the square.
        seed: Seed of the run.
        step: Training step the image is for.
        slot: Row of the image in the global batch.
        min_area: Least area of the rectangle, as a part of the image's.
    """
    size = image.shape[0]
    flip_word, *words = _words(seed, step, slot, 1 + 4 * _TRIES)
    top = left = 0
    height = width = size
    for tried in range(_TRIES):
        area_word, aspect_word, top_word, left_word = words[4 * tried : 4 * tried + 4]
        area = size**2 * (min_area + (1 - min_area) * area_word / 2**64)
        aspect = math.exp(_LOG_ASPECT * (2 * aspect_word / 2**64 - 1))
        wide, high = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < wide <= size and 0 < high <= size:
            height, width = high, wide
            top, left = _below(top_word, size - high + 1), _below(left_word, size - wide + 1)
            break
    part = Image.fromarray(image[top : top + height, left : left + width])
    cut = resize(part, crop)
    return cut[:, ::-1] if flip_word >> 63 else cut


def center_crop(
    image: UInt8[np.ndarray, "R R 3"], crop: int
) -> UInt8[np.ndarray, "{crop} {crop} 3"]:
    """Cuts the central square, rounding an odd margin as torchvision does (a view)."""
    _check_crop(image, crop)
    start = round((image.shape[0] - crop) / 2)
    return image[start : start + crop, start : start + crop]


def _words(seed: int, step: int, slot: int, count: int) -> list[int]:
    """Random 64-bit words that belong to (seed, step, slot) alone."""
    # numpy counts blocks up in the lowest counter word, so each (step, slot) has its own blocks.
    philox = np.random.Philox(
        key=np.array([seed & _WORD, _AUGMENT_STREAM], np.uint64),
        counter=np.array([0, slot, step, 0], np.uint64),
    )
    return [int(word) for word in philox.random_raw(count)]


def _below(word: int, limit: int) -> int:
    """Maps a random word to 0 .. limit - 1, by multiplying and shifting."""
    return (word * limit) >> 64


def _check_crop(image: UInt8[np.ndarray, "R R 3"], crop: int) -> None:
    if not 0 < crop <= image.shape[0]:
        raise ValueError(f"cannot cut {crop} pixels out of an image of {image.shape[0]}")


def _open(data: bytes) -> Image.Image:
    # Pillow's reader classes are called directly: Image.open would try every format it knows, and
    # warn about large photos through a filter that is shared by all threads.
    stream = BytesIO(data)
    if not data:
        raise ValueError("empty file")
    if data.startswith(b"\xff\xd8\xff"):
        return JpegImagePlugin.JpegImageFile(stream)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImagePlugin.PngImageFile(stream)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return WebPImagePlugin.WebPImageFile(stream)
    raise ValueError("not a JPEG, PNG or WebP image")


def _has_too_many_scans(data: bytes) -> bool:
    position = scans = 0
    while scans <= _MAX_SCANS and (found := _SEGMENT.search(data, position)):
        (kind,), position = found[1], found.end()
        if kind == _END_OF_IMAGE:
            break
        scans += kind == _START_OF_SCAN
        if kind not in (_START_OF_IMAGE, _BARE):
            position += int.from_bytes(data[position : position + 2])
    return scans > _MAX_SCANS


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # damaged EXIF says nothing about the pixels, which are intact
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow would clip 16-bit grey at 255; the high byte is what it keeps of 16-bit colour.
        grey = np.clip(np.asarray(image), 0, 0xFFFF) >> 8
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")
