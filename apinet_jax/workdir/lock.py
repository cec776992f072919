"""One process, or one job, at a time trains in a workdir."""

import contextlib
import os
import platform
from collections.abc import Iterator
from typing import Any

import filelock

from apinet_jax.system import hosts
from apinet_jax.system.errors import InputError, explain_failed_writes
from apinet_jax.system.file_lock import file_lock
from apinet_jax.system.paths import AnyPath, is_remote
from apinet_jax.workdir.record import read_record


@contextlib.contextmanager
def lock_workdir(workdir: AnyPath, record: dict[str, Any] | None) -> Iterator[None]:
    """Keep other processes from training in a workdir, created where missing.

    A bucket has no lock that ends with its process, and a stale one would shut the run out of its
    workdir. There, only a change since the record was read is detected.

    Args:
        workdir: Folder of the run.
        record: What `read_record` returned.

    Raises:
        InputError: If another process trains there, or has since the record was read.
    """
    if is_remote(workdir):
        _check_unchanged(workdir, record)
        yield
        return
    path = workdir / ".lock"
    with explain_failed_writes(path), contextlib.ExitStack() as stack:
        workdir.mkdir(parents=True, exist_ok=True)
        try:
            stack.enter_context(file_lock(path, wait=False))
        except filelock.Timeout as error:
            holder = path.read_text() if path.exists() else "which has just ended"
            raise InputError(
                f"Another process ({holder}) trains in {workdir}. Wait until it has ended, or stop "
                "it and start this command again, or choose another workdir."
            ) from error
        stack.callback(path.unlink, missing_ok=True)
        _check_unchanged(workdir, record)
        path.write_text(f"{os.getpid()} on {platform.node()}")
        lock = stack.pop_all()
    with lock:
        yield


def _check_unchanged(workdir: AnyPath, record: dict[str, Any] | None) -> None:
    if read_record(workdir) != record:
        raise InputError(
            f"Another process has just trained in {workdir}. Start this command again to continue "
            "from there, or choose another workdir."
        )


@contextlib.contextmanager
def lock_workdir_for_job(workdir: AnyPath, record: dict[str, Any] | None) -> Iterator[None]:
    """Lock a workdir, as `lock_workdir`, for all processes of a job: the primary one holds it."""
    with contextlib.ExitStack() as lock:
        hosts.broadcast_from_primary(lambda: lock.enter_context(lock_workdir(workdir, record)))
        yield
