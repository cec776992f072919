"""SIGTERM, SIGHUP and Ctrl-C as a request that the training loop answers between two steps."""

import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from apinet_jax.system import hosts
from apinet_jax.system.errors import Interrupted

# The cluster's request, Ctrl-C, and a closed terminal.
_REQUESTS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@contextmanager
def stop_requests() -> Iterator[Callable[[], None]]:
    """Yield a function that raises `Interrupted` once a signal asked the run to stop.

    The first signal waits until the run calls the function; a second one acts as usual. Ignored
    signals stay ignored (`nohup`). Outside the main thread, which alone receives signals, the
    function never raises. In a job of several processes a signal to any of them stops all, at the
    same call of the function, which all processes make in the same order.
    """
    if hosts.is_multiprocess():
        with _forwarded_to_job() as check:
            yield check
        return
    received: list[int] = []

    def check() -> None:
        if received:
            raise Interrupted(received[0])

    with _handled(_REQUESTS, received.append):
        yield check


@contextmanager
def _forwarded_to_job() -> Iterator[Callable[[], None]]:
    """As `stop_requests`, for a job: JAX handles SIGTERM and synchronises the processes."""
    from jax.experimental.multihost_utils import reached_preemption_sync_point

    calls = itertools.count()
    received: list[int] = []

    def forward(number: int) -> None:
        received.append(number)
        os.kill(os.getpid(), signal.SIGTERM)

    def check() -> None:
        if reached_preemption_sync_point(next(calls)):
            raise Interrupted(*received[:1] or [signal.SIGTERM])

    with _handled(_REQUESTS[1:], forward):
        yield check


@contextmanager
def _handled(numbers: tuple[int, ...], handle: Callable[[int], None]) -> Iterator[None]:
    """Handle the first signal of each number; do nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in numbers}
    # `None` is a handler that is not Python's, which could not be restored.
    handled = [number for number in numbers if before[number] not in (signal.SIG_IGN, None)]

    def once(number: int, _: FrameType | None) -> None:
        signal.signal(number, before[number])
        handle(number)

    with contextlib.ExitStack() as restored:
        for number in handled:
            signal.signal(number, once)
            restored.callback(signal.signal, number, before[number])
        yield
