"""`python -m apinet_jax COMMAND`: the commands; without one it is `python -m apinet_jax.main`."""

import argparse
import importlib
import sys
from collections.abc import Sequence

from apinet_jax.commands import COMMANDS
from apinet_jax.commands.cli import run_with_exit_codes
from apinet_jax.system.errors import InputError


class _Parser(argparse.ArgumentParser):
    """Ends as every command does: with one message."""

    def error(self, message: str) -> None:
        """Says what is wrong with the arguments.

        Raises:
            InputError: Always.
        """
        raise InputError(f"{message}. See {self.prog} --help.")


def run_command(argv: Sequence[str]) -> None:
    """Runs a command.

    Args:
        argv: Its name and arguments.

    Raises:
        InputError: If there is no such command, or its arguments or what they name are wrong.
        RunError: If it fails.
    """
    name, *rest = argv
    if name not in COMMANDS:
        listed = "\n".join(f"  {command:10}{what}" for command, what in COMMANDS.items())
        raise InputError(
            f"There is no command '{name}'. There are:\n{listed}\n"
            "Training and evaluation: python -m apinet_jax.main --help"
        )
    command = importlib.import_module(f"apinet_jax.commands.{name}")
    parser = _Parser(
        prog=f"python -m apinet_jax {name}",
        description=command.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser)
    command.run(parser.parse_args(rest))


def entry_point() -> None:
    """Runs the command that is named, else trains or evaluates."""
    argv = sys.argv[1:]
    if argv and not argv[0].startswith("-"):
        run_with_exit_codes(lambda: run_command(argv))
        return
    from apinet_jax import main

    main.entry_point()


if __name__ == "__main__":
    entry_point()
