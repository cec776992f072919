"""The ways in which a command ends early, and the failures of machines in their words."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

# What a disk that is full, over quota, broken or gone answers to a write.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE)
# Whose errors are about a bucket, and what tensorstore appends to what it says of one.
_BUCKET_LIBRARIES = ("aiohttp", "gcsfs", "google")
_BUCKET_ANSWER = " [http_response"


class InputError(Exception):
    """Something the user gave is wrong; the message says what, where, and what to do (exit 2)."""

    exit_code = 2
    known_to_all_processes = False  # whether the other processes of the job end by it too


class RunError(Exception):
    """The input was fine but the run cannot go on; the message says what is safe (exit 1)."""

    exit_code = 1
    known_to_all_processes = False


class DivergedError(RunError):
    """A number is no longer finite; the same command would end in the same way (exit 3)."""

    exit_code = 3


class Interrupted(Exception):  # noqa: N818 - not an error: the user or the cluster asked for it
    """A signal asked the run to stop; its state is saved (exit 128 + signal, as shells expect)."""

    def __init__(self, signal_number: int):
        """Keeps the signal."""
        super().__init__(f"stopped by signal {signal_number}")
        self.exit_code = 128 + signal_number


@contextmanager
def explain_out_of_memory(advice: str) -> Iterator[None]:
    """Lets a device that has no memory left end in one message; other errors pass.

    Args:
        advice: Whole sentences: which settings need less.

    Raises:
        RunError: Instead of JAX's error, whose first line it quotes.
    """
    from jax.errors import JaxRuntimeError

    try:
        yield
    except JaxRuntimeError as error:
        text = str(error)
        if "RESOURCE_EXHAUSTED" not in text and "out of memory" not in text.lower():
            raise
        raise RunError(
            f"The device ran out of memory ({text.splitlines()[0].rstrip('.')}). {advice}"
        ) from error


@contextmanager
def explain_failed_writes(what: str | os.PathLike[str]) -> Iterator[None]:
    """Lets a write that the disk refused end in one message; other errors pass.

    Args:
        what: What is written, as in "Could not write {what}".

    Raises:
        RunError: Instead of the `OSError`, or of what a library made of it.
    """
    try:
        yield
    except Exception as error:
        if (reason := _refusal(error)) is None:
            raise
        raise RunError(
            f"Could not write {what}: {reason}. Once the disk takes it, the same command goes on."
        ) from error


def _refusal(error: BaseException | None) -> str | None:
    """What the system answered to a write, found in an error or in those behind it."""
    while error is not None:
        if isinstance(error, OSError):
            return error.strerror or first_line(error)
        for answer in map(os.strerror, _DISK):
            if answer in str(error):
                return answer
        if _is_of_bucket(error):
            return first_line(error)
        error = error.__cause__ or error.__context__
    return None


def _is_of_bucket(error: BaseException) -> bool:
    """Whether a library speaks of a bucket; tensorstore has no errors of its own."""
    library = type(error).__module__.partition(".")[0]
    return library in _BUCKET_LIBRARIES or _BUCKET_ANSWER in str(error)


def first_line(error: BaseException) -> str:
    """What an error says, in one line and without what a server sent beside it."""
    text = " ".join(str(error).partition(_BUCKET_ANSWER)[0].split())
    return f"{text or type(error).__name__}".rstrip(".")
