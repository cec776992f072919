"""A file of predictions that an interrupted job continues."""

import csv
import fcntl
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

from apinet_jax.answers.prediction.rows import (
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

    Rows are appended as they are computed. When the same command continues, a line that a kill cut
    off is dropped, and so are the rows of unreadable photos: they are tried again. Parquet cannot
    be appended to: its rows are collected in FILE.part.jsonl, and become the Parquet file when the
    job is complete.

    Attributes:
        done: The photos that an earlier job could read.
    """

    def __init__(
        self,
        path: Path,
        kind: str,
        provenance: dict[str, Any],
        count: Callable[[Row], None] = lambda row: None,
    ):
        """Create the file, or continue the one that an earlier job wrote.

        Args:
            path: The file.
            kind: csv, jsonl or parquet.
            provenance: Where the answers come from, and the settings that change them.
            count: Called with each row of an earlier job.

        Raises:
            InputError: If the file is something else, is damaged, or has other provenance.
            RunError: If it cannot be written, or another process writes it.
        """
        self._path = self._lines = path
        self._kind, self._provenance = kind, provenance
        self._is_parquet = kind == "parquet"
        if self._is_parquet:
            self._kind, self._lines = "jsonl", path.with_name(f"{path.name}.part.jsonl")
        self.done: set[str] = set()
        finished = self._finished()
        with explain_failed_writes(self._lines):
            self._file = open(self._lines, "a+b")  # noqa: SIM115 - closed by `__exit__`
        try:
            self._lock()
            for row in self._distinct(finished, self._resume()):
                self.done.add(row["photo"])
                count(row)
        except (ValueError, KeyError, TypeError, csv.Error) as error:
            self._file.close()
            raise InputError(
                f"{self._lines} is damaged ({error}). Remove it, or name another file."
            ) from error
        except BaseException:
            self._file.close()
            raise

    def write(self, rows: Iterable[Row]) -> None:
        """Append rows.

        Raises:
            RunError: If they cannot be written.
        """
        top = self._provenance["top"]
        self._append("".join(f"{row_line(self._kind, row, top)}\n" for row in rows))

    def finish(self) -> None:
        """Write the Parquet file, if it is one, from the rows that were collected.

        Raises:
            RunError: If it cannot be written.
        """
        if self._is_parquet:
            rows = self._distinct(self._finished(), parse_rows(self._kind, self._content()))
            write_parquet(self._path, self._provenance, rows)
            self._lines.unlink()

    def _finished(self) -> Iterator[Row]:
        """Return the rows of photos that could be read, of a Parquet file that is complete."""
        if not (self._is_parquet and self._path.exists()):
            return iter(())
        stored, rows = read_parquet(self._path)
        self._check(self._path, stored)
        return (row for row in rows if row["error"] is None)

    def _resume(self) -> Iterator[Row]:
        """Return the complete rows of readable photos, after removing anything else."""
        content = self._content()
        header = "".join(f"{line}\n" for line in header_lines(self._kind, self._provenance))
        # A job that was killed while it wrote the first line has nothing to continue.
        if header.encode().startswith(content):
            self._file.truncate(0)
            self._append(header)
            return iter(())
        end = complete_bytes(self._kind, content)
        self._check(self._lines, parse_header(self._kind, content[:end].partition(b"\n")[0]))
        rows = list(parse_rows(self._kind, content[:end]))
        kept = [row for row in rows if row["error"] is None]
        if len(kept) == len(rows):
            self._file.truncate(end)
        else:
            self._file.truncate(0)
            self._append(header)
            self.write(kept)
        return iter(kept)

    def _content(self) -> bytes:
        self._file.seek(0)
        return self._file.read()

    def _append(self, text: str) -> None:
        with explain_failed_writes(self._lines):
            self._file.write(text.encode())
            self._file.flush()

    def _lock(self) -> None:
        with suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunError(
                    f"Another process writes {self._lines}. Wait for its end."
                ) from error

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

    @staticmethod
    def _distinct(*parts: Iterable[Row]) -> Iterator[Row]:
        """Yield the first row of each photo."""
        seen = set()
        for row in chain(*parts):
            if row["photo"] not in seen:
                seen.add(row["photo"])
                yield row

    def __enter__(self) -> "PredictionFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
