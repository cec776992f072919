"""Which failures are explained in one message, and which keep their traceback."""

import errno
import os

import pytest
from jax.errors import JaxRuntimeError

from apinet_jax.system.errors import (
    InputError,
    RunError,
    explain_failed_writes,
    explain_out_of_memory,
)

NO_SPACE = os.strerror(errno.ENOSPC)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, NO_SPACE), NO_SPACE),
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), "No such file or directory"),
        (OSError(errno.ENAMETOOLONG, "File name too long"), "File name too long"),
        (ValueError(f"RESOURCE_EXHAUSTED: Failed to write: {NO_SPACE} [code='28']"), NO_SPACE),
        (RuntimeError(f"INTERNAL: {os.strerror(errno.EDQUOT)}"), os.strerror(errno.EDQUOT)),
    ],
    ids=repr,
)
def test_failed_write_is_explained(error, reason):
    message = rf"^Could not write that: {reason}\. Fix that, then run the same command to resume\.$"
    with pytest.raises(RunError, match=message), explain_failed_writes("that"):
        raise error
    with pytest.raises(RunError, match=message), explain_failed_writes("that"):
        raise RuntimeError("a thread failed") from error


def reset_connection():
    raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")


def connection_without_number():
    raise OSError("HTTPSConnectionPool: Read timed out.")


def bug():
    raise ValueError("no such key")


def bug_while_handling_a_full_disk():
    try:
        raise OSError(errno.ENOSPC, NO_SPACE)
    except OSError:
        raise AttributeError("a bug of ours")  # noqa: B904 - its context is what is tested


@pytest.mark.parametrize(
    "fail", [reset_connection, connection_without_number, bug, bug_while_handling_a_full_disk]
)
def test_other_errors_keep_their_traceback(fail):
    with pytest.raises(Exception, match=r".") as caught, explain_failed_writes("that"):
        fail()
    assert not isinstance(caught.value, RunError)


def test_explained_errors_are_not_explained_again():
    cause = PermissionError(errno.EACCES, "Permission denied")
    with pytest.raises(InputError, match="no record"), explain_failed_writes("that"):
        raise InputError("no record") from cause
    with (
        pytest.raises(RunError, match=r"^Could not write this: "),
        explain_failed_writes("that"),
        explain_failed_writes("this"),
    ):
        raise cause


def test_bucket_answers_count_only_for_buckets():
    refusal = OSError("Forbidden: no storage.objects.create access")  # gcsfs gives no number
    with pytest.raises(RunError, match=r"gs://b/x: Forbidden: no storage"):  # noqa: SIM117
        with explain_failed_writes("gs://b/x"):
            raise refusal
    with pytest.raises(OSError, match=r"^Forbidden"), explain_failed_writes("/disk/x"):
        raise refusal


def test_only_a_lack_of_memory_is_explained():
    with pytest.raises(JaxRuntimeError, match="INTERNAL"), explain_out_of_memory("Do this."):
        raise JaxRuntimeError("INTERNAL: no such kernel")
    with pytest.raises(RunError, match=r"memory \(RESOURCE.*\)\. Do this\."):  # noqa: SIM117
        with explain_out_of_memory("Do this."):
            raise JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory.")
