"""Rows of a metrics file that a kill, a disk or a person has changed."""

import pytest

from apinet_jax.system.errors import InputError
from apinet_jax.workdir.metrics_log import MetricsWriter, read_rows
from apinet_jax.workdir.record import begin_session, new_record, read_record

ROWS = [{"kind": "train", "step": step, "loss": 0.5} for step in (1, 2, 3)]


@pytest.fixture
def path(tmp_path):
    with MetricsWriter(tmp_path, 0) as writer:
        for row in ROWS:
            writer.write(row)
    return tmp_path / "metrics.jsonl"


@pytest.mark.parametrize("cut", [1, 2, 20, 40])
def test_incomplete_last_line_is_dropped(path, cut):
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    assert read_rows(path) == (ROWS if cut == 1 else ROWS[:2])
    path.write_bytes(content + b"\0" * cut)  # as some file systems leave it
    assert read_rows(path) == ROWS


@pytest.mark.parametrize(
    "line",
    [
        b'{"kind": "train", "step": 2, "loss": 0.5',
        b'{"kind": "train", "step": 2, "lo\xe9s": 0.5}',
        b'{"kind": "train", "stdp": 2}',
        b'{"kind": null, "step": 2}',
        b'{"kind": "train", "step": "2"}',
        b"7",
        b"[" * 100_000,
    ],
    ids=lambda line: line[:40],
)
@pytest.mark.parametrize("number", [1, 3])
def test_other_damaged_lines_are_refused(path, line, number):
    lines = path.read_bytes().splitlines()
    lines[number - 1] = line
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    before = path.read_bytes()
    message = rf"metrics\.jsonl, line {number} is damaged \(.*Restore the file from a copy, or del"
    with pytest.raises(InputError, match=message):
        read_rows(path)
    with pytest.raises(InputError, match=message):
        MetricsWriter(path.parent, 3)
    assert path.read_bytes() == before


def test_damaged_line_is_refused_before_the_data_are_prepared(path):
    begin_session(path.parent, new_record({}, "fingerprint", None), 0)
    assert read_record(path.parent) is not None
    path.write_bytes(path.read_bytes().replace(b'"step": 2', b'"step"; 2'))
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 2 is damaged"):
        read_record(path.parent)
