"""Whether a MATLAB file is built as its headers say, found out before scipy trusts them.

scipy's parser is compiled, and does what a header says: it calls itself for every array within an
array, makes room for as many as are declared, and takes the number of a type for a place in a
table. A damaged or made-up file ends the process there, or fills the memory. So the arrays are
walked through once in the order in which scipy reads them, and only what lists of images are made
of is let through: numbers, text, cells and structs of them.
"""

import math
import struct

_MATRIX, _INT32, _UINT32 = 14, 5, 6
# Types of elements that hold a name, numbers, or text.
_NAME = (1, 16)
_NUMBERS = (1, 2, 3, 4, 5, 6, 7, 9, 12, 13)
_TEXT = (1, 2, 4, 16, 17, 18)
# Classes of arrays.
_CELL, _STRUCT, _CHAR, _OPAQUE = 1, 2, 4, 17
_NUMERIC = range(6, 16)
# A struct of the official lists has fields, and those hold texts or numbers: two floors.
_MAX_DEPTH = 8
_MAX_FIELDS = 256
_MAX_DIMENSIONS = 32
# Empty arrays take eight bytes in a file and a hundred in the memory. The largest official list has
# 113,000.
_MAX_ARRAYS = 1 << 19


def check_array(content: bytes | memoryview, order: str, variables: tuple[str, ...]) -> None:
    """Checks an array of the top level, unless it is a variable that nobody reads.

    Args:
        content: What follows the array's tag, up to its end or further.
        order: `<` or `>`, the order of bytes.
        variables: The variables that are to be read.

    Raises:
        ValueError: It is built otherwise than its headers say, or holds what no list does.
    """
    _Walk(content, order).variable(variables)


class _Walk:
    """A position in an array, which only goes forward."""

    def __init__(self, content: bytes | memoryview, order: str):
        self._content, self._order = content, order
        self._position = self._arrays = 0

    def variable(self, variables: tuple[str, ...]) -> None:
        kind, is_complex, count, name = self._header()
        if name in variables:
            self._values(kind, is_complex, count, 1)

    def _array(self, depth: int) -> None:
        self._arrays += 1
        if depth > _MAX_DEPTH or self._arrays > _MAX_ARRAYS:
            raise ValueError("arrays within arrays beyond all bounds")
        mark, size = struct.unpack(f"{self._order}II", self._take(8))
        if mark != _MATRIX:
            raise ValueError(f"an element of type {mark} where an array should be")
        if size:
            kind, is_complex, count, _ = self._header()
            self._values(kind, is_complex, count, depth)

    def _header(self) -> tuple[int, bool, int, str]:
        """Returns class, whether there are imaginary parts, how many values, and the name."""
        self._take(8)
        (flags,) = struct.unpack(f"{self._order}I4x", self._take(8))
        kind = flags & 0xFF
        count = 0
        if kind != _OPAQUE:
            sides = self._integers()
            if len(sides) > _MAX_DIMENSIONS or min(sides, default=0) < 0:
                raise ValueError(f"an array of sides {sides[:_MAX_DIMENSIONS]}")
            count = math.prod(sides)
        name = bytes(self._element(_NAME)).decode("latin1")
        return kind, bool(flags & 0x800), count, name

    def _values(self, kind: int, is_complex: bool, count: int, depth: int) -> None:
        # Every value takes a byte at least, and what is no value has a header.
        if count > len(self._content):
            raise ValueError(f"an array of {count:,} values, more than it has bytes")
        if kind in _NUMERIC:
            for _ in range(1 + is_complex):
                self._element(_NUMBERS)
        elif kind == _CHAR:
            self._element(_TEXT)
        elif kind == _CELL:
            for _ in range(count):
                self._array(depth + 1)
        elif kind == _STRUCT:
            for _ in range(count * self._fields()):
                self._array(depth + 1)
        else:
            raise ValueError(f"an array of class {kind}, which is neither numbers nor text")

    def _fields(self) -> int:
        """Returns the number of fields of a struct."""
        length = self._integers()
        names = self._element(_NAME)
        if len(length) != 1 or length[0] < 1 or not 0 < len(names) // length[0] <= _MAX_FIELDS:
            raise ValueError(f"a struct without fields, or with more than {_MAX_FIELDS}")
        return len(names) // length[0]

    def _integers(self) -> tuple[int, ...]:
        content = self._element((_INT32, _UINT32))
        return struct.unpack(f"{self._order}{len(content) // 4}i", content[: len(content) // 4 * 4])

    def _element(self, kinds: tuple[int, ...]) -> bytes | memoryview:
        """Returns the bytes of an element, which is of one of some types."""
        tag = self._take(8)
        kind, size = struct.unpack(f"{self._order}II", tag)
        if small := kind >> 16:  # then the bytes lie in the tag
            kind &= 0xFFFF
            if small > 4:
                raise ValueError(f"a small element of {small} bytes")
            content = tag[4 : 4 + small]
        else:
            content = self._take(size)
            self._position += -size % 8
        if kind not in kinds:
            raise ValueError(f"an element of type {kind}")
        return content

    def _take(self, size: int) -> bytes | memoryview:
        start = self._position
        self._position += size
        if self._position > len(self._content):
            raise ValueError("it is cut off")
        return self._content[start : self._position]
