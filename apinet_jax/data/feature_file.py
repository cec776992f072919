"""Computed features on disk: written once, shared by processes, and recomputed where damaged."""

import contextlib
import io
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock
import numpy as np
from jaxtyping import Float

from apinet_jax.system.console import say
from apinet_jax.system.errors import RunError
from apinet_jax.system.file_lock import file_lock
from apinet_jax.system.paths import write_atomically

_POLL = 0.2  # seconds between attempts to take a lock that another process holds
_QUIET = 10  # attempts before the wait is printed: reading takes a moment too


def read_or_compute(
    path: Path,
    key: str,
    compute: Callable[[], Float[np.ndarray, "N D"]],
    before_wait: Callable[[], None],
) -> Float[np.ndarray, "N D"]:
    """Return the features in a file, and compute and write them first if they are not there.

    Processes that need the same file wait for the one that computes it. The file is a zip archive,
    whose checksums (CRC-32) show damage, and an atomic rename gives it its name. Where it cannot be
    written, the features are used all the same.

    Args:
        path: The file.
        key: What the features depend on; it is stored with them.
        compute: Computes them.
        before_wait: Called while another process computes them; may raise to stop.
    """
    with contextlib.suppress(OSError):  # a write will fail, and explain it
        path.parent.mkdir(parents=True, exist_ok=True)
    with _patient_lock(path.with_suffix(".lock"), before_wait):
        features = _read(path, key)
        if features is None:
            features = compute()
            content = io.BytesIO()
            np.savez(content, features=features, key=np.array(key))
            try:
                write_atomically(path, content.getvalue())
            except RunError as error:
                say(f"WARNING: {error} The next run computes these features again.")
    return features


@contextlib.contextmanager
def _patient_lock(path: Path, before_wait: Callable[[], None]) -> Iterator[None]:
    """Hold a lock; while another process holds it, keep answering signals."""
    with contextlib.ExitStack() as held:
        for attempt in itertools.count():
            try:
                held.enter_context(file_lock(path, wait=False))
                break
            except filelock.Timeout:
                if attempt == _QUIET:
                    say("Waiting for another process, which computes the same features ...")
                before_wait()
                time.sleep(_POLL)
        yield


def _read(path: Path, key: str) -> Float[np.ndarray, "N D"] | None:
    """Return the features in an undamaged file; `None` without one."""
    if not path.exists():
        return None
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            if str(arrays["key"]) == key:
                return arrays["features"]
        reason = "it belongs to other images or weights"
    except Exception as error:  # zipfile and numpy raise many kinds
        reason = str(error)
    say(f"WARNING: {path} is damaged ({reason}). Its features are computed again.")
    return None
