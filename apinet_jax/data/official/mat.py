"""Variables of MATLAB files, whose contents are not trusted."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from apinet_jax.data.official.archive import Files, read_list
from apinet_jax.system.errors import InputError

_PROGRAM = Path(__file__).with_name("mat_process.py")
_TIMEOUT = 120  # seconds; the largest official file takes about two


def read_mat(files: Files, name: str, *variables: str) -> list[list[Any]]:
    """Return variables of a file: each a list of values, or of dicts where it is a struct.

    Raises:
        InputError: The file is missing or damaged, is not a MATLAB file of version 5, or does not
            have such a variable.
    """
    data = read_list(files, name)
    try:
        if not data.startswith(b"MATLAB 5.0 MAT-file"):
            raise ValueError("not a MATLAB file of version 5")
        found = json.loads(_run(data, variables))
        return [found[variable] for variable in variables]
    except KeyError as error:
        raise InputError(f"{name} in {files.place} has no {error}. {files.repair_hint}") from error
    except (OSError, RecursionError, ValueError, subprocess.SubprocessError) as error:
        raise InputError(
            f"{name} in {files.place} cannot be read ({error}). {files.repair_hint}"
        ) from error


def _run(data: bytes, variables: Sequence[str]) -> str | bytes:
    """Run scipy's parser in a separate process, which a damaged file may crash."""
    done = subprocess.run(
        [sys.executable, "-P", _PROGRAM, *variables],
        input=data,
        capture_output=True,
        # Each thread of OpenBLAS would reserve memory, which is limited there.
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        timeout=_TIMEOUT,
        check=False,
    )
    if done.returncode < 0:
        raise ValueError(f"scipy crashed with signal {-done.returncode}")
    if done.returncode:
        raise ValueError((done.stderr.decode("utf-8", "replace").splitlines() or [""])[-1])
    return done.stdout


def column(
    files: Files, name: str, records: Sequence[Any], field: str, kind: Callable[[Any], Any]
) -> list[Any]:
    """Return one field of every record of a struct.

    Args:
        files: The files of the data set, for messages.
        name: Path of the MATLAB file, for messages.
        records: A struct as `read_mat` returned it.
        field: Name of the field.
        kind: `to_integer` or `str`: converts a value.

    Raises:
        InputError: A record has no such field, or a value is not of that kind.
    """
    if not all(isinstance(record, dict) and field in record for record in records):
        raise InputError(
            f"The records of {name} in {files.place} have no {field}. {files.repair_hint}"
        )
    return convert(files, name, [record[field] for record in records], field, kind)


def convert(
    files: Files, name: str, values: Sequence[Any], what: str, kind: Callable[[Any], Any]
) -> list[Any]:
    """Return values of one kind; `what` names one of them in messages.

    Raises:
        InputError: A value is not of that kind.
    """
    try:
        return [kind(value) for value in values]
    except (OverflowError, TypeError, ValueError) as error:
        raise InputError(
            f"A {what} in {name} of {files.place} is wrong: {error}. {files.repair_hint}"
        ) from error


def to_integer(value: Any) -> int:
    """Return a number, which MATLAB may store as a fraction, as an integer.

    Raises:
        OverflowError: It is infinite.
        TypeError: It is not one number.
        ValueError: It is not a number, or has a fractional part.
    """
    if isinstance(value, list):
        raise TypeError(f"{len(value)} numbers in place of one")
    number = int(value)
    if number != value:
        raise ValueError(f"{value} is not a whole number")
    return number
