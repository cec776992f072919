"""`predict` on a tiny run: its answers are those of the classifier, and its errors are clear."""

import importlib.util
import io
import json
import os
import pathlib
import signal
import sys

import numpy as np
import pytest
from loopback_bucket import started_cloud
from PIL import Image

from apinet_jax.__main__ import run_command
from apinet_jax.answers import photo_stream
from apinet_jax.answers.prediction.photo_list import list_photos
from apinet_jax.answers.prediction.rows import parse_rows
from apinet_jax.commands import predict as command
from apinet_jax.system.errors import InputError, Interrupted, RunError


def predict(*arguments):
    run_command(["predict", *map(str, arguments)])


def rows_in(path):
    return list(parse_rows(path.suffix[1:], path.read_bytes()))


def test_answers_are_the_classifier_s(run, workdir, photos, tmp_path):
    out = tmp_path / "x.jsonl"
    predict(workdir, photos / "test", "--out", out, "--top", 2, "--batch-size", 4)
    rows = rows_in(out)
    files = [photo.path for photo in list_photos([str(photos / "test")])]
    assert [row["photo"] for row in rows] == files
    for row, best in zip(rows, run.predict(files, top=2), strict=True):
        assert [each["name"] for each in row["classes"]] == [name for name, _ in best]
        found = [each["probability"] for each in row["classes"]]
        assert found == pytest.approx([share for _, share in best], rel=1e-4)
    provenance = json.loads(out.read_text().split("\n")[0])["provenance"]
    assert provenance["hash"] == run.provenance.hash
    assert provenance["temperature"] == run.temperature


def test_table_has_as_many_columns_as_classes(run, workdir, photos, tmp_path):
    predict(workdir, photos / "test", "--out", tmp_path / "x.csv", "--top", 9)
    header = (tmp_path / "x.csv").read_text().splitlines()[1]
    assert header.endswith(f'"probability_{len(run.class_names)}"')


def test_accuracy_of_class_folders(run, workdir, photos, tmp_path, capsys):
    predict(workdir, photos / "test", "--out", tmp_path / "x.csv")
    bank = run.bank("test")
    right = (bank.logits.argmax(axis=1) == bank.labels).sum()
    printed = capsys.readouterr().out
    assert printed.startswith(f"accuracy  {100 * right / 16:.1f} % (95 % interval ")
    assert "16 photos" in printed


def test_unreadable_photos_do_not_stop_the_others(workdir, tmp_path, capsys):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff damaged")
    (tmp_path / "empty.png").touch()
    strange = tmp_path / os.fsdecode(b"x\xff.png")
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(strange)
    with pytest.raises(RunError, match="2 of 3 photos cannot be read"):
        predict(workdir, tmp_path, "--format", "jsonl")
    _, *lines = map(json.loads, capsys.readouterr().out.splitlines())
    assert [line["photo"].rpartition("/")[2] for line in lines] == [
        *("broken.jpg", "empty.png", "x\\xff.png"),
    ]
    assert [line["error"] is None for line in lines] == [False, False, True]
    assert lines[1]["error"] == "empty file"


def test_interrupted_job_continues(workdir, photos, tmp_path, monkeypatch, capsys):
    whole, out = tmp_path / "whole.csv", tmp_path / "x.csv"
    predict(workdir, photos / "test", "--out", whole, "--batch-size", 4)
    batches = photo_stream._batches

    def interrupted(*arguments):
        for number, batch in enumerate(batches(*arguments)):
            if number == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(photo_stream, "_batches", interrupted)
        with pytest.raises(Interrupted):
            predict(workdir, photos / "test", "--out", out, "--batch-size", 4)
    assert len(rows_in(out)) == 12
    with open(out, "ab") as file:
        file.write(b'"half a li')
    capsys.readouterr()
    predict(workdir, photos / "test", "--out", out, "--batch-size", 4)
    assert out.read_bytes() == whole.read_bytes()
    assert "16 photos in class folders" in capsys.readouterr().out
    predict(workdir, photos / "test", "--out", out)  # nothing is left
    assert out.read_bytes() == whole.read_bytes()


def test_photos_in_a_bucket(workdir, photos, tmp_path, monkeypatch):
    with started_cloud("bucket") as cloud:
        cloud.put_folder("bucket", "photos", photos / "test")
        cloud.put("bucket", "photos/class1/broken.jpg", b"")
        for name in ("photos", "photos/class*/*.*"):
            out = tmp_path / f"{len(name)}.jsonl"
            with pytest.raises(RunError, match="1 of 17 photos cannot be read"):
                predict(workdir, f"gs://bucket/{name}", "--out", out)
            rows = rows_in(out)
            assert rows[0]["photo"] == "gs://bucket/photos/class0/0.png"
            assert rows[0]["true_class"] == "class0"
            assert [row["photo"] for row in rows if row["error"]] == [
                "gs://bucket/photos/class1/broken.jpg"
            ]
        out = tmp_path / "missing.csv"
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"gs://bucket/no.jpg\n")))
        with pytest.raises(RunError, match="1 of 1 photos cannot be read"):
            predict(workdir, "-", "--out", out)
        assert rows_in(out)[0]["error"] == "there is no such object"
        for name in ("empty", "no.jpg", "*.jpg"):
            with pytest.raises(InputError, match="matches no photo"):
                predict(workdir, f"gs://bucket/{name}")


