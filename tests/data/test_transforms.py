"""Pixels against independent pipelines of Pillow and numpy."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from apinet_jax.data import decoding
from apinet_jax.data.crops import ArrayReader, RandomCrop
from apinet_jax.data.decoding import decode, least_side
from apinet_jax.data.transforms import center_crop, resize


def encode(image, file_format="PNG", **options):
    stream = BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def photo(width, height, seed=0):
    """Smooth shapes with some grain, as a photograph has."""
    noise = np.random.default_rng(seed).normal(0, 12, (height, width, 3))
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 9), np.cos(y / 7), np.sin((x + y) / 13)], -1) * 90
    return Image.fromarray(np.clip(127 + waves + noise, 0, 255).astype(np.uint8))


def pixel(data, x=0, y=0):
    return decode(data).getpixel((x, y))


@pytest.mark.parametrize(
    ("file_format", "options", "tolerance"),
    [("PNG", {}, 0), ("WEBP", {"lossless": True}, 0), ("JPEG", {"quality": 95}, 3)],
)
def test_formats(file_format, options, tolerance):
    image = decode(encode(Image.new("RGB", (20, 10), (200, 30, 60)), file_format, **options))
    assert (image.mode, image.size) == ("RGB", (20, 10))
    np.testing.assert_allclose(image.getpixel((5, 5)), (200, 30, 60), atol=tolerance)


def test_greyscale_bilevel_and_palette():
    assert pixel(encode(Image.new("L", (4, 4), 77))) == (77, 77, 77)
    assert pixel(encode(Image.new("1", (4, 4), 1))) == (255, 255, 255)
    assert pixel(encode(Image.new("RGB", (4, 4), (9, 8, 7)).quantize())) == (9, 8, 7)


def test_cmyk_jpeg():
    # Half cyan, nothing else: red 255 - 127 = 128, green and blue stay full.
    data = encode(Image.new("CMYK", (16, 16), (127, 0, 0, 0)), "JPEG", quality=95)
    np.testing.assert_allclose(pixel(data, 8, 8), (128, 255, 255), atol=3)


def test_16_bit_grey_keeps_its_high_byte():
    levels = np.array([[0, 255, 256, 0x8000, 0xFFFF]], np.uint16)
    grey = np.asarray(decode(encode(Image.fromarray(levels))))[0, :, 0]
    assert grey.tolist() == [0, 0, 1, 128, 255]


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(bits, colour, row, width, *extra):
    """A PNG of one row of pixels, with more chunks before them."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, bits, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0" + row))
    return decoding._PNG + b"".join((header, *extra, pixels, chunk(b"IEND", b"")))


@pytest.mark.parametrize(
    ("bits", "colour", "row", "key", "expected"),
    [
        (2, 0, b"\x1b", b"\0\2", [0, 85, 255, 255]),  # of 0, 85, 170, 255 the third is transparent
        (4, 0, b"\x3f", b"\0\3", [255, 255]),  # of 51, 255 the first
        (8, 0, b"\x03\x7f", b"\0\3", [255, 127]),
        (16, 0, b"\x11\x22\x11\x23", b"\x11\x22", [255, 17]),
        (16, 2, b"\x11\x22\x33\x44\x55\x66", b"\x11\x22\x33\x44\x55\x66", [255]),
        (16, 2, b"\x22\x44\x66\x11\x22\x33", b"\x11\x22\x33\x44\x55\x66", [34]),
    ],
)
def test_transparent_value_of_a_png(bits, colour, row, key, expected):
    image = decode(png(bits, colour, row, len(expected), chunk(b"tRNS", key)))
    assert np.asarray(image)[0, :, 0].tolist() == expected


def test_damaged_texts_of_a_png_do_not_matter():
    text = bytearray(chunk(b"tEXt", b"Comment\0some"))
    text[-1] ^= 1  # the checksum
    exif = bytearray(chunk(b"eXIf", b"MM\0*\0\0\0\x08" + bytes(6)))
    exif[-1] ^= 1
    huge = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 21)))
    data = png(8, 0, b"\x07", 1, bytes(text), bytes(exif), huge)
    end = data.index(b"IEND") - 4
    assert pixel(png(8, 0, b"\x07", 1)[:-12] + huge + data[end:]) == (7, 7, 7)
    assert pixel(data) == (7, 7, 7)
    assert decoding.stored_size(data) == (1, 1)
    at = data.index(b"IDAT") + 6
    with pytest.raises(ValueError, match=r"."):
        decode(data[:at] + b"\xff" + data[at + 1 :])


def test_transparency_is_composited_over_white():
    half_black = encode(Image.new("RGBA", (4, 4), (0, 0, 0, 128)))
    assert pixel(half_black) == (127, 127, 127)  # 255 * (1 - 128 / 255)
    assert pixel(encode(Image.new("RGBA", (4, 4), (50, 60, 70, 0)))) == (255, 255, 255)
    assert pixel(encode(Image.new("LA", (4, 4), (10, 255)))) == (10, 10, 10)


