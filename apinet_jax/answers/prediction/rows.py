"""The rows that `predict` writes, as CSV, JSON Lines and Parquet.

Every output starts with its provenance: a line that begins with `#` in CSV, the first record in
JSON Lines, the file's metadata (`apinet_jax`) in Parquet.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from apinet_jax.answers.prediction.naming import Answer
from apinet_jax.system.errors import InputError, explain_failed_writes

FORMATS = ("table", "csv", "jsonl", "parquet")
PROVENANCE = "provenance"
_METADATA = b"apinet_jax"
_COLUMNS = (
    *("photo", "answer", "level", "probability", "reason", "score"),
    *("true_class", "correct", "error"),
)
_NUMBERS = ("probability", "score")
_DIGITS = 6  # significant ones of a number
_AT_ONCE = 10_000  # rows

Row = dict[str, Any]


def make_row(
    photo: str, answer: Answer, class_names: tuple[str, ...], true_label: int | None
) -> Row:
    """Return the row of a photo.

    `correct` is whether the answer covers the true class; it is `None` for `unknown`, and for a
    photo whose class is not known.
    """
    known = true_label is not None
    return {
        "photo": photo,
        "answer": answer.name,
        "level": answer.level,
        "probability": None if answer.probability is None else _rounded(answer.probability),
        "reason": answer.reason or None,
        "score": None if answer.score is None else _rounded(answer.score),
        "true_class": class_names[true_label] if known else None,
        "correct": true_label in answer.labels if known and answer.labels else None,
        "error": None,
        "classes": [
            {"name": class_names[label], "probability": _rounded(probability)}
            for label, probability in answer.best
        ],
    }


def failed_row(photo: str, reason: str, true_class: str | None) -> Row:
    """Return the row of a photo that cannot be read."""
    row: Row = dict.fromkeys(_COLUMNS)
    return row | {"photo": photo, "true_class": true_class, "error": reason, "classes": []}


def _rounded(number: float) -> float:
    return float(f"{number:.{_DIGITS}g}")


def header_lines(kind: str, provenance: dict[str, Any]) -> list[str]:
    """Return the first lines of a CSV or JSON Lines output."""
    if kind == "jsonl":
        return [json.dumps({PROVENANCE: provenance})]
    columns = [*_COLUMNS]
    for rank in range(1, provenance["top"] + 1):
        columns += [f"class_{rank}", f"probability_{rank}"]
    return [f"# {json.dumps(provenance)}", csv_line(columns)]


def row_line(kind: str, row: Row, top: int) -> str:
    """Return a row as CSV or JSON; a quoted name may span several lines of CSV."""
    if kind == "jsonl":
        return json.dumps(row, ensure_ascii=False)
    cells = [row[name] for name in _COLUMNS]
    for rank in range(top):
        best = row["classes"][rank] if rank < len(row["classes"]) else {}
        cells += [best.get("name"), best.get("probability")]
    return csv_line(cells)


def csv_line(cells: Iterable[Any]) -> str:
    """Return cells as a line of CSV."""
    line = io.StringIO()
    # Quoted strings: readers that skip comments would cut an unquoted name at its `#`.
    csv.writer(line, quoting=csv.QUOTE_NONNUMERIC, lineterminator="").writerow(cells)
    return line.getvalue()


def parse_header(kind: str, line: bytes) -> dict[str, Any] | None:
    """Return the provenance in the first line of an output, `None` if it is not one of ours."""
    if kind == "csv" and not line.startswith(b"# "):
        return None
    with suppress(ValueError, KeyError, TypeError):
        found = json.loads(line.removeprefix(b"# ") if kind == "csv" else line)
        found = found if kind == "csv" else found[PROVENANCE]
        return found if isinstance(found, dict) and "top" in found else None
    return None


def complete_bytes(kind: str, content: bytes) -> int:
    """Return how many bytes of an output are complete lines; the rest was cut off."""
    first = content.find(b"\n") + 1
    if kind == "jsonl":
        return content.rfind(b"\n") + 1
    # In CSV only a line feed outside of quotes ends a row. The first line is not CSV.
    end, at = first, first
    for number, part in enumerate(content[first:].split(b'"')):
        if number % 2 == 0 and (feed := part.rfind(b"\n")) >= 0:
            end = at + feed + 1
        at += len(part) + 1
    return end


def parse_rows(kind: str, content: bytes) -> Iterator[Row]:
    """Yield the rows of a complete output.

    Raises:
        ValueError: If a row is damaged.
    """
    text = content.decode()
    _, _, body = text.partition("\n")
    if kind == "jsonl":
        for line in body.split("\n"):
            if line:
                row = json.loads(line)
                if row.keys() != {*_COLUMNS, "classes"}:
                    raise ValueError(f"a row has the fields {', '.join(row)}")
                yield row
        return
    for cells in csv.DictReader(io.StringIO(body, newline=""), strict=True):
        if None in cells or None in cells.values():
            raise ValueError("a row has another number of cells")
        row: Row = {name: cells[name] or None for name in _COLUMNS}
        for name in _NUMBERS:
            row[name] = float(row[name]) if row[name] else None
        row["correct"] = {"True": True, "False": False}.get(row["correct"])
        ranks = (len(cells) - len(_COLUMNS)) // 2
        found = [(cells[f"class_{n}"], cells[f"probability_{n}"]) for n in range(1, ranks + 1)]
        row["classes"] = [
            {"name": name, "probability": float(value)} for name, value in found if value
        ]
        yield row


def check_parquet() -> None:
    """Check that Parquet can be written.

    Raises:
        InputError: If pyarrow is not installed.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise InputError(
            "Parquet is written by pyarrow, which is not installed: pip install pyarrow"
        ) from error


def write_parquet(path: Path, provenance: dict[str, Any], rows: Iterable[Row]) -> None:
    """Write rows as a Parquet file, by an atomic rename.

    Raises:
        RunError: If it cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    best = pa.struct([("name", pa.string()), ("probability", pa.float64())])
    types = {**dict.fromkeys(_NUMBERS, pa.float64()), "correct": pa.bool_()}
    schema = pa.schema(
        [(name, types.get(name, pa.string())) for name in _COLUMNS] + [("classes", pa.list_(best))],
        metadata={_METADATA: json.dumps(provenance)},
    )
    part = path.with_name(f"{path.name}.part")
    with explain_failed_writes(path):
        with pq.ParquetWriter(part, schema) as writer:
            waiting = []
            for row in rows:
                waiting.append(row)
                if len(waiting) == _AT_ONCE:
                    writer.write_table(pa.Table.from_pylist(waiting, schema))
                    waiting = []
            writer.write_table(pa.Table.from_pylist(waiting, schema))
        part.replace(path)


def read_parquet(path: Path) -> tuple[dict[str, Any] | None, Iterator[Row]]:
    """Return the provenance in a Parquet file, `None` if it is not one of ours, and its rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid:
        return None, iter(())
    stored = (file.schema_arrow.metadata or {}).get(_METADATA)
    rows = (row for batch in file.iter_batches() for row in batch.to_pylist())
    return None if stored is None else json.loads(stored), rows
