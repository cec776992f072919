"""One process, or one job, at a time trains in a workdir."""

import contextlib
import fcntl
import os
import platform
from collections.abc import Iterator
from typing import Any

from apinet_jax.system import hosts
from apinet_jax.system.errors import InputError, explain_failed_writes
from apinet_jax.system.paths import AnyPath, is_remote
from apinet_jax.workdir.record import read_record


@contextlib.contextmanager
def lock_workdir(workdir: AnyPath, record: dict[str, Any] | None) -> Iterator[None]:
    """Keeps other processes from training in a workdir meanwhile.

    The system holds the lock on behalf of the open file, so that a kill frees it, and worker
    processes do not inherit it. The file itself means nothing. A bucket has no lock that ends with
    its process, and one that a kill leaves behind would lock the run out of its own workdir: there
    it is only seen to that the run is still the one that was read.

    Args:
        workdir: Folder of the run, made where missing.
        record: What `read_record` returned.

    Raises:
        InputError: If another process trains there, or has since the record was read.
    """
    if is_remote(workdir):
        _check_unchanged(workdir, record)
        yield
        return
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / ".lock"
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise InputError(
                f"Another process ({file.read()}) trains in {workdir}. Wait until it has "
                "ended, or stop it and start this command again, or choose another --workdir."
            ) from error
        except OSError:
            pass  # a file system without locks: each says so by an error of its own
        _check_unchanged(workdir, record, gone=os.fstat(file.fileno()).st_nlink == 0)
        with explain_failed_writes(path):
            file.truncate(0)
            file.write(f"{os.getpid()} on {platform.node()}")
            file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _check_unchanged(workdir: AnyPath, record: dict[str, Any] | None, gone: bool = False) -> None:
    if gone or read_record(workdir) != record:
        raise InputError(
            f"Another process has just trained in {workdir}. Start this command again to go on "
            "from there, or choose another --workdir."
        )


@contextlib.contextmanager
def lock_workdir_for_job(workdir: AnyPath, record: dict[str, Any] | None) -> Iterator[None]:
    """As `lock_workdir`, for all processes of a job: the first holds the lock for them."""
    with contextlib.ExitStack() as lock:
        hosts.broadcast_from_primary(lambda: lock.enter_context(lock_workdir(workdir, record)))
        yield
