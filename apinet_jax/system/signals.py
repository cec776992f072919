"""SIGTERM and Ctrl-C as a request that the training loop answers between two steps."""

import itertools
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from apinet_jax.system import hosts
from apinet_jax.system.errors import Interrupted


@contextmanager
def stop_requests() -> Iterator[Callable[[], None]]:
    """Yields a function that raises `Interrupted` once a signal asked the run to stop.

    The first signal waits for a moment that suits the run; a second one acts as it always does.
    In a job of several processes a signal to any of them stops all, and at the same call of the
    function, which all of them make in the same order.
    """
    if hosts.is_multiprocess():
        with _passed_on() as check:
            yield check
        return
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def remember(number: int, _: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, before[number])

    def check() -> None:
        if received:
            raise Interrupted(received[0])

    for number in before:
        signal.signal(number, remember)
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _passed_on() -> Iterator[Callable[[], None]]:
    """As `stop_requests`, for a job of several: JAX listens to SIGTERM and finds the moment."""
    from jax.experimental.multihost_utils import reached_preemption_sync_point

    calls = itertools.count()
    received: list[int] = []
    before = signal.getsignal(signal.SIGINT)

    def pass_on(number: int, _: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, before)
        os.kill(os.getpid(), signal.SIGTERM)

    def check() -> None:
        if reached_preemption_sync_point(next(calls)):
            raise Interrupted(*received or [signal.SIGTERM])

    signal.signal(signal.SIGINT, pass_on)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)
