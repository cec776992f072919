"""The variables of MATLAB files, whose contents are not trusted."""

import struct
import warnings
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadWarning

from apinet_jax.data.official.archive import Files, read_list
from apinet_jax.data.official.mat_structure import check_array
from apinet_jax.system.errors import InputError

_HEADER = 128
_COMPRESSED = 15
# The largest official file, cars_annos.mat, unpacks to less than a quarter of this.
_MAX_UNPACKED = 1 << 26


def read_mat(files: Files, name: str, *variables: str) -> list[np.ndarray]:
    """Reads variables as one-dimensional arrays, of records where they are structs.

    Args:
        files: Where the file lies.
        name: Its path.
        variables: The variables to read.

    Returns:
        They, in that order.

    Raises:
        InputError: The file is missing or damaged, is no MATLAB file of version 5, or has no such
            variable.
    """
    data = read_list(files, name)
    try:
        _check(data, variables)
        with warnings.catch_warnings():
            # scipy warns of what it cannot read, and goes on; the second is of no class of its own.
            warnings.simplefilter("error", MatReadWarning)
            warnings.filterwarnings("error", "Unreadable variable")
            found = loadmat(BytesIO(data), squeeze_me=True, variable_names=variables)
        return [np.atleast_1d(found[variable]) for variable in variables]
    except KeyError as error:
        raise InputError(f"{name} in {files.place} has no {error}. {files.again}") from error
    except Exception as error:  # a damaged file makes the parser fail in almost any way
        raise InputError(
            f"{name} in {files.place} cannot be read ({error or type(error).__name__}). "
            f"{files.again}"
        ) from error


def column(
    files: Files, name: str, records: np.ndarray, field: str, kind: Callable[..., Any]
) -> list[Any]:
    """Returns one field of every record.

    Args:
        files: Where the file lies, for messages.
        name: Its path.
        records: What `read_mat` returned of a struct.
        field: Name of the field.
        kind: `whole` or `str`: what the values are.

    Raises:
        InputError: There is no such field, or a value is not of that kind.
    """
    if field not in (records.dtype.names or ()):
        raise InputError(f"The records of {name} in {files.place} have no {field}. {files.again}")
    return values(files, name, records[field], field, kind)


def values(
    files: Files, name: str, found: np.ndarray, what: str, kind: Callable[..., Any]
) -> list[Any]:
    """Returns the values of a list.

    Args:
        files: Where the file lies, for messages.
        name: Its path.
        found: The list.
        what: What one of them is called.
        kind: `whole` or `str`: what they are.

    Raises:
        InputError: A value is not of that kind.
    """
    try:
        return [kind(value) for value in found]
    except (OverflowError, TypeError, ValueError) as error:
        raise InputError(
            f"A {what} in {name} of {files.place} is wrong: {error}. {files.again}"
        ) from error


def whole(value: Any) -> int:
    """Returns a number, which MATLAB may keep as a fraction, as an integer.

    Raises:
        OverflowError: It is infinite.
        TypeError: It is not one number.
        ValueError: It is no number, or not a whole one.
    """
    if isinstance(value, np.ndarray):
        raise TypeError(f"{value.size} numbers in place of one")
    number = int(value)
    if number != value:
        raise ValueError(f"{value} is not a whole number")
    return number


def _check(data: bytes, variables: tuple[str, ...]) -> None:
    """Refuses what would grow beyond bounds or is built otherwise than it says; scipy obeys it.

    Args:
        data: The file.
        variables: The variables that are to be read.

    Raises:
        ValueError: With the reason.
    """
    if not data.startswith(b"MATLAB 5.0 MAT-file") or len(data) < _HEADER:
        raise ValueError("not a MATLAB file of version 5")
    order = "<" if data[_HEADER - 2 : _HEADER] == b"IM" else ">"
    position, room = _HEADER, _MAX_UNPACKED
    while position + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, position)
        # As scipy, which does not ask where an array ends that is not compressed.
        content = memoryview(data)[position + 8 :]
        if kind == _COMPRESSED:
            unpacked = zlib.decompressobj().decompress(content[:size], room)
            room -= len(unpacked)
            if room <= 0:
                raise ValueError(f"it unpacks to more than {_MAX_UNPACKED:,} bytes")
            check_array(memoryview(unpacked)[8:], order, variables)
        else:
            check_array(content, order, variables)
        position += 8 + size
