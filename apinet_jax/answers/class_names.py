"""Names of classes as people type them."""

import csv
import difflib
import io
import os
import unicodedata
from collections.abc import Iterable, Sequence

from apinet_jax.data.records.walk import quoted
from apinet_jax.system.errors import InputError
from apinet_jax.system.paths import local_path

_NEAREST = 3


def find_classes(names: Iterable[str], class_names: Sequence[str]) -> list[int]:
    """Return the label of each name.

    Accents may be composed or decomposed letters: file systems store class folders in both ways.

    Raises:
        InputError: If there are no such classes; it lists the nearest names of each.

    Examples:
        >>> find_classes(["Wren"], ["Robin", "Wren"])
        [1]
    """
    label_of = {normal(name): label for label, name in enumerate(class_names)}
    names = list(names)
    if unknown := [name for name in names if normal(name) not in label_of]:
        subject = "There is no class" if len(unknown) == 1 else "There are no classes"
        hints = "".join(nearest_hint(name, class_names) for name in unknown[:_NEAREST])
        raise InputError(
            f"{subject} {quoted(unknown)} in the run.{hints} It has {len(class_names):,} classes."
        )
    return [label_of[normal(name)] for name in names]


def names_in(text: str) -> list[str]:
    """Return names that are separated by commas or on lines, or those in a file, one a line.

    A name with a comma is quoted, as in CSV.

    Raises:
        InputError: If there are none, or the file is not text.
    """
    if os.path.isfile(os.path.expanduser(text)):
        try:
            lines = local_path(text).read_bytes().decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise InputError(f"{text} is not UTF-8: it cannot be a list of classes.") from error
    else:
        try:
            rows = list(csv.reader(io.StringIO(text, newline=""), skipinitialspace=True))
        except csv.Error as error:
            raise InputError(f"{text[:80]!r} is not a list of names: {error}.") from error
        lines = [cell for row in rows for cell in row]
    if not (names := [line.strip() for line in lines if line.strip()]):
        raise InputError(f"{text!r} names no class.")
    return names


def nearest_hint(name: str, class_names: Sequence[str]) -> str:
    """Return a sentence with the class names most similar to a name; empty without any."""
    spelled = {each.casefold(): each for each in class_names}
    near = difflib.get_close_matches(name.casefold(), spelled, _NEAREST)
    return f" Nearest to {name!r}: {quoted(spelled[each] for each in near)}." if near else ""


def normal(name: str) -> str:
    """Return a name with composed letters, to compare names of different file systems."""
    return unicodedata.normalize("NFC", name)
