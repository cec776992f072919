"""MATLAB files that are built otherwise than they say; scipy alone crashes on most of them."""

import struct
import zlib

import pytest
from small_archives import mat

from apinet_jax.data.official import mat_structure
from apinet_jax.data.official.archive import Files
from apinet_jax.data.official.mat import read_mat
from apinet_jax.system.errors import InputError

HEADER = b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM"
CELL, STRUCT, OBJECT, CHAR, SPARSE, DOUBLE, FUNCTION = 1, 2, 3, 4, 5, 6, 16


def tag(kind, size):
    return struct.pack("<II", kind, size)


def element(kind, content):
    return tag(kind, len(content)) + content + bytes(-len(content) % 8)


def header(kind, *sides, name=b""):
    """All of an array that comes before its values."""
    dimensions = element(5, struct.pack(f"<{len(sides)}i", *sides))
    return element(6, struct.pack("<II", kind, 0)) + dimensions + element(1, name)


def fields(length, names):
    return struct.pack("<HHi", 5, 4, length) + element(1, names)


def read(content, *variables):
    files = Files("x", "Again.", lambda _: True, lambda _: content)
    return read_mat(files, "list.mat", *variables)


def variable(*parts):
    return tag(14, sum(map(len, parts))) + b"".join(parts)


NUMBER = element(9, struct.pack("<d", 7))
EMPTY = tag(14, 0)
HOSTILE = {
    "nested": (
        header(CELL, 1, 1, name=b"a") + (tag(14, 64) + header(CELL, 1, 1)) * 100_000 + EMPTY,
        "arrays within arrays beyond all bounds",
    ),
    "cells": (header(CELL, 2**31 - 1, 1, name=b"a"), "an array of 2,147,483,647 values"),
    "more cells": (header(CELL, 2**31 - 1, 2**31 - 1, 4, name=b"a"), "more than it has bytes"),
    "spaces": (header(CHAR, 1, 2**31 - 1, name=b"a") + element(16, b""), "2,147,483,647 values"),
    "records": (
        header(STRUCT, 2**27, 1, name=b"a") + fields(2, b"a\0b\0"),
        "an array of 134,217,728 values",
    ),
    "no length": (header(STRUCT, 1, 1, name=b"a") + fields(0, b"a\0"), "a struct without fields"),
    "below": (header(STRUCT, 1, 1, name=b"a") + fields(-1, b"a\0"), "a struct without fields"),
    "names": (header(STRUCT, 1, 1, name=b"a") + fields(1, b"a" * 257), "or with more than 256"),
    "no side": (header(DOUBLE, -1, 1, name=b"a") + NUMBER, r"an array of sides \(-1, 1\)"),
    "type": (header(DOUBLE, 1, 1, name=b"a") + element(4321, bytes(8)), "element of type 4321"),
    "gap": (header(DOUBLE, 1, 1, name=b"a") + element(8, bytes(8)), "an element of type 8"),
    "text": (header(CHAR, 1, 1, name=b"a") + element(60_000, b"a"), "an element of type 60000"),
    "small": (header(CHAR, 1, 9, name=b"a") + struct.pack("<HHI", 16, 9, 0), "small element of 9"),
    "size": (header(DOUBLE, 1, 1, name=b"a") + tag(9, 2**32 - 1), "it is cut off"),
    "no array": (header(CELL, 1, 1, name=b"a") + NUMBER, "type 9 where an array should be"),
    "object": (header(OBJECT, 1, 1, name=b"a") + element(1, b"f"), "an array of class 3"),
    "sparse": (header(SPARSE, 1, 1, name=b"a") + NUMBER * 3, "an array of class 5"),
    "function": (header(FUNCTION, 1, 1, name=b"a") + EMPTY, "an array of class 16"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("content", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_what_is_built_otherwise_than_it_says(content, reason, packed):
    content = variable(content)
    content = element(15, zlib.compress(content)) if packed else content
    with pytest.raises(InputError, match=rf"list\.mat in x cannot be read \(.*{reason}"):
        read(HEADER + content, "a")


def test_too_many_arrays(monkeypatch):
    monkeypatch.setattr(mat_structure, "_MAX_ARRAYS", 99)
    assert len(read(mat(a=["b"] * 99), "a")[0]) == 99
    with pytest.raises(InputError, match="arrays within arrays beyond all bounds"):
        read(mat(a=["b"] * 100), "a")


def test_what_nobody_reads_may_be_of_any_class():
    function = variable(header(FUNCTION, 1, 1, name=b"f"), EMPTY)
    opaque = variable(element(6, struct.pack("<II", 17, 0)), element(1, b"o"), element(1, b"MCOS"))
    numbers = variable(header(DOUBLE, 1, 1, name=b"a"), NUMBER)
    assert read(HEADER + function + opaque + numbers, "a")[0].tolist() == [7]


def test_forms_that_matlab_writes():
    text = variable(header(CHAR, 1, 2), struct.pack("<HH2s2x", 16, 2, b"ab"))
    small = variable(header(DOUBLE, 1, 1), struct.pack("<HHI", 2, 1, 5))  # a byte will do for 5
    record = variable(header(STRUCT, 1, 1, name=b"a"), fields(2, b"t\0n\0"), text, small)
    (found,) = read(HEADER + record, "a")
    assert (found["t"][0], found["n"][0]) == ("ab", 5)
    cells = variable(header(CELL, 1, 2, name=b"a"), text, EMPTY)
    (found,) = read(HEADER + cells, "a")
    assert found[0] == "ab"
    assert found[1].size == 0


def test_the_other_order_of_bytes():
    numbers = [14, 64, 6, 8, DOUBLE, 0, 5, 8, 1, 1]
    content = struct.pack(">10I", *numbers) + struct.pack(">II8s", 1, 1, b"a")
    content += struct.pack(">IId", 9, 8, 7)
    assert read(HEADER[:-4] + b"\1\0MI" + content, "a")[0].tolist() == [7]