def test_colour_key_and_transparent_palette():
    keyed = encode(Image.new("RGB", (4, 4), (1, 2, 3)), transparency=(1, 2, 3))
    assert pixel(keyed) == (255, 255, 255)
    indexed = Image.new("P", (4, 4), 0)
    indexed.putpalette([9, 8, 7, 0, 0, 0])
    assert pixel(encode(indexed, transparency=0)) == (255, 255, 255)
    assert pixel(encode(indexed, transparency=b"\xff\x00")) == (9, 8, 7)


@pytest.mark.parametrize(
    ("orientation", "size", "corner"),
    # The place of the pixel that is stored at the top left of a 6 x 4 image.
    [
        (1, (6, 4), (0, 0)),
        (2, (6, 4), (5, 0)),
        (3, (6, 4), (5, 3)),
        (4, (6, 4), (0, 3)),
        (5, (4, 6), (0, 0)),
        (6, (4, 6), (3, 0)),
        (7, (4, 6), (3, 5)),
        (8, (4, 6), (0, 5)),
    ],
)
@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_exif_orientation(orientation, size, corner, file_format):
    image = Image.new("RGB", (6, 4))
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if file_format == "WEBP" else {}
    upright = decode(encode(image, file_format, exif=exif, **options))
    assert upright.size == size
    assert upright.getpixel(corner) == (255, 255, 255)


def test_exif_orientation_of_a_jpeg():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(encode(Image.new("RGB", (32, 16)), "JPEG", exif=exif)).size == (16, 32)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_is_ignored():
    data = encode(Image.new("RGB", (16, 8), "white"), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert decode(data).size == (16, 8)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
def test_truncated_files_are_refused(file_format):
    data = encode(photo(64, 64), file_format)
    for part in (data[:20], data[: len(data) // 2]):
        with pytest.raises(ValueError, match=r".+"):
            decode(part)


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "empty file"), (b"hello", "not a JPEG"), (b"GIF89a....", "not a JPEG, PNG or WebP")],
)
def test_other_files_are_refused_with_the_reason(data, reason):
    with pytest.raises(ValueError, match=reason):
        decode(data)


def test_decompression_bomb_is_refused_before_it_is_unpacked():
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = decoding._PNG + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0"))
    with pytest.raises(ValueError, match="60000 x 60000 pixels"):
        decode(bomb)


def test_large_photo_is_no_bomb(monkeypatch):
    # Pillow alone would warn here, and warnings are errors in these tests.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert decode(encode(Image.new("RGB", (12, 12)))).size == (12, 12)
    monkeypatch.setattr(decoding, "MAX_PIXELS", 143)
    with pytest.raises(ValueError, match="12 x 12 pixels"):
        decode(encode(Image.new("RGB", (12, 12))))


@pytest.mark.parametrize(
    ("width", "height", "limit"), [(300, 200, 0.5), (1500, 1000, 1.0), (700, 300, 1.0)]
)
def test_pixels_match_an_independent_pipeline(width, height, limit):
    def reference(data):
        image = Image.open(BytesIO(data)).convert("RGB")
        image = image.resize((512, 512), resample=Image.Resampling.BILINEAR)
        return np.asarray(image.crop((32, 32, 480, 480)), np.int64)

    for seed in range(3):
        data = encode(photo(width, height, seed), "JPEG", quality=90)
        ours = center_crop(resize(decode(data), 512), 448)
        assert (ours.dtype, ours.shape) == (np.uint8, (448, 448, 3))
        assert np.abs(ours - reference(data)).mean() <= limit


@pytest.mark.parametrize(
    ("size", "least", "expected"),
    [
        ((800, 600), 75, (100, 75)),
        ((800, 600), 76, (200, 150)),
        ((800, 600), 300, (400, 300)),
        ((800, 600), 301, (800, 600)),
        ((2000, 1600), 20, (250, 200)),  # an eighth is the least that JPEG has
    ],
)
def test_jpeg_is_reduced_while_both_sides_are_large_enough(size, least, expected):
    data = encode(Image.new("RGB", size, (200, 30, 60)), "JPEG", quality=95)
    image = decode(data, least)
    assert image.size == expected
    np.testing.assert_allclose(image.getpixel((5, 5)), (200, 30, 60), atol=3)


def test_reduced_jpegs_are_upright_and_rgb():
    exif = Image.Exif()
    exif[0x0112] = 6
    for mode in ("RGB", "L", "CMYK"):
        data = encode(Image.new(mode, (64, 32)), "JPEG", exif=exif)
        image = decode(data, 16)
        assert (image.mode, image.size) == ("RGB", (16, 32))


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_other_formats_are_not_reduced(file_format):
    data = encode(
        photo(64, 48), file_format, **({"lossless": True} if file_format == "WEBP" else {})
    )
    np.testing.assert_array_equal(np.asarray(decode(data, 10)), np.asarray(decode(data)))


