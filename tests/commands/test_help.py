"""`--help` of every command."""

import importlib

import pytest

from apinet_jax.__main__ import run_command
from apinet_jax.commands import COMMANDS
from apinet_jax.system.errors import InputError


def test_options_may_be_between_positionals():
    with pytest.raises(InputError, match="missing"):
        run_command(["compare", "missing", "--prior", "0.3", "a.jpg", "b.jpg"])


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example(name, capsys):
    with pytest.raises(SystemExit) as end:
        run_command([name, "--help"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert f"\n  python -m apinet_jax {name} " in printed.partition("Examples:")[2]
    assert importlib.import_module(f"apinet_jax.commands.{name}").__doc__.splitlines()[0] in printed
