"""The command `compare`."""

import csv
import json
from pathlib import Path

import pytest

from apinet_jax import load
from apinet_jax.__main__ import run_command
from apinet_jax.commands.compare import COLUMNS, check_same_classes, read_pairs
from apinet_jax.system.errors import InputError, RunError


def two(photos):
    return [str(photos / f"test/class{label}/0.png") for label in (0, 1)]


def test_two_photos(workdir, photos, tmp_path, capsys):
    out = tmp_path / "x.png"
    run_command(["compare", str(workdir), *two(photos), "--prior", "0.1", "--out", str(out)])
    printed = capsys.readouterr().out
    assert out.read_bytes()[1:4] == b"PNG"
    assert str(out) in printed
    assert "same class    0." in printed
    assert "10 % of pairs" in printed
    assert "held-out images" in printed


def test_baseline_of_other_classes(workdir, photos):
    found, other = load(workdir), load(workdir)
    names = ("class0", "class1", "class2", "class9")
    other.network = found.network._replace(class_names=names)
    with pytest.raises(InputError, match="only one of them has the class 'class3'"):
        check_same_classes(found, other)
    other.network = found.network._replace(class_names=found.class_names[::-1])
    with pytest.raises(InputError, match="their order differs"):
        check_same_classes(found, other)


def test_many_pairs(workdir, photos, tmp_path, capsys):
    a, b = two(photos)
    file = tmp_path / "pairs.csv"
    file.write_text(f"first,second\n{a},{b}\n{a},{tmp_path}/missing.png\n\n{b},{b}\n")
    with pytest.raises(RunError, match=r"1 of 3 pairs .*missing\.png"):
        run_command(["compare", str(workdir), "--pairs", str(file)])
    provenance, *lines = capsys.readouterr().out.splitlines()
    assert json.loads(provenance.removeprefix("# "))["prior"] == 0.5
    rows = list(csv.DictReader(lines))
    assert tuple(rows[0]) == COLUMNS
    assert [bool(row["error"]) for row in rows] == [False, True, False]
    assert rows[1]["same"] == ""
    assert 0 < float(rows[2]["same"]) < 1
    out = tmp_path / "compared.csv"
    file.write_text(f"{a},{b}\n")
    run_command(["compare", str(workdir), "--pairs", str(file), "--out", str(out)])
    assert next(csv.DictReader(out.read_text().splitlines()[1:])) == rows[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a.jpg,b.jpg\na.jpg\n", "line 2: 1 columns"),
        (b"a.jpg,b.jpg,c.jpg\n", "line 1: 3 columns"),
        (b"a.jpg,\n", "line 1: 1 columns"),
        (b"first,second\n", "no pairs"),
        (b"\xff\xfe", "UTF-8"),
        (b'"' + b"a.jpg,b.jpg\n" * 20_000, "line 10923: field larger"),
    ],
)
def test_wrong_pairs_file(content, message, tmp_path):
    file = tmp_path / "pairs.csv"
    file.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_pairs(str(file))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["one.jpg"], "two photos to compare, not 1"),
        (["one.jpg", "two.jpg", "--pairs", "x.csv"], "but not both"),
        (["one.jpg", "two.jpg", "--prior", "1"], "between 0 and 1"),
        (["--pairs", "missing.csv"], "missing.csv cannot be read"),
        (["one.jpg", "two.jpg", "--out", "missing/x.png"], "no folder missing"),
        (["one.jpg", "two.jpg", "--out", "x.gif"], "not a supported picture format"),
        (["one.jpg", "two.jpg", "--out", "."], "no kind|is a folder"),
        (["--pairs", "x.csv", "--baseline", "runs/y"], "picture of two photos"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(InputError, match=message):
        run_command(["compare", "runs/x", *options])


def test_missing_photo(workdir, photos):
    with pytest.raises(InputError, match=r"nothing\.png cannot be read"):
        run_command(["compare", str(workdir), two(photos)[0], "nothing.png"])
    assert not list(Path().glob("compare.*"))