def test_a_reduced_photo_keeps_twice_the_resized_side():
    assert least_side("full", 128) is None
    least = least_side("scaled", 128)
    data = encode(photo(2048, 1536), "JPEG", quality=90)
    assert decode(data, least).size == (512, 384)
    differences = resize(decode(data, least), 128).astype(int) - resize(decode(data), 128)
    assert 0 < np.abs(differences).mean() < 1


def test_shrinking_is_antialiased():
    # Alternating black and white columns average out; without antialiasing they would survive.
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    inner = resize(Image.fromarray(stripes), 64)[:, 4:-4]
    assert np.abs(inner.astype(int) - 127).max() <= 4


def test_aspect_is_not_kept():
    image = Image.new("RGB", (100, 40))
    image.paste((255, 255, 255), (50, 0, 100, 40))
    pixels = resize(image, 20)
    assert pixels[:, :9].max() == 0
    assert pixels[:, 11:].min() == 255


def numbered(size):
    """An image whose first two channels are the row and column of each pixel."""
    rows, columns = np.mgrid[:size, :size].astype(np.uint8)
    return np.stack([rows, columns, np.zeros_like(rows)], -1)


def cut(image, crop, seed, step, slot):
    return RandomCrop(ArrayReader(image[None]), crop, seed)(0, step, slot)


# Wide and high ones, and an axis that keeps its length; Pillow begins with the rows of 41 x 167.
@pytest.mark.parametrize("shape", [(60, 44), (44, 60), (41, 167), (32, 32), (32, 20), (33, 32)])
@pytest.mark.parametrize("size", [32, 36])
def test_part_equals_a_slice_of_the_resized_image(shape, size):
    noise = np.random.default_rng(0).integers(0, 256, (shape[1], shape[0], 3), np.uint8)
    image = Image.fromarray(noise)
    complete = resize(image, size)
    for top, left, side in [(0, 0, size), (0, 3, 28), (4, 1, 28), (5, 0, 13), (11, 17, 15)]:
        expected = complete[top : top + side, left : left + side]
        np.testing.assert_array_equal(resize(image, size, (top, left, side)), expected)


def test_center_crop_rounds_as_torchvision():
    # Margins of 5 and 7: 2.5 rounds to 2 and 3.5 to 4, half to even.
    assert center_crop(numbered(13), 8)[0, 0].tolist() == [2, 2, 0]
    assert center_crop(numbered(15), 8)[0, 0].tolist() == [4, 4, 0]
    assert center_crop(numbered(8), 8).shape == (8, 8, 3)


def test_random_crop_is_keyed_by_seed_step_and_slot():
    image = numbered(64)
    first = cut(image, 48, seed=3, step=5, slot=7)
    np.testing.assert_array_equal(first, cut(image, 48, seed=3, step=5, slot=7))
    others = [(4, 5, 7), (3, 6, 7), (3, 5, 8), (3, 7, 5), (-3, 5, 7)]
    for seed, step, slot in others:
        assert not np.array_equal(first, cut(image, 48, seed, step, slot))


def test_random_crop_never_changes():
    # (top, left, flipped) as first recorded: a change here changes every recorded run.
    drawn = []
    for slot in range(4):
        part = cut(numbered(64), 48, seed=0, step=0, slot=slot)
        flipped = bool(part[0, 0, 1] > part[0, 1, 1])
        drawn.append((int(part[0, 0, 0]), int(part[0, :, 1].min()), flipped))
    assert drawn == [(4, 12, False), (6, 14, True), (8, 0, False), (12, 8, True)]


def test_random_crop_is_uniform():
    tops, lefts, flips = np.zeros(5), np.zeros(5), 0
    for slot in range(5000):
        part = cut(numbered(12), 8, seed=1, step=0, slot=slot)
        tops[part[0, 0, 0]] += 1
        lefts[part[0, :, 1].min()] += 1
        flips += part[0, 0, 1] > part[0, 1, 1]
    # 1,000 expected in each of five places; four standard deviations are 113.
    assert np.abs(tops - 1000).max() < 113
    assert np.abs(lefts - 1000).max() < 113
    assert abs(flips - 2500) < 142


@pytest.mark.parametrize("crop", [0, 9])
def test_crop_that_does_not_fit(crop):
    with pytest.raises(ValueError, match=f"cannot cut {crop} pixels"):
        center_crop(numbered(8), crop)
    with pytest.raises(ValueError, match="out of an image of 8"):
        cut(numbered(8), crop, 0, 0, 0)
