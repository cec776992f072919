"""Jobs of two processes with two devices each."""

import socket
from contextlib import ExitStack

from tiny_runs import started


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def start_both(stack, arguments_of, **kwargs):
    return [stack.enter_context(started(arguments_of(index), **kwargs)) for index in range(2)]


def outcome(processes):
    """Exit codes and outputs."""
    return [
        (process.returncode, text)
        for process in processes
        for text in [process.communicate(timeout=300)[0]]
    ]


def job(command, **kwargs):
    """A command as a job of two processes of two devices each."""
    with ExitStack() as stack:
        return outcome(start_job(stack, command, **kwargs))


def start_job(stack, command, **kwargs):
    address = f"--coordinator_address=localhost:{free_port()}"
    return start_both(
        stack,
        lambda index: [*command, address, "--num_processes=2", f"--process_id={index}"],
        **kwargs,
    )
