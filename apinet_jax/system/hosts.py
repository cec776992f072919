"""Several processes as one job: how they meet, what the first decides for all, how they wait.

A process of a job is often a host, or one GPU of it; JAX counts them from 0. Arrays are the
compiler's business. What lies on disks, and what a person is told, is that of the first process:
it reads, decides and writes, and the others are told. They wait for it at JAX's coordination
service and not in a collective: that is for numbers, and may give up after half a minute.
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
from apinet_jax.system.errors import InputError, RunError

T = TypeVar("T")

# Seconds after which a process that is not heard of counts as lost, and the job ends.
HEARTBEAT = 30
# Seconds that the processes of a job may take to begin.
_GATHERING = 300
# Milliseconds that one may wait for another, which may be preparing a large data set meanwhile.
# Nobody waits for a process that is lost: that ends the job.
_PATIENCE = 24 * 3600 * 1000

_turns = itertools.count()  # every process takes the same turns in the same order


def initialize_job(
    coordinator: str | None = None,
    processes: int | None = None,
    index: int | None = None,
) -> None:
    """Becomes one process of a job of several, before JAX has started a device.

    What is not given is taken from the environment, where JAX knows it: Cloud TPU (GKE also),
    SLURM and Open MPI, or the variable `JAX_COORDINATOR_ADDRESS`. Without any of these, or where
    SLURM has started a single task, which is to use all GPUs of its host, the process stays by
    itself.

    Args:
        coordinator: Address and port of the first process, at which all meet.
        processes: How many there are.
        index: Which of them this is, from 0.

    Raises:
        InputError: If what is given does not name a process of a job.
        RunError: If the processes do not meet.
    """
    given = [coordinator, processes, index]
    if given == [None] * 3 and os.environ.get("SLURM_NTASKS") == "1":
        return
    if coordinator is not None and not coordinator.rpartition(":")[2].isdigit():
        raise InputError(
            f"--coordinator_address={coordinator} has no port; give one, as in "
            f"--coordinator_address={coordinator.rstrip(':')}:1234."
        )
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            index,
            initialization_timeout=_GATHERING,
            heartbeat_timeout_seconds=HEARTBEAT,
        )
    except ValueError as error:
        if given == [None] * 3 and "coordinator_address" in str(error):
            return  # nothing speaks of other processes
        raise InputError(
            f"This is no process of a job ({error}) Name all of --coordinator_address=HOST:PORT, "
            "--num_processes=N and --process_id=0..N-1, as SLURM and Cloud TPUs do by themselves; "
            "or none, and --nodistributed, to train with the devices of this host alone."
        ) from error
    except Exception as error:  # the coordination service has many
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise RunError(
            f"The processes of the job did not meet within {_GATHERING} s ({first_line}). Start "
            "all of them at the same time, let their hosts reach the first one's port, or give "
            "--nodistributed to train with the devices of this host alone."
        ) from error
    if not is_primary():
        silence()
        logging.set_verbosity(logging.ERROR)
    say(f"This is process 0 of {jax.process_count()}, {len(jax.devices())} devices in all.")


def is_multiprocess() -> bool:
    """Whether this process is one of a job; unlike JAX's own count, this starts no device."""
    return jax.distributed.is_initialized()


def is_primary() -> bool:
    """Whether this process writes and tells; one that is by itself does."""
    return not is_multiprocess() or jax.process_index() == 0


def broadcast_from_primary(make: Callable[[], T]) -> T:
    """Runs a function in the first process alone and tells its outcome to all.

    Args:
        make: Returns what JSON can hold, or ends in an error of ours, which then ends all.

    Raises:
        InputError: As `make` does.
        RunError: As `make` does.
        SystemExit: In the other processes, if `make` ended in an error: the first one tells it.
    """
    if not is_multiprocess():
        return make()
    service, key = _service(), f"apinet_jax/{next(_turns)}"
    if not is_primary():
        with _explain_lost_process():
            outcome = json.loads(service.blocking_key_value_get(key, _PATIENCE))
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
    """Runs a function in all processes, in the first one before the others.

    What it prepares on a disk that they share is then there already.

    Raises:
        InputError: As `make` does.
        RunError: As `make` does.
        SystemExit: As `broadcast_from_primary`.
    """
    made: list[T] = []
    broadcast_from_primary(lambda: made.append(make()))
    return made[0] if made else make()


def wait_for_all_processes() -> None:
    """Returns once every process has come here.

    Raises:
        RunError: If one of them will not.
    """
    if is_multiprocess():
        with _explain_lost_process():
            _service().wait_at_barrier(f"apinet_jax/{next(_turns)}", _PATIENCE)


@contextlib.contextmanager
def _explain_lost_process() -> Iterator[None]:
    """Lets a wait for processes that do not come any more end in one message."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        raise RunError(
            "Another process of the job has ended, by an error that it tells itself or because its "
            "host was lost. The same command goes on from the last good checkpoint."
        ) from error


def exit_now(exit_code: int) -> None:
    """Ends this process without waiting for the others, which the runtime then ends as well.

    Python's own way out would wait minutes for processes that wait for this one.
    """
    os._exit(exit_code)


def _service() -> Any:
    """JAX's coordination service, which it has no public name for."""
    from jax._src import distributed

    return distributed.global_state.client