def test_closed_output_ends_the_job(workdir, photos, monkeypatch):
    named = []
    batches = photo_stream._batches

    def counted(*arguments):
        for batch in batches(*arguments):
            named.append(len(batch[1]))
            yield batch

    monkeypatch.setattr(photo_stream, "_batches", counted)
    monkeypatch.setattr(command, "results_are_lost", lambda: True)
    predict(workdir, photos / "test", "--format", "csv", "--batch-size", 4)
    assert named == [4]


def test_only_and_filters(workdir, photos, tmp_path, capsys):
    predict(workdir, photos / "test", "--only", "class1, class2", "--show", "mistakes")
    lines = capsys.readouterr().out.splitlines()
    assert "only 2 of 4 classes" in lines[1]
    table = [line for line in lines if str(photos) in line]
    assert all("(wrong)" in line for line in table)
    assert sum("class0 (wrong)" in line for line in table) == 4
    names = tmp_path / "names.txt"
    names.write_text("class1\n\nclass2\n")
    predict(workdir, photos / "test", "--only", names, "--show", "mistakes")
    assert capsys.readouterr().out.splitlines()[3:] == lines[3:]


def test_roll_up(workdir, photos, tmp_path, capsys):
    taxonomy = tmp_path / "taxonomy.csv"
    taxonomy.write_text("class,any\n" + "".join(f"class{n},all\n" for n in range(4)))
    predict(workdir, photos / "test", "--taxonomy", taxonomy, "--confidence", 0.999)
    printed = capsys.readouterr().out
    assert "any reaches 1.00" in printed
    assert "\nany       16 of 16 photos, right 100.0 %" in printed


def test_taxonomy_of_the_data_folder(workdir, photos, tmp_path, capsys):
    (tmp_path / "taxonomy.csv").write_text("class,any\nclass0,all\n")
    photo = photos / "test/class0/0.png"
    with pytest.raises(InputError, match="no row for 3 of the run's 4 classes"):
        predict(workdir, photo, "--data-dir", tmp_path)
    predict(workdir, photo, "--data-dir", tmp_path, "--taxonomy", "none")
    assert "class0" in capsys.readouterr().out


def test_taxonomy_needs_no_data_folder(workdir, photos, monkeypatch, capsys):
    def refused(path):
        if path.name == "taxonomy.csv":
            raise PermissionError(13, "Permission denied", str(path))
        return os.path.exists(path)

    monkeypatch.setattr(pathlib.Path, "exists", refused)
    predict(workdir, photos / "test/class0/0.png")
    out, err = capsys.readouterr()
    assert "class0" in out
    assert "NOTE: taxonomy.csv is not used" in err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # no gcsfs
    predict(workdir, photos / "test/class0/0.png", "--data-dir", "gs://bucket/photos")
    assert "taxonomy.csv is not used, because gs://bucket/photos" in capsys.readouterr().err


def test_flip(run, workdir, photos, tmp_path, capsys):
    photo = photos / "test/class0/0.png"
    predict(workdir, photo, "--flip", "--out", tmp_path / "x.jsonl", "--top", 1)
    assert "temperature was fitted without mirror images" in capsys.readouterr().err
    image = np.asarray(Image.open(photo))
    both = run.logits([image, image[:, ::-1]]).mean(axis=0) / run.temperature
    expected = (np.exp(both) / np.exp(both).sum()).max()
    (row,) = rows_in(tmp_path / "x.jsonl")
    assert row["probability"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "clas1"], "no class 'clas1' in the run. Nearest to 'clas1': 'class1'"),
        (["--only", " , "], "names no class"),
        (["--taxonomy", "missing.csv"], "cannot be read: No such file"),
        (["--top", "0"], "--top = 0"),
        (["--batch-size", "0"], "--batch-size = 0"),
        (["--confidence", "80"], "--confidence = 80 is not between 0 and 1"),
        (["--format", "parquet"], "name it with --out"),
        (["--out", "x.txt"], "would be a table"),
        (["--out", "gs://b/x.csv"], "not on a disk"),
        (["missing.jpg"], "missing.jpg does not exist"),
        (["--checkpoint", "7"], "7"),
    ],
)
def test_errors(workdir, photos, options, message):
    with pytest.raises(InputError, match=message):
        predict(workdir, photos / "test/class0/0.png", *options)


def test_mistakes_need_classes(workdir, photos, tmp_path):
    photo = tmp_path / "0.png"
    photo.write_bytes((photos / "test/class0/0.png").read_bytes())
    with pytest.raises(InputError, match="needs photos whose class is known"):
        predict(workdir, photo, "--show", "mistakes")


def test_no_checkpoint(photos, tmp_path):
    with pytest.raises(InputError, match="checkpoint"):
        predict(tmp_path, photos / "test/class0/0.png")


def test_parquet_needs_pyarrow(workdir, photos, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "pyarrow.parquet", raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match="pip install pyarrow"):
        predict(workdir, photos / "test", "--out", tmp_path / "x.parquet")
