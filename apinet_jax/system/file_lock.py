"""File locks that end with their process, however it ends."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import filelock


@contextmanager
def file_lock(path: str | os.PathLike[str], *, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock on a file, created where missing, between processes of one machine.

    Where the file system has no locks, the body runs without one.

    Args:
        path: The lock file. Its content means nothing and is left as it is.
        wait: Whether to wait for another holder.

    Raises:
        filelock.Timeout: If another process holds the lock and `wait` is false.
    """
    # A soft lock would outlive a killed process.
    lock = filelock.FileLock(path, blocking=wait, fallback_to_soft=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise
    except (OSError, NotImplementedError):
        pass  # each file system without locks has another error for it
    try:
        yield
    finally:
        lock.release()
