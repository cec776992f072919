"""The two ways in which a command ends early: the user's input is wrong, or the run failed."""


class InputError(Exception):
    """Something the user gave is wrong; the message says what, where, and what to do (exit 2)."""

    exit_code = 2


class RunError(Exception):
    """The input was fine but the run cannot go on; the message says what is safe (exit 1)."""

    exit_code = 1
