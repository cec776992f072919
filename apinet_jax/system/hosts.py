"""Several processes as one job: how they start, exchange decisions and wait for each other.

A process of a job is often a host, or one GPU of it; JAX counts them from 0. The compiler
distributes arrays. The primary process, number 0, reads and writes files, prints, and broadcasts
its decisions. The others wait for it at JAX's coordination service: a collective is for arrays,
and may time out after half a minute.
"""

import contextlib
import itertools
import json
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
from absl import logging

from apinet_jax.system.console import say, silence
from apinet_jax.system.errors import InputError, RunError, first_line
from apinet_jax.system.mesh import available_devices

T = TypeVar("T")

# Seconds without a heartbeat after which a process counts as lost, and the job ends.
HEARTBEAT = 30
# Seconds in which all processes of a job must have started.
_START_TIMEOUT = 300
# Milliseconds that a process waits for another, which may be preparing a large data set. A lost
# process ends the job much earlier.
_WAIT_TIMEOUT = 24 * 3600 * 1000

_exchanges = itertools.count()  # all processes make the same exchanges in the same order


def initialize_job(
    coordinator: str | None = None,
    processes: int | None = None,
    index: int | None = None,
) -> None:
    """Join a job of several processes, before JAX has started a device.

    Missing arguments are taken from the environment where JAX knows it: Cloud TPU (GKE also),
    SLURM and Open MPI, or the variable `JAX_COORDINATOR_ADDRESS`. Without any of these, or with a
    single SLURM task, which uses all GPUs of its host, the process runs by itself.

    Args:
        coordinator: Address and port of the primary process.
        processes: Number of processes.
        index: Index of this process, from 0.

    Raises:
        InputError: If the arguments do not name a process of a job, or JAX has no device.
        RunError: If the processes do not find each other.
    """
    given = [coordinator, processes, index]
    if given == [None] * 3 and os.environ.get("SLURM_NTASKS") == "1":
        return
    port = coordinator and coordinator.rpartition(":")[2]
    if port is not None and not (port.isascii() and port.isdigit()):
        raise InputError(
            f"--coordinator_address={coordinator} has no port; give one, as in "
            f"--coordinator_address={coordinator.rstrip(':')}:1234."
        )
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            index,
            initialization_timeout=_START_TIMEOUT,
            heartbeat_timeout_seconds=HEARTBEAT,
        )
    except ValueError as error:
        if given == [None] * 3 and "coordinator_address" in str(error):
            return  # nothing mentions other processes
        raise InputError(
            f"This is no process of a job ({error}) Name all of --coordinator_address=HOST:PORT, "
            "--num_processes=N and --process_id=0..N-1, which SLURM and Cloud TPUs set themselves; "
            "or none, and --nodistributed, to train only with the devices of this host."
        ) from error
    except Exception as error:  # the coordination service raises many kinds
        raise RunError(
            f"The processes of the job did not all connect within {_START_TIMEOUT} s "
            f"({first_line(error)}). Start all of them at the same time, let their hosts reach the "
            "first one's port, or give --nodistributed to train only with the devices of this host."
        ) from error
    devices = available_devices()
    if not is_primary():
        silence()
        logging.set_verbosity(logging.ERROR)
    say(f"This is process 0 of {jax.process_count()}, {len(devices)} devices in total.")


def is_multiprocess() -> bool:
    """Return whether this process is part of a job; unlike JAX's count, this starts no device."""
    return jax.distributed.is_initialized()


def is_primary() -> bool:
    """Return whether this process writes and prints; a process without a job does."""
    return not is_multiprocess() or jax.process_index() == 0


def broadcast_from_primary(make: Callable[[], T]) -> T:
    """Run a function only in the primary process and broadcast its result to all.

    Args:
        make: Returns a JSON value. An `InputError` or `RunError` ends all processes.

    Raises:
        InputError: As `make` does.
        RunError: As `make` does.
        SystemExit: In the other processes, if `make` raised; the primary process prints why.
    """
    if not is_multiprocess():
        return make()
    service, key = _service(), f"apinet_jax/{next(_exchanges)}"
    if not is_primary():
        with _explain_lost_process():
            outcome = json.loads(service.blocking_key_value_get(key, _WAIT_TIMEOUT))
        if "exit_code" in outcome:
            raise SystemExit(outcome["exit_code"])
        return outcome["value"]
    try:
        value = make()
    except (InputError, RunError) as error:
        service.key_value_set(key, json.dumps({"exit_code": error.exit_code}))
        error.known_to_all_processes = True
        raise
    service.key_value_set(key, json.dumps({"value": value}))
    return value


def run_on_primary_first(make: Callable[[], T]) -> T:
    """Run a function in all processes, in the primary process before the others.

    The others find what it has prepared on a shared disk.

    Raises:
        InputError: As `make` does.
        RunError: As `make` does.
        SystemExit: As `broadcast_from_primary`.
    """
    made: list[T] = []
    broadcast_from_primary(lambda: made.append(make()))
    return made[0] if made else make()


def wait_for_all_processes() -> None:
    """Return once every process has called this function.

    Raises:
        RunError: If one of them has ended.
    """
    if is_multiprocess():
        with _explain_lost_process():
            _service().wait_at_barrier(f"apinet_jax/{next(_exchanges)}", _WAIT_TIMEOUT)


@contextlib.contextmanager
def _explain_lost_process() -> Iterator[None]:
    """Turn the failed wait for a process that has ended into one message."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        raise RunError(
            "Another process of the job has ended: it printed an error, or its host was lost. The "
            "same command resumes from the last good checkpoint."
        ) from error


def exit_now(exit_code: int) -> None:
    """End this process without waiting for the others, which the runtime then ends too.

    A normal exit would wait minutes for processes that wait for this one.
    """
    os._exit(exit_code)


def _service() -> Any:
    """Return JAX's coordination service, which has no public name."""
    from jax._src import distributed

    return distributed.global_state.client
