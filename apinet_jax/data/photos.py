"""Photos of any kind to pixels: what inference sees is what evaluation sees."""

import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from apinet_jax.data.decoding import decode, upright_rgb
from apinet_jax.data.transforms import center_part, to_pixels
from apinet_jax.system.errors import InputError
from apinet_jax.system.paths import to_path

Photo = str | os.PathLike[str] | bytes | Image.Image | np.ndarray
"""A path (also `gs://`), encoded bytes, a PIL image, or a uint8 array [H W 3]."""

Window = tuple[int, int, int, int]
"""A part of a photo: x, y, width and height in pixels of the upright photo."""


def read_pixels(
    photos: Sequence[Photo],
    windows: Sequence[Window | None] | None,
    resize: int,
    crop: int,
    least: int | None = None,
) -> UInt8[np.ndarray, "N {crop} {crop} 3"]:
    """Return the pixels of each photo, resized and centrally cropped as test images are.

    Args:
        photos: Paths (also `gs://`), encoded bytes, PIL images, or uint8 arrays [H W 3].
        windows: The part of each photo to use, as x, y, width and height in pixels of the upright
            photo; the complete photos by default.
        resize: Side of the resized square.
        crop: Side of its central part.
        least: See `decode`; of no effect with a window, which is in pixels of full size.

    Raises:
        InputError: If a photo cannot be read, or a window is outside of it.
        TypeError: If it is a single photo instead of a sequence.
    """
    one_array = isinstance(photos, np.ndarray) and photos.ndim != 4
    if one_array or isinstance(photos, str | bytes | os.PathLike | Image.Image):
        raise TypeError("Pass a sequence of photos, as in [photo].")
    windows = [None] * len(photos) if windows is None else windows
    if len(windows) != len(photos):
        raise InputError(f"{len(windows)} windows for {len(photos)} photos: give one for each.")

    def pixels(index: int) -> UInt8[np.ndarray, "H W 3"]:
        photo = photos[index]
        try:
            return photo_pixels(photo, windows[index], resize, crop, least)
        except ValueError as error:
            name = photo if isinstance(photo, str | os.PathLike) else f"number {index}"
            raise InputError(f"The photo {name} cannot be read: {error}.") from error

    return np.stack([pixels(index) for index in range(len(photos))])


def photo_pixels(
    photo: Photo, window: Window | None, resize: int, crop: int, least: int | None = None
) -> UInt8[np.ndarray, "{crop} {crop} 3"]:
    """Return the pixels of one photo; see `read_pixels`.

    Raises:
        ValueError: If it cannot be read; the message is only the reason.
    """
    try:
        image = open_photo(photo, least if window is None else None)
        return to_pixels(image, window, resize, center_part(resize, crop))
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error


def open_photo(photo: Photo, least: int | None = None) -> Image.Image:
    """Decode a photo into an upright RGB image.

    Args:
        photo: The photo.
        least: See `decode`; of no effect on images and arrays.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it cannot be decoded, or is an array of another kind.
    """
    if isinstance(photo, Image.Image):
        return upright_rgb(photo)
    if isinstance(photo, np.ndarray):
        if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[-1] != 3:
            raise ValueError(f"an array of {photo.dtype} {photo.shape} is not one of uint8 [H W 3]")
        return Image.fromarray(photo)
    return decode(photo if isinstance(photo, bytes) else to_path(photo).read_bytes(), least)
