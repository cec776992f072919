"""SIGTERM and Ctrl-C as a request that the training loop answers between two steps."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from apinet_jax.errors import Interrupted


@contextmanager
def stop_requests() -> Iterator[Callable[[], None]]:
    """Yields a function that raises `Interrupted` once a signal asked the run to stop.

    The first signal waits for a moment that suits the run; a second one acts as it always does.
    """
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
