"""MATLAB files: the forms that MATLAB writes, and damaged ones, on which scipy may crash."""

import struct
import sys
import warnings
import zlib
from contextlib import nullcontext

import pytest
from scipy.io.matlab import MatReadWarning
from small_archives import mat, read_in_process

from apinet_jax.data.official import mat as matlab
from apinet_jax.data.official import mat_process
from apinet_jax.data.official.archive import Files
from apinet_jax.data.official.mat import read_mat
from apinet_jax.system.errors import InputError

HEADER = b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM"
CELL, STRUCT, CHAR, DOUBLE, FUNCTION = 1, 2, 4, 6, 16


def tag(kind, size):
    return struct.pack("<II", kind, size)


def element(kind, content):
    return tag(kind, len(content)) + content + bytes(-len(content) % 8)


def header(kind, *sides, name=b""):
    """Everything in an array before its values."""
    dimensions = element(5, struct.pack(f"<{len(sides)}i", *sides))
    return element(6, struct.pack("<II", kind, 0)) + dimensions + element(1, name)


def fields(length, names):
    return struct.pack("<HHi", 5, 4, length) + element(1, names)


def variable(*parts):
    return tag(14, sum(map(len, parts))) + b"".join(parts)


def compressed(content):
    packed = zlib.compress(content, 1)
    return tag(15, len(packed)) + packed


def read(content, *variables):
    files = Files("x", "Download again.", lambda _: True, lambda _: content)
    return read_mat(files, "list.mat", *variables)


@pytest.fixture
def in_process(monkeypatch):
    monkeypatch.setattr(matlab, "_run", read_in_process)


NUMBER = element(9, struct.pack("<d", 7))
EMPTY = tag(14, 0)
# Damage that crashes scipy or exhausts the memory.
CRASHES = {
    "nested": header(CELL, 1, 1, name=b"a") + (tag(14, 64) + header(CELL, 1, 1)) * 100_000 + EMPTY,
    "type": header(DOUBLE, 1, 1, name=b"a") + element(4321, bytes(8)),
    "many cells": header(CELL, 2**31 - 1, 1, name=b"a"),
    "long text": header(CHAR, 1, 2**31 - 1, name=b"a") + element(16, b""),
    "many records": header(STRUCT, 2**27, 1, name=b"a") + fields(2, b"a\0b\0"),
}


@pytest.mark.parametrize("content", CRASHES.values(), ids=CRASHES)
def test_crash_of_scipy_is_one_error(content):
    content = HEADER + compressed(variable(content))
    with pytest.raises(InputError, match=r"list\.mat in x cannot be read \(.+\)\. Download again"):
        read(content, "a")


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS does not enforce the limit")
def test_memory_is_bounded(monkeypatch, tmp_path):
    (tmp_path / "small.py").write_text(
        f"import sys\nsys.path.append({str(matlab._PROGRAM.parent)!r})\nimport mat_process\n"
        "mat_process._MAX_MEMORY = 1 << 28\nmat_process.main()\n"
    )
    monkeypatch.setattr(matlab, "_PROGRAM", tmp_path / "small.py")
    assert read(mat(a=[7, 8]), "a")[0] == [7, 8]
    content = HEADER + compressed(
        variable(header(DOUBLE, 2**25, 1, name=b"a"), element(2, bytes(2**25)))
    )
    assert len(content) < 1_000_000
    with pytest.raises(InputError, match=r"cannot be read \((MemoryError|Unable to allocate)"):
        read(content, "a")


def test_output_is_bounded(in_process, monkeypatch):
    monkeypatch.setattr(mat_process, "_MAX_OUTPUT", 1000)
    assert read(mat(a=[1] * 100), "a")[0] == [1] * 100
    with pytest.raises(InputError, match=r"it expands to more than 1,000 bytes"):
        read(mat(a=[1] * 1000), "a")


def test_process_that_does_not_end(monkeypatch, tmp_path):
    (tmp_path / "endless.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(matlab, "_PROGRAM", tmp_path / "endless.py")
    monkeypatch.setattr(matlab, "_TIMEOUT", 0.2)
    with pytest.raises(InputError, match=r"list\.mat in x cannot be read \(.*timed out"):
        read(mat(a=[1]), "a")


def test_separate_process_reads_the_same(monkeypatch):
    records = [{"name": "é", "number": 1.5, "none": float("nan")}] * 2
    content = mat(records=records, texts=["a", "b"], one=[3])
    found = read(content, "records", "texts", "one")
    monkeypatch.setattr(matlab, "_run", read_in_process)
    assert repr(read(content, "records", "texts", "one")) == repr(found)
    assert repr(found) == repr([records, ["a", "b"], [3.0]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>moved</html>", "not a MATLAB file of version 5"),
        (mat(a=["text"] * 99)[:-50], "cannot be read"),
        (mat(labels=[1, 2]), "has no 'a'"),
    ],
    ids=["page", "half", "other"],
)
def test_other_files_are_refused(content, message):
    with pytest.raises(InputError, match=rf"list\.mat in x .*{message}.*\. Download again\."):
        read(content, "a")


@pytest.mark.parametrize(
    ("warning", "damaged"),
    [
        (DeprecationWarning("a name in scipy will change"), False),
        (Warning('Unreadable variable "a"'), True),
        (MatReadWarning('Duplicate variable name "a"'), True),
    ],
)
def test_warnings_about_damage_are_errors(in_process, monkeypatch, warning, damaged):
    def with_warning(*args, **options):
        warnings.warn(warning, stacklevel=1)
        return loadmat(*args, **options)

    loadmat = mat_process.loadmat
    monkeypatch.setattr(mat_process, "loadmat", with_warning)
    refused = (
        pytest.raises(InputError, match=f"cannot be read .{warning}") if damaged else nullcontext()
    )
    with warnings.catch_warnings(), refused:
        warnings.simplefilter("ignore")  # tests run with each as an error
        assert read(mat(a=[1, 2]), "a")[0] == [1, 2]


def test_variables_that_are_not_read_may_be_of_any_class(in_process):
    function = variable(header(FUNCTION, 1, 1, name=b"f"), EMPTY)
    opaque = variable(element(6, struct.pack("<II", 17, 0)), element(1, b"o"), element(1, b"MCOS"))
    numbers = variable(header(DOUBLE, 1, 1, name=b"a"), NUMBER)
    assert read(HEADER + function + opaque + numbers, "a")[0] == [7]


def test_forms_that_matlab_writes(in_process):
    text = variable(header(CHAR, 1, 2), struct.pack("<HH2s2x", 16, 2, b"ab"))
    small = variable(header(DOUBLE, 1, 1), struct.pack("<HHI", 2, 1, 5))  # a byte is enough for 5
    record = variable(header(STRUCT, 1, 1, name=b"a"), fields(2, b"t\0n\0"), text, small)
    assert read(HEADER + record, "a")[0] == [{"t": "ab", "n": 5}]
    cells = variable(header(CELL, 1, 2, name=b"a"), text, EMPTY)
    assert read(HEADER + cells, "a")[0] == ["ab", []]


def test_big_endian(in_process):
    numbers = [14, 64, 6, 8, DOUBLE, 0, 5, 8, 1, 1]
    content = struct.pack(">10I", *numbers) + struct.pack(">II8s", 1, 1, b"a")
    content += struct.pack(">IId", 9, 8, 7)
    assert read(HEADER[:-4] + b"\1\0MI" + content, "a")[0] == [7]
