"""What a person sees: lines, progress bars with an ETA, and results on standard output."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

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

console = Console(stderr=True, highlight=False, soft_wrap=True)

# Seconds between lines where the output is a file and a moving bar would be noise.
_LINE_EVERY = 30.0


class _Postfix(ProgressColumn):
    """The newest figures of a task."""

    def render(self, task: Any) -> str:
        return task.fields.get("figures", "")


class Bar:
    """A progress bar with ETA on a terminal, a line now and then elsewhere.

    `with Bar("Training", total=1000, start=200) as bar: bar.advance("loss 1.2")`
    """

    def __init__(self, title: str, total: int, start: int = 0):
        """Prepares a bar of `total` units of which `start` are done."""
        self._title, self._total, self._done = title, total, start
        self._said = start, time.monotonic()
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
                speed_estimate_period=120,
            )
            self._task = self._progress.add_task(title, total=total, completed=start, figures="")

    def advance(self, figures: str = "") -> None:
        """Marks one more unit as done and shows the newest figures."""
        self._done += 1
        if self._progress is not None:
            self._progress.update(self._task, advance=1, figures=figures)
            return
        (done_then, then), now = self._said, time.monotonic()
        if now - then >= _LINE_EVERY or self._done == self._total:
            self._said = self._done, now
            left = (now - then) / (self._done - done_then) * (self._total - self._done)
            eta = f"ETA {left / 60:.1f} min" if left >= 60 else f"ETA {left:.0f} s"
            console.print(f"{self._title} {self._done}/{self._total}  {eta}  {figures}")

    def __enter__(self) -> "Bar":
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()


def tracked(items: Iterable[T], title: str, total: int) -> Iterator[T]:
    """Passes items on while a bar shows how many have gone by and how long the rest takes."""
    with Bar(title, total) as bar:
        for item in items:
            yield item
            bar.advance()


def silence() -> None:
    """Lets this process tell nothing from now on: another one of the same job does."""
    console.quiet = True


def say(*lines: str) -> None:
    """Prints lines for the user, above a running bar."""
    for line in lines:
        console.print(line, markup=False)


def print_result(lines: Iterable[str]) -> None:
    """Prints the outcome of a command to standard output, where a script can read it."""
    if console.quiet:
        return
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
