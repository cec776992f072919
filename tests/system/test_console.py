"""Progress bars on a terminal, and numbers in JSON."""

import io
import math

import pytest
from rich.console import Console

from apinet_jax.system import console as writer
from apinet_jax.system.console import Bar, print_result, say, tracked
from apinet_jax.workdir.metrics_log import json_number


@pytest.fixture
def terminal(monkeypatch):
    """The output to a terminal of 120 columns."""
    sent = io.StringIO()
    console = Console(force_terminal=True, file=sent, width=120, highlight=False)
    monkeypatch.setattr(writer, "console", console)
    return sent


def test_nested_bars(terminal):
    """As when held-out images are evaluated during training."""
    with Bar("Training", 20, start=10) as training:
        training.advance("loss 1.500")
        for _ in tracked(range(3), "Evaluating", 3):
            pass
        say("Epoch 1: 50.00 % of the held-out images")
        training.advance("loss 1.250")
    sent = terminal.getvalue()
    for text in ("Training", "10/20", "12/20", "loss 1.250", "Evaluating", "3/3", "Epoch 1: 50.00"):
        assert text in sent
    assert sent.rindex("12/20") > sent.rindex("3/3")


def test_lines_in_a_file(monkeypatch, capsys):
    """One every half minute, with what is left; at the end what it took."""
    seconds = iter([100.0, 110.0, 131.0, 170.0, 172.0])
    monkeypatch.setattr(writer.time, "monotonic", lambda: next(seconds))
    with Bar("Training", 14, start=10) as bar:
        for step in range(1, 5):
            bar.advance(f"loss {step}")
    assert capsys.readouterr().err.splitlines() == [
        "Training 12/14  ETA 31 s  loss 2",
        "Training 13/14  ETA 39 s  loss 3",
        "Training 14/14  in 1.2 min  loss 4",
    ]


def test_results_that_go_to_a_file_are_not_printed_above_the_bar(terminal, capsys):
    with Bar("Naming photos", 2) as bar:
        bar.advance()
        print_result(["a,b"])
    assert capsys.readouterr().out == "a,b\n"
    assert "a,b" not in terminal.getvalue()


def test_numbers_that_are_not_finite_become_null():
    assert json_number(0.25) == 0.25
    assert [json_number(value) for value in (math.nan, math.inf, -math.inf)] == [None] * 3
