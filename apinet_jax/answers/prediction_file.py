"""A file of predictions that an interrupted job continues."""

import fcntl
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from apinet_jax.answers.prediction_rows import (
    Row,
    complete_bytes,
    header_lines,
    parse_header,
    parse_rows,
    read_parquet,
    row_line,
    write_parquet,
)
from apinet_jax.system.errors import InputError, RunError, explain_failed_writes


class PredictionFile:
    """A CSV, JSON Lines or Parquet file with one row a photo.

    Rows are appended as they are computed. A line that a kill cut off is dropped when the same
    command continues. Parquet cannot be appended to: its rows are collected in FILE.part.jsonl,
    and become the Parquet file when the job is complete.

    Attributes:
        rows: The rows of an earlier job with the same settings.
    """

    def __init__(self, path: Path, kind: str, provenance: dict[str, Any]):
        """Create the file, or read what an earlier job wrote.

        Args:
            path: The file.
            kind: csv, jsonl or parquet.
            provenance: Where the answers come from, and the settings that change them.

        Raises:
            InputError: If the file is something else, or has other provenance.
            RunError: If it cannot be written, or another process writes it.
        """
        self._path, self._provenance, self._final = path, provenance, None
        self._kind = kind
        finished: list[Row] = []
        if kind == "parquet":
            self._final, self._kind = path, "jsonl"
            path = path.with_name(f"{path.name}.part.jsonl")
            if self._final.exists():
                stored, rows = read_parquet(self._final)
                self._check(self._final, stored)
                finished = list(rows)
        with explain_failed_writes(path):
            self._file = open(path, "a+b")  # noqa: SIM115 - closed by `close`
        try:
            self._lock(path)
            self.rows = self._distinct([*finished, *self._resume(path)])
        except BaseException:
            self._file.close()
            raise

    def _lock(self, path: Path) -> None:
        with suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunError(f"Another process is writing {path}. Wait for its end.") from error

    def _resume(self, path: Path) -> list[Row]:
        """Return the complete rows of the file, after cutting off what follows them."""
        self._file.seek(0)
        content = self._file.read()
        end = complete_bytes(self._kind, content)
        # A job that was killed while it wrote the first line has nothing to continue.
        header = "".join(f"{line}\n" for line in header_lines(self._kind, self._provenance))
        if header.encode().startswith(content):
            self._file.truncate(0)
            self._append(header)
            return []
        self._check(path, parse_header(self._kind, content[:end].partition(b"\n")[0]))
        try:
            rows = list(parse_rows(self._kind, content[:end]))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path} is damaged ({error}). Remove it, or name another file."
            ) from error
        self._file.truncate(end)
        return rows

    def _check(self, path: Path, stored: dict[str, Any] | None) -> None:
        """Raise one clear error unless the file has the same provenance."""
        if stored is None:
            raise InputError(
                f"{path} exists and was not written by predict. Remove it, or name another file."
            )
        now = json.loads(json.dumps(self._provenance))
        changed = [name for name in {**now, **stored} if now.get(name) != stored.get(name)]
        if changed:
            lines = [
                f"  {name}: {json.dumps(stored.get(name))} in the file, "
                f"{json.dumps(now.get(name))} now"
                for name in changed
            ]
            raise InputError(
                f"{path} has predictions with other settings:\n" + "\n".join(lines) + "\n"
                "Repeat the command that wrote it, or name another file."
            )

    def write(self, rows: Iterable[Row]) -> None:
        """Append rows.

        Raises:
            RunError: If they cannot be written.
        """
        top = self._provenance["top"]
        self._append("".join(f"{row_line(self._kind, row, top)}\n" for row in rows))

    def _append(self, text: str) -> None:
        with explain_failed_writes(self._path):
            self._file.write(text.encode())
            self._file.flush()

    def finish(self) -> None:
        """Write the Parquet file, if it is one, from the rows that were collected.

        Raises:
            RunError: If it cannot be written.
        """
        if self._final is None:
            return
        self._file.seek(0)
        fresh = list(parse_rows(self._kind, self._file.read()))
        if fresh or not self._final.exists():
            write_parquet(self._final, self._provenance, self._distinct([*self.rows, *fresh]))
        os.unlink(self._file.name)

    @staticmethod
    def _distinct(rows: Iterable[Row]) -> list[Row]:
        """Return the rows without those of photos that occurred already."""
        return list({row["photo"]: row for row in rows}.values())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> "PredictionFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
