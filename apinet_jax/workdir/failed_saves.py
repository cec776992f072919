"""Failures of background saves, which orbax logs before it raises them."""

import logging
import threading
from concurrent.futures import Future

# Seconds for the other parts of a failed save, which fail as the first one did.
_PATIENCE = 60.0


class FailedSaves(logging.Filter):
    """Catches a failed save from orbax's log, and keeps its traceback off the screen.

    In a job of several processes orbax raises the failure only after all of them have finished
    the save, which they cannot do: until then only its log has it.

    Attributes:
        first: Has the first failure as its exception, once there is one.
    """

    def __init__(self):
        super().__init__()
        self.first: Future[None] = Future()

    def filter(self, record: logging.LogRecord) -> bool:
        """Drop records with a traceback, and keep the first failure."""
        if record.exc_info and record.levelno >= logging.ERROR and not self.first.done():
            self.first.set_exception(record.exc_info[1])
        return not record.exc_info

    def wait_for_others(self) -> None:
        """After a failure, return once the save's other parts have logged theirs.

        Orbax raises the failure of the first part, while threads still write the others.
        """
        if self.first.done():
            for thread in threading.enumerate():
                if type(thread).__module__.startswith("orbax."):
                    threading.Thread.join(thread, _PATIENCE)  # orbax's own raises the failure
