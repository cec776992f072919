"""How a command ends early, and the messages for failures of disks and devices."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

# How a full, broken, read-only or vanished disk answers a write; libraries quote it as text.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE)
# Answers that concern the place. Sockets and pipes have other ones, and so do most bugs.
_PLACE = (
    *(errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG),
    *(errno.ENODEV, errno.ENXIO, errno.ENOTCONN),
)
# Libraries whose errors concern a bucket, and what tensorstore appends to a bucket's answer.
_BUCKET_LIBRARIES = ("aiohttp", "gcsfs", "google")
_BUCKET_ANSWER = " [http_response"


class InputError(Exception):
    """Invalid input; the message says what is wrong, where, and what to do (exit 2)."""

    exit_code = 2
    known_to_all_processes = False  # whether the other processes of the job end with it too


class RunError(Exception):
    """A run that cannot continue despite valid input; the message says what is safe (exit 1)."""

    exit_code = 1
    known_to_all_processes = False


class DivergedError(RunError):
    """A number that is no longer finite; the same command would fail again (exit 3)."""

    exit_code = 3


class Interrupted(Exception):  # noqa: N818 - not an error: the user or the cluster asked for it
    """A signal that asked the run to stop; the state is saved (exit 128 + signal, as in shells)."""

    def __init__(self, signal_number: int):
        """Keep the signal."""
        super().__init__(f"stopped by signal {signal_number}")
        self.exit_code = 128 + signal_number


@contextmanager
def explain_out_of_memory(advice: str) -> Iterator[None]:
    """Turn a device's lack of memory into one message; other errors pass.

    Args:
        advice: Full sentences: which settings need less memory.

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
    """Turn a failed write into one message; other errors pass.

    Args:
        what: What is written, as in "Could not write {what}".

    Raises:
        RunError: Instead of the `OSError`, or of the error that a library raised from it.
    """
    try:
        yield
    except (InputError, RunError):
        raise
    except Exception as error:
        reason = _reason_of_refusal(error, in_bucket="gs://" in str(what))
        if reason is None:
            raise
        raise RunError(
            f"Could not write {what}: {reason}. Fix that, then run the same command to resume."
        ) from error


def _reason_of_refusal(error: BaseException | None, *, in_bucket: bool) -> str | None:
    """Return the system's answer to a failed write, from an error or from those that caused it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (*_DISK, *_PLACE):
            return error.strerror or first_line(error)
        for answer in map(os.strerror, _DISK):
            if answer in str(error):
                return answer
        if in_bucket and _is_of_bucket(error):
            return first_line(error)
        error = error.__cause__
    return None


def _is_of_bucket(error: BaseException) -> bool:
    """Return whether a library reports a bucket's answer; tensorstore has no error classes."""
    library = type(error).__module__.partition(".")[0]
    is_answer = library in _BUCKET_LIBRARIES or _BUCKET_ANSWER in str(error)
    return is_answer or isinstance(error, OSError)  # gcsfs raises them without a number


def first_line(error: BaseException) -> str:
    """Return an error's text as one line, without the server's response."""
    text = " ".join(str(error).partition(_BUCKET_ANSWER)[0].split())
    return (text or type(error).__name__).rstrip(".")
