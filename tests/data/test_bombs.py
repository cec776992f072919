"""Small images that need much memory or time: refused, or read without it."""

import re
import struct
import subprocess
import sys
import threading
import zlib
from io import BytesIO
from multiprocessing.pool import ThreadPool

import numpy as np
import pytest
from image_folder import encoded, put_photos
from PIL import Image

from apinet_jax.data import decoding
from apinet_jax.data.catalog import open_dataset
from apinet_jax.data.decoding import decode, stored_size
from apinet_jax.data.survey import survey
from apinet_jax.system.errors import InputError


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, *extra, bits=8, rows=b""):
    """A PNG of grey pixels; `rows` are their bytes before compression."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0))
    body = zlib.compress(rows or bytes((width + 1) * height))
    parts = (header, *extra, chunk(b"IDAT", body), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def jpeg(width, height):
    """A JPEG of small pixels whose header claims a large image."""
    data = bytearray(encoded(file_format="JPEG"))
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def webp(width, height):
    """An animation on a large canvas, whose first frame is small."""
    sides = [(side - 1).to_bytes(3, "little") for side in (width, height)]
    frame = bytes(6) + 2 * (7).to_bytes(3, "little") + bytes(4) + encoded(0, "WEBP", (8, 8))[12:]
    parts = [(b"VP8X", b"\2" + bytes(3) + b"".join(sides)), (b"ANIM", bytes(6)), (b"ANMF", frame)]
    body = b"".join(kind + struct.pack("<I", len(part)) + part for kind, part in parts)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


BOMBS = {
    "black": lambda: png(30_000, 30_000, bits=1, rows=bytes(3_751 * 30_000)),
    "header.jpg": lambda: jpeg(65_500, 65_500),
    "canvas.webp": lambda: webp(60_000, 60_000),
    "text": lambda: png(8, 8, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 28)))),
    "texts": lambda: png(
        8, 8, *[chunk(b"zTXt", b"%d\0\0" % n + zlib.compress(bytes(10**6))) for n in range(99)]
    ),
    "profile": lambda: png(8, 8, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(1 << 28)))),
}
# Prints each image, or why it is refused, with little more memory than Python itself takes.
DECODE_ALL = """
import resource, sys
from pathlib import Path
from apinet_jax.data.decoding import decode
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + (160 << 20),) * 2)
for path in sys.argv[1:]:
    try:
        print(decode(Path(path).read_bytes()).size)
    except ValueError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory in use from /proc")
def test_bombs_do_not_get_their_memory(tmp_path):
    for name, make in BOMBS.items():
        (tmp_path / name).write_bytes(make())
        assert (tmp_path / name).stat().st_size < 500_000
    command = [sys.executable, "-c", DECODE_ALL, *(str(tmp_path / name) for name in BOMBS)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    results = dict(zip(BOMBS, printed.stdout.splitlines(), strict=True))
    assert results["black"] == "30000 x 30000 pixels, more than 178,956,970"
    assert results["header.jpg"] == "65500 x 65500 pixels, more than 178,956,970"
    assert "178956970" in results["canvas.webp"]  # in Pillow's words
    # The pixels of these are fine.
    assert results["text"] == results["texts"] == results["profile"] == "(8, 8)"


def test_bomb_among_photos_is_listed(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "root"))
    photos = put_photos(tmp_path / "photos")
    (photos / "train/cat/bomb.png").write_bytes(png(14_000, 14_000, rows=b"0"))
    with pytest.raises(InputError, match=r"train/cat/bomb\.png: 14000 x 14000 pixels, more than"):
        open_dataset("folder", photos)
    dataset = open_dataset("folder", photos, skip_unreadable=True)
    assert dataset.skipped == ("train/cat/bomb.png",)
    assert survey(dataset).sizes.max() == 8


def progressive(passes, *extra):
    """A JPEG whose second scan is repeated."""
    stream = BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)
    Image.fromarray(noise).save(stream, "JPEG", progressive=True)
    data = stream.getvalue()
    _, second, third, *_ = (found.start() for found in re.finditer(rb"\xff\xda", data))
    return data[:2] + b"".join(extra) + data[2:second] + data[second:third] * passes + data[third:]


def test_jpeg_of_endless_scans():
    assert decode(progressive(100)).size == (32, 32)
    with pytest.raises(ValueError, match="a JPEG of more than 500 scans"):
        decode(progressive(600))


def test_bytes_that_look_like_scans_are_not_counted():
    # A comment, which may hold anything, and data that a telephone appends to the picture.
    comment = b"\xff\xfe" + struct.pack(">H", 2 + 2 * 600) + b"\xff\xda" * 600
    data = progressive(1, comment) + b"\xff\xda" * 600
    assert decode(data).size == (32, 32)


def test_large_images_are_decoded_one_at_a_time(monkeypatch):
    to_rgb, at_once, most = decoding._to_rgb, 0, 0
    meeting = threading.Barrier(2)

    def watched(image):
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        if image.width < 20:  # two small ones meet here
            meeting.wait(20)
        at_once -= 1
        return to_rgb(image)

    monkeypatch.setattr(decoding, "_to_rgb", watched)
    monkeypatch.setattr(decoding, "_LARGE", 500)
    with ThreadPool(4) as pool:
        pool.map(decode, [encoded(size=(30, 20))] * 40, 1)
        assert most == 1
        pool.map(decode, [encoded(size=(10, 20))] * 2, 1)
    assert most == 2


def test_stored_size():
    assert stored_size(encoded(size=(30, 20))) == (30, 20)
    assert stored_size(png(30_000, 30_000, rows=b"0")) == (30_000, 30_000)
    with pytest.raises(ValueError, match="not a JPEG, PNG or WebP"):
        stored_size(b"GIF89a")
