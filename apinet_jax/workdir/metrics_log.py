"""`metrics.jsonl` and TensorBoard events.

`metrics.jsonl` holds one JSON object a line, each step once, also after a kill: a run that resumes
at step s first removes every row after s. Apart from `TIME_FIELDS` the rows are a function of the
configuration and the data.
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

from apinet_jax.system.errors import RunError, explain_failed_writes
from apinet_jax.system.paths import AnyPath, is_remote, write_atomically

_METRICS = "metrics.jsonl"

TIME_FIELDS = ("images_per_s", "data_wait", "seconds")

# Seconds after which someone who looks at TensorBoard sees new figures.
_FLUSH_EVERY = 120.0


def read_rows(path: AnyPath) -> list[dict[str, Any]]:
    """The rows of a metrics file; a last line that a kill cut short is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def json_number(value: float) -> float | None:
    """The number, or `None` where it is not finite: JSON has no word for that."""
    return value if math.isfinite(value) else None


class MetricsRows:
    """The rows of a run, in a process that leaves writing them to another one of its job."""

    def __init__(self, workdir: AnyPath, start_step: int):
        """Reads the rows of the steps that are done, if any; see `MetricsWriter`."""
        rows = read_rows(workdir / _METRICS)
        self.rows = [row for row in rows if row["step"] <= start_step]

    def write(self, row: dict[str, Any]) -> None:
        """Appends a row: `kind`, `step` and named numbers."""
        self.rows.append(row)

    def sync(self) -> None:
        """Puts the rows on disk, where there are any to put."""

    def __enter__(self) -> "MetricsRows":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        pass


class MetricsWriter(MetricsRows):
    """Appends rows to `metrics.jsonl` and to a TensorBoard event file.

    No object of a bucket grows: there `sync` writes all rows anew, and what a kill takes of those
    since is made again with the steps since the last checkpoint.
    """

    def __init__(self, workdir: AnyPath, start_step: int):
        """Takes back rows of steps that will be made again.

        Args:
            workdir: Folder of the run.
            start_step: Steps done; rows of later steps are dropped.

        Raises:
            RunError: If the disk does not take it.
        """
        super().__init__(workdir, start_step)
        self._path = path = workdir / _METRICS
        self._write_all()
        with explain_failed_writes(path):
            # closed by `__exit__`
            self._file = None if is_remote(path) else open(path, "a")  # noqa: SIM115
            self._events = _Events(workdir / "tensorboard", start_step + 1)

    def write(self, row: dict[str, Any]) -> None:
        """Appends a row; on a disk it survives a kill of this process from here on.

        Args:
            row: `kind`, `step` and named numbers. Only numbers reach TensorBoard.

        Raises:
            RunError: If the disk does not take it.
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
        """Puts the rows on disk, before a checkpoint of their step is.

        Raises:
            RunError: If the disk does not take them.
        """
        with explain_failed_writes(self._path):
            if self._file is None:
                self._write_all()
            else:
                os.fsync(self._file.fileno())
            self._events.flush()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Where the run failed, its error says more than that of rows which the disk may not take.
        with contextlib.nullcontext() if kind is None else contextlib.suppress(RunError):
            self.sync()
        for file in filter(None, (self._file, self._events)):
            with contextlib.suppress(OSError):  # nothing is left to write but what `sync` told
                file.close()

    def _write_all(self) -> None:
        write_atomically(self._path, "".join(json.dumps(row) + "\n" for row in self.rows))


class _Events:
    """A TensorBoard event file, written at once; for a bucket, elsewhere first and copied there.

    tensorboardX's own writer hands events to a thread, and waits for good when a full disk ended
    that.
    """

    def __init__(self, folder: AnyPath, next_step: int):
        """Begins a file; TensorBoard hides what older files say of `next_step` and later."""
        from tensorboardX.proto.event_pb2 import SessionLog
        from tensorboardX.record_writer import RecordWriter

        name = f"events.out.tfevents.{time.time():.0f}.{platform.node()}.{os.getpid()}"
        self._target = self._place = folder / name
        self._elsewhere = None
        if is_remote(folder):
            self._elsewhere = tempfile.TemporaryDirectory(prefix="apinet_jax-")
            self._place = Path(self._elsewhere.name, name)
        else:
            folder.mkdir(exist_ok=True)
        self._file = RecordWriter(str(self._place))
        self._flushed = time.monotonic()
        self._add(file_version="brain.Event:2")
        self._add(step=next_step, session_log=SessionLog(status=SessionLog.START))

    def add(self, name: str, value: int | float, step: int) -> None:
        """Appends a number to its curve."""
        from tensorboardX.proto.summary_pb2 import Summary

        self._add(step=step, summary=Summary(value=[Summary.Value(tag=name, simple_value=value)]))
        if time.monotonic() - self._flushed > _FLUSH_EVERY:
            self.flush()

    def flush(self) -> None:
        """Puts the events on disk."""
        self._file.flush()
        if self._elsewhere is not None:
            self._target.write_bytes(self._place.read_bytes())
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Ends the file."""
        self._file.close()
        if self._elsewhere is not None:
            self._elsewhere.cleanup()

    def _add(self, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        event = Event(wall_time=time.time(), **content)
        self._file.write(event.SerializeToString())
