"""Damaged files: valid seeds with a few changes that Hypothesis chooses and shrinks."""

import gzip
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from hypothesis import strategies as st

# Typical causes of parser faults: paths out of the folder, huge numbers, invalid text, nesting.
TOKENS = (
    b"",
    b"\0",
    b" ",
    b"\n",
    b"../",
    b"../../outside/secret.jpg",
    b"/etc/passwd",
    b"-1",
    b"0",
    b"nan",
    b"inf",
    b"1e308",
    b"-1e308",
    b"1e999",
    b"2147483648",
    b"18446744073709551616",
    b"9" * 5000,
    b"\xff\xfe\x80",
    "é\u2028\u0661".encode(),
    b"\xed\xa0\x80",
    b"a" * 300,
    b"null",
    b"true",
    b"[]",
    b"{}",
    b'"',
    b'"\\ud800"',
    b"," * 9,
    b"[" * 2000,
    b'{"a":' * 2000,
    b"{}, ",
)
NUMBERS = (
    0,
    1,
    0x7F,
    0xFF,
    0x7FFF,
    0xFFFF,
    2**24 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63,
    2**64 - 1,
)
_DIGITS = re.compile(rb"-?\d+(?:\.\d+)?")
_WORDS = re.compile(rb"[^\s,:]+")
_MOST_CHANGES = 5


class Seed(NamedTuple):
    """A valid file.

    Attributes:
        name: Name of the file that the parser reads.
        content: The bytes to damage.
        finish: Adds checksums and compression afterwards, which would reveal the damage.
    """

    name: str
    content: bytes
    finish: Callable[[bytes], bytes] = bytes


def damaged(seeds: Sequence[Seed]) -> st.SearchStrategy[tuple[str, bytes]]:
    """Return a strategy for the name and content of a damaged file."""

    def made(seed: Seed, drawn: bytes) -> tuple[str, bytes]:
        content = seed.content
        for change, where, what in struct.iter_unpack("<BHI", drawn[: len(drawn) // 7 * 7]):
            at = where * len(content) >> 16
            content = CHANGES[change % len(CHANGES)](content, at, what, seeds)
        return seed.name, seed.finish(content)

    # One string of bytes is drawn much faster than a list of numbers.
    changes = st.binary(min_size=7, max_size=7 * _MOST_CHANGES)
    return st.builds(made, st.sampled_from(seeds), changes)


def _flip(content, at, what, seeds):
    return (
        content[:at]
        + bytes(byte ^ (1 << what % 8) for byte in content[at : at + 1])
        + content[at + 1 :]
    )


def _set(content, at, what, seeds):
    return content[:at] + bytes([what & 0xFF]) + content[at + 1 :]


def _insert(content, at, what, seeds):
    return content[:at] + TOKENS[what % len(TOKENS)] + content[at:]


def _overwrite(content, at, what, seeds):
    token = TOKENS[what % len(TOKENS)]
    return content[:at] + token + content[at + len(token) :]


def _number(content, at, what, seeds):
    """Write a binary number of four or eight bytes, in either byte order."""
    number = NUMBERS[what % len(NUMBERS)]
    form = "<>"[what >> 8 & 1] + ("Q" if number >= 2**32 or what >> 9 & 1 else "I")
    packed = struct.pack(form, number)
    at -= at % 4
    return content[:at] + packed + content[at + len(packed) :]


def _replace(pattern):
    def change(content, at, what, seeds):
        """Replace the next number or word by a token."""
        found = pattern.search(content, at)
        if not found:
            return content
        return content[: found.start()] + TOKENS[what % len(TOKENS)] + content[found.end() :]

    return change


def _cut(content, at, what, seeds):
    return content[:at]


def _remove(content, at, what, seeds):
    return content[:at] + content[at + what % 64 :]


def _repeat(content, at, what, seeds):
    part = content[at : at + what % 256]
    return content[:at] + part * (1 + (what >> 8) % 20) + content[at:]


def _splice(content, at, what, seeds):
    other = seeds[what % len(seeds)].content
    return content[:at] + other[(what >> 8) % (len(other) + 1) :]


def _swap_lines(content, at, what, seeds):
    lines = content.split(b"\n")
    first, second = at % len(lines), what % len(lines)
    lines[first], lines[second] = lines[second], lines[first]
    return b"\n".join(lines)


CHANGES = (
    _flip,
    _set,
    _insert,
    _overwrite,
    _number,
    _replace(_DIGITS),
    _replace(_WORDS),
    _cut,
    _remove,
    _repeat,
    _splice,
    _swap_lines,
)


def png_checksums(content: bytes) -> bytes:
    """Correct the checksums of a PNG's chunks."""
    parts, at = [content[:8]], 8
    while at + 12 <= len(content):
        (size,) = struct.unpack_from(">I", content, at)
        body = content[at + 4 : at + 8 + size]
        parts += [content[at : at + 4], body, struct.pack(">I", zlib.crc32(body))]
        at += 12 + size
    return b"".join(parts)


def tar_checksums(content: bytes) -> bytes:
    """Correct the checksums of all headers of a tar."""
    blocks = [content[at : at + 512] for at in range(0, len(content), 512)]
    return b"".join(
        block[:148] + b"%06o\0 " % (sum(block[:148]) + 256 + sum(block[156:])) + block[156:]
        if b"ustar" in block[250:270]
        else block
        for block in blocks
    )


def gzipped(content: bytes) -> bytes:
    """Compress a tar with correct checksums."""
    return gzip.compress(tar_checksums(content), 1)


def sized(content: bytes) -> bytes:
    """Set the first eight bytes of a safetensors file to the length of its header."""
    end = content.find(b"}}") + 2
    return struct.pack("<Q", max(end - 8, 0)) + content[8:]
