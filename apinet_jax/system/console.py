"""What a person sees: lines, progress bars with an ETA, and results on standard output."""

import contextlib
import os
import select
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TextIO, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")

# Seconds between lines where the output is a file and a moving bar would be noise.
_LINE_EVERY = 30.0


class _Console(Console):
    """A console that goes silent once its reader is gone: a lost terminal must not end a run."""

    def __exit__(self, *exception: Any) -> None:
        try:
            super().__exit__(*exception)
        except OSError:  # a terminal that was closed
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        """Discard what is printed from now on."""
        discard_output(sys.stderr)


console = _Console(stderr=True, highlight=False, soft_wrap=True)


class _Postfix(ProgressColumn):
    """The newest figures of a task."""

    def render(self, task: Any) -> str:
        return task.fields.get("figures", "")


class Bar:
    """A progress bar with an ETA on a terminal, and a line every half minute elsewhere.

    `with Bar("Training", total=1000, start=200) as bar: bar.advance("loss 1.2")`
    """

    def __init__(self, title: str, total: int, start: int = 0):
        """Prepare a bar of `total` units of which `start` are done."""
        self._title, self._total, self._done = title, total, start
        self._began = time.monotonic()
        self._printed = start, self._began
        self._progress = None
        if console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(),
                _Postfix(),
                console=console,
                # Else results that go to a file would be printed above the bar.
                redirect_stdout=sys.stdout.isatty(),
                speed_estimate_period=120,
            )
            self._task = self._progress.add_task(title, total=total, completed=start, figures="")

    def advance(self, figures: str = "") -> None:
        """Mark one more unit as done and show the newest figures."""
        self._done += 1
        if self._progress is not None:
            self._progress.update(self._task, advance=1, figures=figures)
            return
        (done_then, then), now = self._printed, time.monotonic()
        if now - then >= _LINE_EVERY or self._done == self._total:
            self._printed = self._done, now
            left = (now - then) / (self._done - done_then) * (self._total - self._done)
            moment = f"ETA {_duration(left)}" if left else f"in {_duration(now - self._began)}"
            console.print(f"{self._title} {self._done}/{self._total}  {moment}  {figures}".rstrip())

    def __enter__(self) -> "Bar":
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"


def tracked(items: Iterable[T], title: str, total: int) -> Iterator[T]:
    """Yield items while a bar shows how many are done and how long the rest takes."""
    with Bar(title, total) as bar:
        for item in items:
            yield item
            bar.advance()


def silence() -> None:
    """Print nothing from now on: another process of the same job does."""
    console.quiet = True


def say(*lines: str) -> None:
    """Print lines for the user, above a running bar."""
    for line in lines:
        console.print(line, markup=False)


def print_result(lines: Iterable[str]) -> None:
    """Print a command's results to standard output, where a script can read them.

    A closed pipe (`| head`) raises nothing, so that the command still writes its files.
    """
    if console.quiet:
        return
    try:
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        discard_output(sys.stdout)


def results_are_lost(error: BaseException | None = None) -> bool:
    """Flush standard output; return whether its reader is gone, as `error` may show."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        discard_output(sys.stdout)
    if isinstance(error, BrokenPipeError) and _has_no_reader(sys.stdout):
        discard_output(sys.stdout)
    return sys.stdout in _discarded


def _has_no_reader(output: TextIO) -> bool:
    poll = select.poll()
    poll.register(output, 0)  # errors are always reported
    return bool(poll.poll(0))


_discarded: list[TextIO] = []


def discard_output(output: TextIO) -> None:
    """Send to nowhere what is still written to an output whose reader is gone."""
    with contextlib.suppress(OSError, ValueError):  # an output without a descriptor
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, output.fileno())
        os.close(nowhere)
    _discarded.append(output)
