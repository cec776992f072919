"""The two ways in which a command ends early: the user's input is wrong, or the run failed."""


class InputError(Exception):
    """Something the user gave is wrong; the message says what, where, and what to do (exit 2)."""

    exit_code = 2


class RunError(Exception):
    """The input was fine but the run cannot go on; the message says what is safe (exit 1)."""

    exit_code = 1


class Interrupted(Exception):  # noqa: N818 - not an error: the user or the cluster asked for it
    """A signal asked the run to stop; its state is saved (exit 128 + signal, as shells expect)."""

    def __init__(self, signal_number: int):
        """Keeps the signal."""
        super().__init__(f"stopped by signal {signal_number}")
        self.exit_code = 128 + signal_number
