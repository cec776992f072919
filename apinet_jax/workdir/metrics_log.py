"""`metrics.jsonl` and TensorBoard events.

`metrics.jsonl` holds one JSON object per line and each step once, also after a kill: a run that
resumes at step s first removes every row after s. Apart from `TIME_FIELDS` the rows are a function
of the configuration and the data.
"""

import contextlib
import json
import math
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

from apinet_jax.system.errors import InputError, RunError, explain_failed_writes
from apinet_jax.system.paths import AnyPath, is_remote, write_atomically

_METRICS = "metrics.jsonl"

TIME_FIELDS = ("images_per_s", "data_wait", "seconds")

# Seconds after which TensorBoard shows new figures.
_FLUSH_EVERY = 120.0


def read_rows(path: AnyPath) -> list[dict[str, Any]]:
    """Return the rows of a metrics file, without a last line that a kill cut short.

    Raises:
        InputError: If another line is not a row.
    """
    if not path.exists():
        return []
    *lines, last = path.read_bytes().split(b"\n")
    rows = [_parsed(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    with contextlib.suppress(InputError):
        rows.append(_parsed(path, len(lines) + 1, last))
    return rows


def _parsed(path: AnyPath, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode())
        wrong = not (
            isinstance(row, dict)
            and isinstance(row.get("step"), int)
            and isinstance(row.get("kind"), str)
        )
        reason = "no object with 'step' and 'kind'" if wrong else None
    except (ValueError, RecursionError) as error:
        reason = str(error)
    if reason:
        raise InputError(
            f"{path}, line {number} is damaged ({reason}). Restore the file from a copy, or delete "
            "that line: its figures are then missing from the curves and from the comparison of "
            "epochs. Checkpoints are not affected."
        )
    return row


def json_number(value: float) -> float | None:
    """Return the number, or `None` if it is not finite, which JSON cannot express."""
    return value if math.isfinite(value) else None


class MetricsRows:
    """The rows of a run, in a process of a job that does not write them."""

    def __init__(self, workdir: AnyPath, start_step: int):
        """Read the rows up to `start_step`, if any; see `MetricsWriter`."""
        rows = read_rows(workdir / _METRICS)
        self.rows = [row for row in rows if row["step"] <= start_step]

    def write(self, row: dict[str, Any]) -> None:
        """Append a row: `kind`, `step` and named numbers."""
        self.rows.append(row)

    def sync(self) -> None:
        """Write the rows to disk, in the process that does."""

    def __enter__(self) -> "MetricsRows":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        pass


class MetricsWriter(MetricsRows):
    """Appends rows to `metrics.jsonl` and to a TensorBoard event file.

    Objects in a bucket cannot grow, so `sync` rewrites all rows there. Rows that a kill loses are
    recomputed with the steps since the last checkpoint.
    """

    def __init__(self, workdir: AnyPath, start_step: int):
        """Open the file and remove the rows of steps after `start_step`, which are recomputed.

        Raises:
            InputError: If a line of the file is damaged.
            RunError: If the file cannot be written.
        """
        super().__init__(workdir, start_step)
        self._path = path = workdir / _METRICS
        self._write_all()
        with explain_failed_writes(path):
            # closed by `__exit__`
            self._file = None if is_remote(path) else open(path, "a")  # noqa: SIM115
            self._events = _Events(workdir / "tensorboard", start_step + 1)

    def write(self, row: dict[str, Any]) -> None:
        """Append a row, which on a disk then survives a kill of this process.

        Args:
            row: `kind`, `step` and named numbers. Only numbers reach TensorBoard.

        Raises:
            RunError: If it cannot be written.
        """
        super().write(row)
        with explain_failed_writes(self._path):
            if self._file is not None:
                self._file.write(json.dumps(row) + "\n")
                self._file.flush()
            for name, value in row.items():
                if name != "step" and isinstance(value, int | float):
                    self._events.add(f"{row['kind']}/{name}", value, row["step"])

    def sync(self) -> None:
        """Flush the rows to disk, before a checkpoint of their step is written.

        Raises:
            RunError: If they cannot be written.
        """
        with explain_failed_writes(self._path):
            if self._file is None:
                self._write_all()
            else:
                os.fsync(self._file.fileno())
            self._events.flush()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # The error of a failed run says more than a second failure to write.
        with contextlib.nullcontext() if kind is None else contextlib.suppress(RunError):
            self.sync()
        for file in filter(None, (self._file, self._events)):
            with contextlib.suppress(OSError):  # `sync` has written everything or raised
                file.close()

    def _write_all(self) -> None:
        write_atomically(self._path, "".join(json.dumps(row) + "\n" for row in self.rows))


class _Events:
    """A TensorBoard event file; for a bucket, a temporary file that is copied there.

    tensorboardX's own writer passes events to a thread, and waits forever after a full disk has
    ended that thread.
    """

    def __init__(self, folder: AnyPath, next_step: int):
        """Begin a file; TensorBoard hides older files' values for `next_step` and later."""
        from tensorboardX.proto.event_pb2 import SessionLog
        from tensorboardX.record_writer import RecordWriter

        name = f"events.out.tfevents.{time.time():.0f}.{platform.node()}.{os.getpid()}"
        self._target = self._local = folder / name
        self._temporary = None
        if is_remote(folder):
            self._temporary = tempfile.TemporaryDirectory(prefix="apinet_jax-")
            self._local = Path(self._temporary.name, name)
        else:
            folder.mkdir(exist_ok=True)
        self._file = RecordWriter(str(self._local))
        self._flushed = time.monotonic()
        self._add(file_version="brain.Event:2")
        self._add(step=next_step, session_log=SessionLog(status=SessionLog.START))

    def add(self, name: str, value: int | float, step: int) -> None:
        """Append a number to its curve."""
        from tensorboardX.proto.summary_pb2 import Summary

        self._add(step=step, summary=Summary(value=[Summary.Value(tag=name, simple_value=value)]))
        if time.monotonic() - self._flushed > _FLUSH_EVERY:
            self.flush()

    def flush(self) -> None:
        """Flush the events to disk."""
        self._file.flush()
        if self._temporary is not None:
            self._target.write_bytes(self._local.read_bytes())
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    def _add(self, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        event = Event(wall_time=time.time(), **content)
        self._file.write(event.SerializeToString())
