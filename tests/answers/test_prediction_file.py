"""Files of predictions: what is written is read back, and an interrupted job continues."""

import csv
import json

import pytest

from apinet_jax.answers.prediction.file import PredictionFile
from apinet_jax.answers.prediction.naming import Answer
from apinet_jax.answers.prediction.rows import (
    complete_bytes,
    failed_row,
    header_lines,
    make_row,
    parse_rows,
    read_parquet,
    row_line,
)
from apinet_jax.system.errors import InputError, RunError

NAMES = ('Wren, "the" small', "Robin\n#2", "Zürich")
PROVENANCE = {"program": "apinet_jax predict", "temperature": 1.25, "top": 2, "only": ['"']}
TEXT = pytest.mark.parametrize("kind", ["csv", "jsonl"])
EVERY = pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])


def row(number, label=None):
    answer = Answer(NAMES[1], "class", 0.1234567, "", (1,), ((1, 0.1234567), (0, 0.1)))
    return make_row(f"#{number}, x.jpg", answer, NAMES, label)


ROWS = [
    row(1) | {"score": -0.5},
    row(2, label=1),
    row(3, label=0),
]
FAILED = failed_row("4.jpg", "empty file", NAMES[0])


def read(path, kind):
    if kind == "parquet":
        return list(read_parquet(path)[1])
    return list(parse_rows(kind, path.read_bytes()))


def test_row():
    assert ROWS[1] == {
        "photo": "#2, x.jpg",
        "answer": "Robin\n#2",
        "level": "class",
        "probability": 0.123457,
        "reason": None,
        "score": None,
        "true_class": "Robin\n#2",
        "correct": True,
        "error": None,
        "classes": [
            {"name": "Robin\n#2", "probability": 0.123457},
            {"name": 'Wren, "the" small', "probability": 0.1},
        ],
    }
    assert [row["correct"] for row in (*ROWS, FAILED)] == [None, True, False, None]


@EVERY
def test_round_trip(tmp_path, kind):
    path = tmp_path / f"x.{kind}"
    with PredictionFile(path, kind, PROVENANCE) as file:
        file.write(ROWS)
        file.write([FAILED])
        file.finish()
    assert read(path, kind) == [*ROWS, FAILED]
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_csv_is_read_by_other_programs(tmp_path):
    lines = [
        *header_lines("csv", PROVENANCE),
        *(row_line("csv", row, 2) for row in (*ROWS, FAILED)),
    ]
    first, *rest = "\n".join(lines).split("\n")
    assert json.loads(first.removeprefix("# ")) == PROVENANCE
    found = list(csv.DictReader(rest))
    assert found[1]["class_2"] == 'Wren, "the" small'
    assert found[3]["error"] == "empty file"
    # A reader that skips comments finds no # outside of quotes.
    assert all("#" not in part for part in "\n".join(rest).split('"')[::2])


@TEXT
def test_every_cut_continues(tmp_path, kind):
    whole = tmp_path / "whole"
    with PredictionFile(whole, kind, PROVENANCE) as file:
        file.write(ROWS)
    content = whole.read_bytes()
    cut = tmp_path / "cut"
    for size in range(len(content) + 1):
        cut.write_bytes(content[:size])
        kept = []
        with PredictionFile(cut, kind, PROVENANCE, kept.append) as file:
            assert kept == ROWS[: len(kept)]
            assert file.done == {row["photo"] for row in kept}
            file.write(ROWS[len(kept) :])
        assert cut.read_bytes() == content


def test_complete_bytes_of_csv():
    assert complete_bytes("csv", b'# "odd\na\n"x\ny"\n"z\n') == len(b'# "odd\na\n"x\ny"\n')


def test_parquet_continues(tmp_path):
    path = tmp_path / "x.parquet"
    with PredictionFile(path, "parquet", PROVENANCE) as file:
        file.write(ROWS[:2])  # interrupted
    assert not path.exists()
    kept = []
    with PredictionFile(path, "parquet", PROVENANCE, kept.append) as file:
        assert kept == ROWS[:2]
        file.finish()
    kept = []
    with PredictionFile(path, "parquet", PROVENANCE, kept.append) as file:  # more photos than then
        assert kept == ROWS[:2]
        file.write(ROWS[2:])
        file.finish()
    assert read(path, "parquet") == ROWS
    assert list(tmp_path.iterdir()) == [path]


@EVERY
@pytest.mark.parametrize("finished", [True, False])
def test_unreadable_photos_are_tried_again(tmp_path, kind, finished):
    path = tmp_path / "x"
    with PredictionFile(path, kind, PROVENANCE) as file:
        file.write([ROWS[0], FAILED, ROWS[1]])
        if finished:
            file.finish()
    kept = []
    with PredictionFile(path, kind, PROVENANCE, kept.append) as file:
        assert kept == ROWS[:2]
        assert FAILED["photo"] not in file.done
        now = ROWS[2] | {"photo": FAILED["photo"]}
        file.write([now])
        file.finish()
    assert read(path, kind) == [*ROWS[:2], now]


@EVERY
def test_other_files_are_left_alone(tmp_path, kind):
    path = tmp_path / "x"
    path.write_text("photo,answer\na.jpg,Wren\n")
    with pytest.raises(InputError, match="was not written by predict"):
        PredictionFile(path, kind, PROVENANCE)
    assert path.read_text() == "photo,answer\na.jpg,Wren\n"


@EVERY
def test_other_settings_are_refused(tmp_path, kind):
    path = tmp_path / "x"
    with PredictionFile(path, kind, PROVENANCE) as file:
        file.write(ROWS)
        file.finish()
    with pytest.raises(InputError, match=r"\n  temperature: 1.25 in the file, 2.0 now\n"):
        PredictionFile(path, kind, {**PROVENANCE, "temperature": 2.0})


@TEXT
@pytest.mark.parametrize("damaged", ['"a","b"', '"a"b'])
def test_damaged_lines(tmp_path, kind, damaged):
    path = tmp_path / "x"
    lines = header_lines(kind, PROVENANCE)
    path.write_text("\n".join([*lines, '{"photo": 3}' if kind == "jsonl" else damaged, ""]))
    with pytest.raises(InputError, match="is damaged"):
        PredictionFile(path, kind, PROVENANCE)


def test_one_process_at_a_time(tmp_path):
    with (
        PredictionFile(tmp_path / "x.csv", "csv", PROVENANCE),
        pytest.raises(RunError, match="Another process"),
    ):
        PredictionFile(tmp_path / "x.csv", "csv", PROVENANCE)


def test_no_folder(tmp_path):
    with pytest.raises(RunError, match="No such file or directory"):
        PredictionFile(tmp_path / "missing/x.csv", "csv", PROVENANCE)
