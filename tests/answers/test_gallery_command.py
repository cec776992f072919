"""`gallery` and what `predict` makes of it, on a tiny run."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from loopback_bucket import started_cloud
from tiny_runs import draw_photos

import apinet_jax
from apinet_jax.__main__ import run_command
from apinet_jax.answers.unknown.gallery import read_gallery, write_gallery
from apinet_jax.system.errors import InputError


@pytest.fixture(scope="module")
def new(tmp_path_factory):
    """Folder of three photos of a new class."""
    folder = draw_photos(tmp_path_factory.mktemp("new") / "x", classes=1, train=3, test=0)
    return str(folder / "train/class0")


@pytest.fixture
def files(photos, new, own_workdir):
    return photos, new, str(own_workdir)


def command(capsys, *arguments):
    run_command([*arguments])
    return capsys.readouterr().out


def test_add_list_predict_remove(files, capsys):
    _, new, run = files
    added = command(capsys, "gallery", run, "add", "new", new)
    assert added == f"new (3)\n{run}/answers/gallery.npz: new\n"
    command(capsys, "gallery", run, "add", "other", f"{new}/0.png")
    listed = command(capsys, "gallery", run, "list").splitlines()
    assert listed == [
        *("new (2)", f"  {new}/1.png", f"  {new}/2.png", "other (1)", f"  {new}/0.png"),
    ]
    lines = command(
        capsys, "predict", run, new, "--gallery", "--unknown", "--false-alarms", "0.2",
        "--unknown-score", "vim", "--format", "jsonl", "--top", "6",
    ).splitlines()  # fmt: skip
    provenance, *rows = map(json.loads, lines)
    assert provenance["provenance"]["gallery"]["classes"] == ["new", "other"]
    assert provenance["provenance"]["unknown"]["score"] == "vim"
    assert provenance["provenance"]["classes"] == 6
    for row in rows:
        assert {"new", "other"} < {best["name"] for best in row["classes"]}
        assert sum(best["probability"] for best in row["classes"]) == pytest.approx(1, abs=1e-5)
        assert isinstance(row["score"], float)
    assert "gallery.npz: other" in command(capsys, "gallery", run, "remove", "new")
    assert command(capsys, "gallery", run, "list").startswith("other (1)")


def test_rebuild(files, capsys):
    _, new, run = files
    command(capsys, "gallery", run, "add", "new", new)
    classifier = apinet_jax.load(run)
    gallery = read_gallery(classifier)
    other = gallery._replace(checkpoint="0123456789ab", features=gallery.features + 1)
    write_gallery(classifier, other)
    for arguments in (("gallery", run, "list"), ("predict", run, new, "--gallery")):
        with pytest.raises(InputError, match="of another checkpoint"):
            run_command(arguments)
    assert "features of 3 photos" in command(capsys, "gallery", run, "rebuild")
    again = read_gallery(classifier)
    assert (again.checkpoint, again.files) == (gallery.checkpoint, gallery.files)
    np.testing.assert_allclose(again.features, gallery.features, rtol=1e-5)


@pytest.mark.parametrize("kind", ["table", "csv"])
def test_unknown_photos_in_the_output(files, capsys, kind):
    photos, _, run = files
    out = command(
        capsys, "predict", run, str(photos / "test"), "--unknown", "--false-alarms=0.9",
        "--format", kind,
    )  # fmt: skip
    assert "unknown" in out
    assert "vim" in out
    assert " is below " in out
    # An unknown photo has no probability: its best class says nothing about it.
    unknown = [line for line in out.splitlines() if ".png" in line and " is below " in line]
    pattern = '"unknown","unknown","",' if kind == "csv" else r"  unknown +-  "
    assert unknown
    assert all(re.search(pattern, line) for line in unknown)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("add", "class0", "x.png"), "'class0' is a class of the run"),
        (("add", "unknown", "x.png"), "cannot be the name of a class"),
        (("add", "new"), r"Use it as: .* gallery RUN add NAME PHOTOS"),
        (("list", "new"), "gallery RUN list"),
        (("remove",), "gallery RUN remove NAME"),
        (("remove", "new"), r"no class 'new'\. Its classes are: none"),
        (("rebuild",), "nothing to rebuild"),
        (("add", "new", "missing.png"), r"missing\.png does not exist"),
        (("add", "new", __file__), "cannot be read"),
        (("sort",), "invalid choice"),
    ],
)
def test_errors(files, arguments, message):
    with pytest.raises(InputError, match=message):
        run_command(["gallery", files[2], *arguments])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--gallery",), r"gallery of .* is empty"),
        (("--false-alarms=0.1",), "no effect without --unknown"),
        (("--unknown", "--false-alarms=0.0001"), "needs at least 9,999 held-out images"),
    ],
)
def test_errors_of_predict(files, flags, message):
    with pytest.raises(InputError, match=message):
        run_command(["predict", files[2], files[1], *flags])


def test_no_held_out_images(new, uncalibrated_workdir, capsys):
    run = str(uncalibrated_workdir)
    with pytest.raises(InputError, match="no held-out images"):
        run_command(["predict", run, new, "--unknown"])
    command(capsys, "gallery", run, "add", "new", new)
    run_command(["predict", run, new, "--gallery"])
    assert "gallery's classes are not calibrated" in capsys.readouterr().err


def test_run_and_photos_in_a_bucket(new, workdir, capsys):
    with started_cloud("bucket") as cloud:
        cloud.put_folder("bucket", "run", workdir)
        cloud.put_folder("bucket", "new", Path(new))
        added = command(capsys, "gallery", "gs://bucket/run", "add", "new", "gs://bucket/new")
        assert added == "new (3)\ngs://bucket/run/answers/gallery.npz: new\n"
        assert "run/answers/gallery.npz" in cloud.buckets["bucket"]
        listed = command(capsys, "gallery", "gs://bucket/run", "list").splitlines()
        assert listed == ["new (3)", *(f"  gs://bucket/new/{number}.png" for number in range(3))]
