"""Upright images to uint8 pixels: window, resize, crop, flip.

The complete image is resized to a square (its aspect is not kept, as in the paper). Crops are
plain slices of that square, so a cache of resized images gives the same pixels. The resize is
Pillow's antialiased bilinear one. Where that gives the same pixels, only a crop is computed.
"""

import math

import numpy as np
from jaxtyping import UInt8
from PIL import Image

Part = tuple[int, int, int]
"""A square of the resized image: top, left and side."""

# Second word of the Philox key: makes these draws independent of other uses of the seed.
_AUGMENT_STREAM = 0x617567
_WORD = (1 << 64) - 1
# Of a random resized crop: the widest aspect, and the draws before the complete image is used.
_LOG_ASPECT = math.log(4 / 3)
_TRIES = 10


def to_pixels(
    image: Image.Image,
    window: tuple[int, int, int, int] | None,
    size: int,
    part: Part | None = None,
) -> UInt8[np.ndarray, "H W 3"]:
    """Cut an upright image to its window and resize that to a square.

    Training, evaluation and inference all read their pixels through this function.

    Args:
        image: The image, from `decode`.
        window: The part to use, as x, y, width and height in pixels; `None` for all of it.
        size: Height and width after resizing.
        part: What to return of the result; all of it by default.

    Raises:
        ValueError: The window is not inside the image.
    """
    if window is not None:
        x, y, width, height = window
        if min(x, y) < 0 or min(width, height) < 1:
            raise ValueError(f"the window {window} is empty or outside of the image")
        if x + width > image.width or y + height > image.height:
            raise ValueError(f"the window {window} exceeds {image.width} x {image.height} pixels")
        image = image.crop((x, y, x + width, y + height))
    return resize(image, size, part)


def resize(image: Image.Image, size: int, part: Part | None = None) -> UInt8[np.ndarray, "H W 3"]:
    """Resize the complete image to a square with Pillow's antialiased bilinear filter.

    Args:
        image: The image.
        size: Height and width after resizing.
        part: What to return of the result; all of it by default.
    """
    if part is None:
        return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
    if not _parts_are_equal(image, size):
        return cut_part(resize(image, size), part)
    top, left, side = part
    wide, high = image.width / size, image.height / size
    box = (left * wide, top * high, (left + side) * wide, (top + side) * high)
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR, box))


def _parts_are_equal(image: Image.Image, size: int) -> bool:
    """Return whether Pillow resizes a part of an image to the same pixels as the image.

    The edges of the part are then exact in float32, as which Pillow keeps them. It resizes the
    columns or the rows first, whichever costs less, and rounds in between; of images that are not
    higher than wide it always begins with the columns.
    """
    power_of_two = size & (size - 1) == 0
    return power_of_two and image.height <= image.width < 2**24 // size


def draw_crop(size: int, crop: int, seed: int, step: int, slot: int) -> tuple[int, int, bool]:
    """Return the top and left edge of a random square, and whether it is mirrored.

    The draw is a pure function of (seed, step, slot). It uses raw Philox words, which numpy
    promises never to change, instead of numpy's distributions.

    Args:
        size: Height and width of the image.
        crop: Side of the square.
        seed: Seed of the run.
        step: Training step.
        slot: Row of the image in the global batch.

    Raises:
        ValueError: The square does not fit.
    """
    _check_crop(size, crop)
    top_word, left_word, flip_word = _words(seed, step, slot, 3)
    top, left = (_below(word, size - crop + 1) for word in (top_word, left_word))
    return top, left, bool(flip_word >> 63)


def random_resized_crop_flip(
    image: UInt8[np.ndarray, "R R 3"],
    crop: int,
    seed: int,
    step: int,
    slot: int,
    min_area: float,
) -> UInt8[np.ndarray, "{crop} {crop} 3"]:
    """Cut a random rectangle, resize it to a square and mirror it half of the time.

    As torchvision's `RandomResizedCrop`: the rectangle's area is uniform between `min_area` and 1
    times the image's, the logarithm of its aspect uniform between 3:4 and 4:3. The first of ten
    draws that fits is used, else the complete image.

    Args:
        image: The resized image.
        crop: Side of the square.
        seed: Seed of the run.
        step: Training step.
        slot: Row of the image in the global batch.
        min_area: Smallest area of the rectangle, as a fraction of the image's.
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
    return mirror(cut) if flip_word >> 63 else cut


def center_part(size: int, crop: int) -> Part:
    """Return the central square, rounding an odd margin as torchvision does.

    Raises:
        ValueError: It does not fit.
    """
    _check_crop(size, crop)
    start = round((size - crop) / 2)
    return start, start, crop


def center_crop(
    image: UInt8[np.ndarray, "R R 3"], crop: int
) -> UInt8[np.ndarray, "{crop} {crop} 3"]:
    """Cut the central square as a view."""
    return cut_part(image, center_part(len(image), crop))


def cut_part(image: UInt8[np.ndarray, "R R 3"], part: Part | None) -> UInt8[np.ndarray, "H W 3"]:
    """Return a part of a resized image as a view; all of it for `None`."""
    if part is None:
        return image
    top, left, side = part
    return image[top : top + side, left : left + side]


def mirror(image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """Exchange left and right; copying NumPy's mirrored view takes three times as long."""
    return np.asarray(Image.fromarray(image).transpose(Image.Transpose.FLIP_LEFT_RIGHT))


def draw_view(count: int, seed: int, step: int, slot: int) -> int:
    """Return a random number below `count`, a pure function of (seed, step, slot).

    Args:
        count: Views to choose from.
        seed: Seed of the run.
        step: Training step.
        slot: Row of the image in the global batch.
    """
    return _below(_words(seed, step, slot, 1)[0], count)


def _words(seed: int, step: int, slot: int, count: int) -> list[int]:
    """Return random 64-bit words that depend only on (seed, step, slot)."""
    # numpy counts blocks in the lowest counter word, so each (step, slot) has its own blocks.
    philox = np.random.Philox(
        key=np.array([seed & _WORD, _AUGMENT_STREAM], np.uint64),
        counter=np.array([0, slot, step, 0], np.uint64),
    )
    return [int(word) for word in philox.random_raw(count)]


def _below(word: int, limit: int) -> int:
    """Maps a random word to 0 .. limit - 1, by multiplying and shifting."""
    return (word * limit) >> 64


def _check_crop(size: int, crop: int) -> None:
    if not 0 < crop <= size:
        raise ValueError(f"cannot cut {crop} pixels out of an image of {size}")
