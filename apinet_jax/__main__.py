"""`python -m apinet_jax COMMAND`; without a command the same as `python -m apinet_jax.main`."""

import argparse
import importlib
import sys
from collections.abc import Sequence

from apinet_jax.commands import COMMANDS
from apinet_jax.commands.cli import run_with_exit_codes
from apinet_jax.system.allocator import restart_with_allocator
from apinet_jax.system.console import print_result
from apinet_jax.system.errors import InputError


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are `InputError`s."""

    def error(self, message: str) -> None:
        """Raise an `InputError`."""
        raise InputError(f"{message}. See {self.prog} --help.")


def run_command(argv: Sequence[str]) -> None:
    """Run a command, given its name and arguments.

    Raises:
        InputError: If there is no such command, or its arguments are wrong.
        RunError: If it fails.
    """
    name, *rest = argv
    if name not in COMMANDS:
        raise InputError(f"There is no command '{name}'. {_overview()}")
    command = importlib.import_module(f"apinet_jax.commands.{name}")
    parser = _Parser(
        prog=f"python -m apinet_jax {name}",
        description=command.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser)
    # `job` passes on what follows its options, which argparse cannot mix with them.
    parse = parser.parse_args if name == "job" else parser.parse_intermixed_args
    command.run(parse(rest))


def _overview() -> str:
    listed = "\n".join(f"  {command:15}{what}" for command, what in COMMANDS.items())
    return f"The commands are:\n{listed}\nTraining and evaluation: python -m apinet_jax.main --help"


def entry_point() -> None:
    """Run the named command; without one, train or evaluate."""
    argv = sys.argv[1:]
    if argv in (["--help"], ["-h"]):
        print_result(
            [__doc__, _overview(), "Help for a command: python -m apinet_jax COMMAND --help"]
        )
        return
    if argv and not argv[0].startswith("-"):
        takes_settings = argv[0] in ("compile_check", "sweep")
        run_with_exit_codes(
            lambda: run_command(argv), field_flag="--set FIELD=VALUE" if takes_settings else ""
        )
        return
    from apinet_jax import main

    main.entry_point()


def program() -> None:
    """Run as a program of its own, such as the installed command."""
    restart_with_allocator()
    entry_point()


if __name__ == "__main__":
    program()
