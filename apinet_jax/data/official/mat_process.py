"""Program that reads a MATLAB file from standard input and prints variables of it as JSON.

`mat.py` runs it in a separate process: scipy's compiled parser trusts the headers of a file, so a
damaged or malicious one can crash the process or exhaust its memory.
"""

import json
import resource
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO
from typing import Any

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadWarning

_MAX_MEMORY = 1 << 31
# The largest official list, cars_annos.mat, has 16,185 records: about 3 MB of JSON.
_MAX_OUTPUT = 1 << 26


def to_json(data: bytes, variables: Sequence[str]) -> str:
    """Return the variables found, each a list of values, or of records where it is a struct."""
    with warnings.catch_warnings():
        # scipy warns about what it cannot read and continues. The second one has no class.
        warnings.simplefilter("error", MatReadWarning)
        warnings.filterwarnings("error", "Unreadable variable")
        found = loadmat(BytesIO(data), squeeze_me=True, variable_names=variables)
    lists = {name: _to_list(found[name]) for name in variables if name in found}
    text = json.dumps(lists, default=lambda value: value.tolist())
    if len(text) > _MAX_OUTPUT:
        raise ValueError(f"it expands to more than {_MAX_OUTPUT:,} bytes")
    return text


def _to_list(value: Any) -> list[Any]:
    array = np.atleast_1d(value)
    if array.dtype.names is None:
        return array.tolist()
    return [dict(zip(array.dtype.names, record, strict=True)) for record in array.tolist()]


def main() -> None:
    """Run the program; an error goes to standard error in one line, with exit status 1."""
    with suppress(OSError, ValueError):  # the system may have lower limits already, or none
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY, _MAX_MEMORY))
    try:
        sys.stdout.write(to_json(sys.stdin.buffer.read(), sys.argv[1:]))
    except Exception as error:  # a damaged file makes the parser fail in almost any way
        sys.exit(" ".join(str(error).split()) or type(error).__name__)


if __name__ == "__main__":
    main()
