"""Upright images to uint8 pixels: window, resize, crop, flip.

The complete image is resized to a square first (its aspect is not kept, as in the paper). Crops
are plain slices of that square, so a cache of resized images gives the same pixels. The resize is
Pillow's antialiased bilinear one.
"""

import math

import numpy as np
from jaxtyping import UInt8
from PIL import Image

# Second word of the Philox key: makes these draws independent of other uses of the seed.
_AUGMENT_STREAM = 0x617567
_WORD = (1 << 64) - 1
# Of a random resized crop: the widest aspect, and the draws before the complete image is used.
_LOG_ASPECT = math.log(4 / 3)
_TRIES = 10


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
        ValueError: The window is not inside the image.
    """
    if window is not None:
        x, y, width, height = window
        if min(x, y) < 0 or min(width, height) < 1:
            raise ValueError(f"the window {window} is empty or outside of the image")
        if x + width > image.width or y + height > image.height:
            raise ValueError(f"the window {window} exceeds {image.width} x {image.height} pixels")
        image = image.crop((x, y, x + width, y + height))
    return resize(image, size)


def resize(image: Image.Image, size: int) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """Resize the complete image to a square with Pillow's antialiased bilinear filter."""
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def random_crop_flip(
    image: UInt8[np.ndarray, "R R 3"], crop: int, seed: int, step: int, slot: int
) -> UInt8[np.ndarray, "{crop} {crop} 3"]:
    """Cut a random square and mirror it half of the time.

    The draw is a pure function of (seed, step, slot). It uses raw Philox words, which numpy
    promises never to change, instead of numpy's distributions.

    Args:
        image: The resized image.
        crop: Side of the square.
        seed: Seed of the run.
        step: Training step.
        slot: Row of the image in the global batch.

    Returns:
        A view of `image`; a mirrored crop is a copy.
    """
    _check_crop(image.shape[0], crop)
    top, left, mirrored = draw_crop(image.shape[0], crop, seed, step, slot)
    cut = image[top : top + crop, left : left + crop]
    return _mirror(cut) if mirrored else cut


def draw_crop(size: int, crop: int, seed: int, step: int, slot: int) -> tuple[int, int, bool]:
    """Return the top and left edge of a random square, and whether it is mirrored.

    Args:
        size: Height and width of the image.
        crop: Side of the square.
        seed: Seed of the run.
        step: Training step.
        slot: Row of the image in the global batch.
    """
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
    return _mirror(cut) if flip_word >> 63 else cut


def center_crop(
    image: UInt8[np.ndarray, "R R 3"], crop: int
) -> UInt8[np.ndarray, "{crop} {crop} 3"]:
    """Cut the central square as a view, rounding an odd margin as torchvision does."""
    _check_crop(image.shape[0], crop)
    start = round((image.shape[0] - crop) / 2)
    return image[start : start + crop, start : start + crop]


def _mirror(image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
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
