"""Sweeps: what is run, what is skipped, what the table says, and what is wrong with a file."""

import json
from pathlib import Path

import pytest
from tiny_runs import REPOSITORY, SETTINGS, draw_photos, run_command

from apinet_jax.commands.sweep import read_sweep
from apinet_jax.errors import InputError

SWEEPS = sorted((REPOSITORY / "configs/sweeps").glob("*.py"))
TINY = {
    **SETTINGS,
    "data.workers": 0,
    "data.val_fraction": 0.0,
    "optim.epochs": 0.5,
    "optim.frozen_epochs": 0.0,
}


def sweep_file(folder, cells, **fields):
    path = folder / "sweep.py"
    arguments = {
        "base": "configs/folder.py",
        "settings": TINY,
        "cells": cells,
        "reference": "default",
        "seeds": (0,),
        **fields,
    }
    given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    path.write_text(
        "from apinet_jax.commands.sweep import Sweep\n"
        f"def get_sweep():\n    return Sweep({given})\n"
    )
    return path


def sweep(path, folder, photos, *options):
    arguments = ["sweep", str(path), f"--folder={folder}", f"--set=data.dir={photos}", *options]
    return run_command(arguments, program=("-m", "apinet_jax"))


def test_finished_runs_are_skipped_and_failed_ones_told(tmp_path):
    photos, folder = draw_photos(tmp_path / "photos", train=4, test=2), tmp_path / "sweep"
    cells = {"default": {}, "softmax": {"method": "softmax"}, "too many": {"batch.classes": 6}}
    path = sweep_file(tmp_path, cells)
    code, output = sweep(path, folder, photos)
    assert code == 1, output
    assert "FAILED: too many, seed 0: batch.classes = 6 asks for 6 classes" in output
    table = (folder / "table.md").read_text()
    assert table in output
    runs = [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]
    assert [(run["cell"], run["seed"]) for run in runs] == [("default", 0), ("softmax", 0)]
    results = json.loads((folder / "softmax/seed0/results.json").read_text())
    assert runs[1]["test"] == pytest.approx(100 * results["test"]["last"]["top1"], abs=1e-3)
    assert "data.dir" not in runs[0]["settings"]
    assert (folder / "plot.png").stat().st_size > 5000

    cells["too many"] = {"batch.tail": "carry"}
    path = sweep_file(tmp_path, {**cells, "default": {"loss.rank_margin": 0.1}})
    code, output = sweep(path, folder, photos, "--table")
    assert code == 0, output
    assert "Not counted: default, seed 0, run under other settings." in output
    assert "| too many | not run | 0 |" in output
    assert "Run 1" not in output

    path = sweep_file(tmp_path, cells)
    code, output = sweep(path, folder, photos, "--only=too many")
    assert code == 0, output
    assert "Run 1 of 1: too many, seed 0" in output
    assert "not run" not in output


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_of_the_project_can_be_run(path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    found = read_sweep(path, ["data.dir=photos"])
    runs = found.runs()
    assert len(set(runs)) == len(runs)
    assert {cell for cell, _ in runs} == set(found.cells)
    assert "python -m apinet_jax sweep" in path.read_text()


@pytest.mark.parametrize(
    ("cells", "fields", "changes", "message"),
    [
        (
            {"default": {"loss.rank": 1}},
            {},
            [],
            "'default' of .* sets loss.rank, which is no field",
        ),
        (
            {"default": {"pairs.kinds": "all"}},
            {},
            [],
            "(?s)'default' of .*valid are both, intra, int",
        ),
        ({"default": {"batch.classes": "many"}}, {}, [], "'default' of .*"),
        (
            {"default": {}},
            {"reference": "paper"},
            [],
            "reference 'paper' of .* is none of its cells",
        ),
        ({"default": {}}, {}, ["data.dri=x"], "--set data.dri=x: there is no field 'data.dri'"),
    ],
)
def test_what_is_wrong_with_a_sweep(tmp_path, monkeypatch, cells, fields, changes, message):
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(InputError, match=message):
        read_sweep(str(sweep_file(tmp_path, cells, **fields)), changes)


def test_files_that_are_no_sweeps(tmp_path):
    with pytest.raises(InputError, match=r"no sweep file '.*none.py'"):
        read_sweep(str(tmp_path / "none.py"))
    for text, message in (("x = 1", "defines no get_sweep"), ("1 / 0", "ZeroDivisionError")):
        Path(tmp_path / "file.py").write_text(text)
        with pytest.raises(InputError, match=message):
            read_sweep(str(tmp_path / "file.py"))


def test_commands_are_listed():
    code, output = run_command(["swep"], program=("-m", "apinet_jax"))
    assert code == 2
    assert "There is no command 'swep'. There are:" in output
    code, output = run_command(["sweep", "--help"], program=("-m", "apinet_jax"))
    assert code == 0
    assert "Examples:" in output
    code, output = run_command(["sweep", "x.py"], program=("-m", "apinet_jax"))
    assert code == 2
    assert "arguments are required: --folder" in output
