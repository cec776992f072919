"""Which signals ask a run to stop, and where."""

import os
import signal
import threading

import pytest

from apinet_jax.system.errors import Interrupted
from apinet_jax.system.signals import stop_requests

REQUESTS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.fixture
def default_handlers():
    """Those of a program in the foreground, even where the tests run in the background."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in REQUESTS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("default_handlers")
@pytest.mark.parametrize("number", REQUESTS)
def test_first_signal_stops_at_the_next_check(number):
    before = {number: signal.getsignal(number) for number in REQUESTS}
    with stop_requests() as check:
        check()
        os.kill(os.getpid(), number)
        assert signal.getsignal(number) == before[number]  # a second one acts as usual
        with pytest.raises(Interrupted) as caught:
            check()
    assert caught.value.exit_code == 128 + number
    assert {number: signal.getsignal(number) for number in REQUESTS} == before


def test_ignored_signals_stay_ignored():
    """As under `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_requests() as check:
            os.kill(os.getpid(), signal.SIGHUP)
            check()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_threads_install_no_handlers():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def run():
        with stop_requests() as check:
            seen.append(signal.getsignal(signal.SIGTERM))
            check()
            seen.append("checked")

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before, "checked"]
