"""`--help` of every command."""

import importlib
import sys

import pytest

from apinet_jax.__main__ import entry_point, run_command
from apinet_jax.commands import COMMANDS
from apinet_jax.system.errors import InputError


def test_options_may_be_between_positionals():
    with pytest.raises(InputError, match="missing"):
        run_command(["compare", "missing", "--prior", "0.3", "a.jpg", "b.jpg"])


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_without_a_command_lists_all(flag, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["apinet-jax", flag])
    entry_point()
    printed = capsys.readouterr().out
    assert all(f"\n  {name} " in printed for name in COMMANDS)
    assert "python -m apinet_jax.main --help" in printed


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example(name, capsys):
    with pytest.raises(SystemExit) as end:
        run_command([name, "--help"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert f"\n  python -m apinet_jax {name} " in printed.partition("Examples:")[2]
    assert importlib.import_module(f"apinet_jax.commands.{name}").__doc__.splitlines()[0] in printed
