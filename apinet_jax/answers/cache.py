"""Arrays in the run's folder `answers/`, which are recomputed when they are missing or outdated."""

import io
import json
from collections.abc import Mapping

import numpy as np

from apinet_jax.inference import Classifier
from apinet_jax.system.console import say
from apinet_jax.system.errors import RunError
from apinet_jax.system.paths import AnyPath, write_atomically

FOLDER = "answers"
_KEY = "key"
_FORMAT = 1  # raise it where scores, maps or constants behind stored arrays change


def run_key(classifier: Classifier, *more: object) -> str | None:
    """Return what arrays of a run depend on: its weights, its photos, `eval.flip`, and `more`.

    `None` for a run whose photos are not recorded, such as a converted one: nothing is stored then.
    """
    fingerprint = classifier.network.fingerprint
    if fingerprint is None:
        return None
    flip = bool(classifier.config.eval.flip)
    return json.dumps([_FORMAT, classifier.provenance.hash, fingerprint, flip, *more])


def cached(path: AnyPath, key: str | None) -> dict[str, np.ndarray] | None:
    """Return stored arrays by name; `None` if there are none, or they belong to another key.

    Args:
        path: The file.
        key: Everything that they depend on.
    """
    if key is None or not path.exists():
        return None
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            found = dict(arrays)
        return found if str(found.pop(_KEY)) == key else None
    except Exception as error:  # zipfile and numpy raise many kinds
        say(f"WARNING: {path} cannot be read ({error}); it is computed again.")
        return None


def write_cache(
    path: AnyPath, key: str | None, arrays: Mapping[str, np.ndarray], what: str
) -> None:
    """Store arrays; where the folder cannot be written, warn that they are computed each time.

    Args:
        path: The file.
        key: Everything that they depend on; without one nothing is stored.
        arrays: The arrays by name.
        what: What they are, as in "{what} are computed each time".
    """
    if key is None:
        return
    try:
        write_arrays(path, {_KEY: np.array(key), **arrays})
    except RunError as error:
        say(f"WARNING: {error} {what} are computed each time.")


def write_arrays(path: AnyPath, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays by name as .npz, in a folder that is created if needed.

    Raises:
        RunError: If the folder or the file cannot be written.
    """
    content = io.BytesIO()
    np.savez(content, **arrays)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{path.parent} cannot be created: {error.strerror}.") from error
    write_atomically(path, content.getvalue())
