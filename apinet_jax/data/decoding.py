"""Encoded bytes to upright RGB images, bounded in memory and time."""

import re
import threading
import zlib
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from io import BytesIO
from typing import Literal, TypeVar

import numpy as np
from PIL import Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

T = TypeVar("T")

Decoding = Literal["full", "scaled"]
"""Whether JPEGs are decoded at full size, or at a reduced size that is large enough."""

# Pillow's own limit for a decompression bomb. Cameras of 100 and 150 megapixels stay below it; a
# larger PNG of one colour fits into some kilobytes.
MAX_PIXELS = 178_956_970
# The largest images take 3 GB on their way to RGB, which threads on all cores would multiply.
# Images of more pixels than this, larger than most photos, are decoded one at a time.
_LARGE = 1 << 25
_one_large_image = threading.Lock()
# A progressive JPEG of a few bytes per scan can require any number of passes over all its pixels.
# Encoders write about ten.
_MAX_SCANS = 500
# The start of a segment: neither a stuffed byte of pixels, nor a restart, nor filling.
_SEGMENT = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_PNG = b"\x89PNG\r\n\x1a\n"
# The chunks that pixels and orientation depend on. Texts and profiles are not among them.
_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"eXIf", b"IEND")
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


def least_side(decoding: Decoding, size: int) -> int | None:
    """Return `least` of `decode` for photos that are resized to a square.

    A reduced photo keeps twice the side, so that the resize still averages pixels.

    Args:
        decoding: `data.decode` of the configuration.
        size: Side of the square.
    """
    return 2 * size if decoding == "scaled" else None


def decode(data: bytes, least: int | None = None) -> Image.Image:
    """Decode a JPEG, PNG or WebP file into an upright RGB image.

    The signature decides the format, not the file's name. The EXIF orientation is applied;
    transparency is composited over white; 16-bit grey keeps its high byte; colour profiles are
    ignored. Only the first frame of an animation is used. Damaged or huge texts and profiles of a
    PNG do not matter.

    Args:
        data: The complete encoded file.
        least: A JPEG is decoded at a half, a quarter or an eighth of its size, as long as both
            sides keep this many pixels; by default at full size. It is faster, and not exact.

    Returns:
        The image in mode RGB.

    Raises:
        ValueError: The file cannot be decoded; the message is only the reason.
    """
    return _read(partial(_decode, least=least), data)


def upright_rgb(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation, composite transparency over white, and convert to RGB."""
    orientation, rgb = _orientation(image), _to_rgb(image)
    return rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb


def stored_size(data: bytes) -> tuple[int, int]:
    """Read width and height from the header, before any orientation is applied.

    Raises:
        ValueError: There is no valid header; the message is only the reason.
    """
    return _read(lambda encoded: _open(encoded).size, data)


def _read(reader: Callable[[bytes], T], data: bytes) -> T:
    """Apply a reader to a file; if that fails to a PNG, again without texts and profiles."""
    try:
        return reader(data)
    except Exception as error:  # a broken file raises almost any exception type in Pillow
        bare = _without_texts(data)
        if len(bare) == len(data):
            raise ValueError(str(error) or type(error).__name__) from error
    return _read(reader, bare)


def _without_texts(data: bytes) -> bytes:
    """Return a PNG with only the chunks that matter; other formats as they are."""
    if not data.startswith(_PNG):
        return data
    kept, at = [_PNG], len(_PNG)
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4])
        kind, checksum = data[at + 4 : at + 8], int.from_bytes(data[end - 4 : end])
        damaged = kind == b"eXIf" and zlib.crc32(data[at + 4 : end - 4]) != checksum
        if kind in _PNG_PIXELS and not damaged:
            kept.append(data[at:end])
        at = end
    return b"".join(kept)


def _decode(data: bytes, least: int | None) -> Image.Image:
    image = _open(data)
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels, more than {MAX_PIXELS:,}")
    if image.info.get("progressive") and _has_too_many_scans(data):
        raise ValueError(f"a JPEG of more than {_MAX_SCANS} scans")
    if least is not None:
        image.draft(None, (least, least))  # other formats ignore it
        if not image.info.get("progressive"):  # of which all coefficients are in memory
            pixels = image.width * image.height
    with _one_large_image if pixels > _LARGE else nullcontext():
        image.load()
        return upright_rgb(image)


def _open(data: bytes) -> Image.Image:
    # Pillow's reader classes are called directly: Image.open would try every format, and warn about
    # large photos through a filter that all threads share.
    stream = BytesIO(data)
    if not data:
        raise ValueError("empty file")
    if data.startswith(b"\xff\xd8\xff"):
        return JpegImagePlugin.JpegImageFile(stream)
    if data.startswith(_PNG):
        image = PngImagePlugin.PngImageFile(stream)
        _scale_transparency(image, bits=data[24])
        return image
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return WebPImagePlugin.WebPImageFile(stream)
    raise ValueError("not a JPEG, PNG or WebP image")


def _scale_transparency(image: Image.Image, bits: int) -> None:
    """Scale the transparent value of a PNG to 8 bits, as Pillow does with its pixels only."""
    value = image.info.get("transparency")
    if image.mode == "L" and isinstance(value, int) and bits in (2, 4):
        image.info["transparency"] = value * 255 // (2**bits - 1)
    elif image.mode == "RGB" and isinstance(value, tuple) and bits == 16:
        image.info["transparency"] = tuple(part >> 8 for part in value)


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
    except Exception:  # the pixels may be intact although the EXIF is damaged
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow would clip 16-bit grey at 255, while it keeps the high byte of 16-bit colour.
        levels = np.clip(np.asarray(image), 0, 0xFFFF)
        grey = np.where(levels == image.info.get("transparency"), 0xFF, levels >> 8)
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")
