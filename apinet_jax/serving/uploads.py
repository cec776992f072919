"""Photos in requests: bounded in size, number and time, and never written to a disk."""

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from apinet_jax.data.decoding import decode, stored_size
from apinet_jax.data.photos import photo_pixels

FIELD = "photo"


class Limits(NamedTuple):
    """What a request may ask for.

    Attributes:
        megabytes: Size of its body, in 10⁶ bytes.
        megapixels: Size of a photo, in 10⁶ pixels.
        photos: Number of photos.
        seconds: Time to send the body.
        waiting: Requests that are answered or wait at once.
    """

    megabytes: float = 20.0
    megapixels: float = 50.0
    photos: int = 16
    seconds: float = 20.0
    waiting: int = 32


class RefusedError(Exception):
    """A request that is refused.

    Attributes:
        status: The HTTP status.
        message: The reason, for people.
    """

    def __init__(self, status: int, message: str):
        """Keep the arguments."""
        super().__init__(message)
        self.status, self.message = status, message


class Upload(NamedTuple):
    """A photo as it was sent.

    Attributes:
        name: Name of its file; empty if there is none.
        content: The encoded photo.
    """

    name: str
    content: bytes


async def read_uploads(request: Request, limits: Limits) -> list[Upload]:
    """Return the photos of a request: its body, or the fields `photo` of a form.

    Raises:
        RefusedError: If the body is too large, too slow, cut off, or no such form.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    most = int(limits.megabytes * 1e6)
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > most:
        raise _too_large(limits)
    try:
        async with asyncio.timeout(limits.seconds):
            if kind == "multipart/form-data":
                return await _form(request, limits)
            return [Upload("", b"".join([part async for part in _bounded(request, limits)]))]
    except TimeoutError as error:
        raise RefusedError(408, f"The body took longer than {limits.seconds:g} s.") from error


async def _form(request: Request, limits: Limits) -> list[Upload]:
    parser = MultiPartParser(
        request.headers,
        _bounded(request, limits),
        max_files=limits.photos,
        max_fields=0,
        max_part_size=int(limits.megabytes * 1e6),
    )
    parser.spool_max_size = int(limits.megabytes * 1e6) + 1  # never rolls over to a disk
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise RefusedError(400, f"The form cannot be read: {error.message}") from error
    except UnicodeError as error:  # the form names the encoding of its texts
        raise RefusedError(400, "The form cannot be read: its texts are damaged.") from error
    try:
        files = form.multi_items()
        if any(field != FIELD or not isinstance(file, UploadFile) for field, file in files):
            raise RefusedError(400, f"Only files in fields named '{FIELD}' are expected.")
        return [Upload(_plain(file.filename), await file.read()) for _, file in files]
    finally:
        await form.close()


async def _bounded(request: Request, limits: Limits) -> AsyncIterator[bytes]:
    """Yield the parts of a body until it is too large."""
    received = 0
    try:
        async for part in request.stream():
            received += len(part)
            if received > limits.megabytes * 1e6:
                raise _too_large(limits)
            yield part
    except ClientDisconnect as error:
        raise RefusedError(400, "The body was cut off.") from error


def _plain(name: str | None) -> str:
    """Return a file's name without what cannot be encoded."""
    return (name or "").encode("utf-8", "replace").decode()


def _too_large(limits: Limits) -> RefusedError:
    return RefusedError(413, f"The body is larger than {limits.megabytes:g} MB.")


def open_upload(upload: Upload, limits: Limits, least: int | None) -> UInt8[np.ndarray, "H W 3"]:
    """Return the upright photo; its content decides the type, not its name.

    Args:
        upload: The upload.
        limits: The most pixels that it may have.
        least: See `decode`.

    Raises:
        RefusedError: If it is no photo, damaged, or has too many pixels.
    """
    try:
        width, height = stored_size(upload.content)
    except ValueError as error:
        raise RefusedError(415, f"The file is not a photo: {error}.") from error
    if width * height > limits.megapixels * 1e6:
        raise RefusedError(
            413,
            f"The photo has {width} x {height} pixels, more than {limits.megapixels:g} million.",
        )
    try:
        return np.asarray(decode(upload.content, least))
    except ValueError as error:
        raise RefusedError(422, f"The photo cannot be read: {error}.") from error


def crop_upload(
    upload: Upload, limits: Limits, resize: int, crop: int, least: int | None
) -> UInt8[np.ndarray, "{crop} {crop} 3"]:
    """Return what the network sees of a photo; raise as `open_upload`."""
    return photo_pixels(open_upload(upload, limits, least), None, resize, crop)
