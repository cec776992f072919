"""Sweeps: runs, tables, and invalid files."""

import argparse
import csv
import json
import math
import os
import re
import signal
from pathlib import Path

import pytest
from tiny_runs import (
    REPOSITORY,
    SETTINGS,
    draw_photos,
    rows_of,
    run_command,
    sessions,
    started,
    trained,
    wait_until,
)

from apinet_jax.commands.sweep import add_arguments, run
from apinet_jax.sweeps.results import finished_row
from apinet_jax.sweeps.spec import Sweep, read_sweep
from apinet_jax.system.errors import InputError, RunError
from apinet_jax.workdir.checkpoint_files import steps_of

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
        f"from apinet_jax.sweeps.spec import Sweep\ndef get_sweep():\n    return Sweep({given})\n"
    )
    return path


def sweep(path, folder, photos, *options):
    arguments = ["sweep", str(path), f"--folder={folder}", f"--set=data.dir={photos}", *options]
    return run_command(arguments, program=("-m", "apinet_jax"))


def test_finished_runs_are_skipped_and_failed_ones_reported(tmp_path):
    photos, folder = draw_photos(tmp_path / "photos", train=4, test=2), tmp_path / "sweep"
    cells = {
        "default": {},
        "softmax": {"method": "softmax"},
        "too many": {"batch.classes": 6},
        "too fast": {"optim.lr": 1e30, "optim.epochs": 2.0},
    }
    path = sweep_file(tmp_path, cells)
    code, output = sweep(path, folder, photos)
    assert code == 1, output
    assert "FAILED: too many, seed 0: batch.classes = 6 asks for 6 classes" in output
    assert re.search("DIVERGED: too fast, seed 0: .* (not|no longer) finite", output)
    table = (folder / "table.md").read_text()
    assert table.rstrip() in output
    assert "| too fast | diverged | 0, 1 diverged |  |  |  | diverged |" in table
    runs = [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]
    assert [run["cell"] for run in runs] == ["default", "softmax", "too fast"]
    assert [run["test"] is None for run in runs] == [False, False, True]
    assert {run["dtype"] for run in runs} == {"float32"}
    (workdir,) = folder.glob("softmax-*/seed0")
    results = json.loads((workdir / "results.json").read_text())
    assert runs[1]["test"] == pytest.approx(100 * results["test"]["last"]["top1"], abs=1e-3)
    assert "data.dir" not in runs[0]["settings"]
    assert (folder / "plot.png").stat().st_size > 5000

    cells["too many"] = {"batch.tail": "carry"}
    path = sweep_file(tmp_path, {**cells, "default": {"loss.rank_margin": 0.1}})
    code, output = sweep(path, folder, photos, "--table")
    assert code == 0, output
    assert "Not counted: default, seed 0, run under other settings." in output
    assert "| too many | not run | 0 |" in output
    assert "| too fast | diverged |" in output
    assert "Run 1" not in output

    code, output = sweep(path, folder, photos, "--only=default", "--only=too fast")
    assert code == 0, output  # a new run next to the one with other settings
    assert "Run 1 of 1: default, seed 0" in output
    workdirs = [path.parts[-3] for path in folder.glob("*/seed0/results.json")]
    assert [name.rpartition("-")[0] for name in sorted(workdirs)] == [
        "default",
        "default",
        "softmax",
    ]
    code, output = sweep(path, folder, photos, "--only=too fast", "--retry")
    assert code == 0, output
    assert "Run 1 of 1: too fast, seed 0" in output
    assert "DIVERGED" in output


@pytest.mark.slow
def test_signal_to_the_process_group_saves_the_run(tmp_path):
    photos, folder = draw_photos(tmp_path / "photos", train=8, test=2), tmp_path / "sweep"
    path = sweep_file(tmp_path, {"default": {"optim.epochs": 20.0}})
    arguments = ["sweep", str(path), f"--folder={folder}", f"--set=data.dir={photos}"]
    with started(arguments, program=("-m", "apinet_jax")) as process:
        wait_until(process, lambda _: list(folder.glob("*/seed0/metrics.jsonl")), folder)
        (workdir,) = folder.glob("*/seed0")
        wait_until(process, trained(3), workdir)
        os.killpg(process.pid, signal.SIGTERM)
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "The interrupted run has saved its state. The same command continues." in output
    stopped = max(steps_of(workdir, "checkpoints"))
    assert stopped == rows_of(workdir)[-1]["step"] < 80
    assert sessions(workdir) == 1
    code, output = sweep(path, folder, photos)
    assert code == 0, output
    assert sessions(workdir) == 2
    assert json.loads((workdir / "run.json").read_text())["sessions"][1]["step"] == stopped


ROW = {
    **{"cell": "default", "seed": 0, "test": 50.0, "settings": {}, "data": "a" * 16},
    **{"weights": "w", "dtype": "float32"},
}


CELLS = {"default": {}, "other": {"loss.rank_margin": 0.1}, "wide": {"data.crop_to_box": True}}


def table_of(tmp_path, monkeypatch, *lines):
    """Makes the table from these lines of `runs.jsonl`; returns it."""
    monkeypatch.chdir(REPOSITORY)
    path = sweep_file(tmp_path, CELLS, seeds=(0, 1), base="configs/cub.py")
    rows = []
    for line in lines:
        if isinstance(line, dict):
            settings = read_sweep(path).identity(line["cell"])
            rows.append(json.dumps({**ROW, "settings": settings, **line}))
        else:
            rows.append(line)
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "runs.jsonl").write_text("\n".join(rows))
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    run(parser.parse_args([str(path), f"--folder={folder}", "--table"]))
    return (folder / "table.md").read_text()


def test_table_from_kept_runs(tmp_path, monkeypatch):
    table = table_of(
        tmp_path,
        monkeypatch,
        {"cell": "default"},
        {"cell": "default", "seed": 1, "test": 52.0},
        {"cell": "other", "test": 40.0},
        {"cell": "other", "seed": 1, "settings": {"optim.lr": 1.0}},
    )
    assert "| default | 51.00 ± 1.41 | 2 |  |  |  | reference |" in table
    assert "| other | 40.00 | 1 | 1 | -10.00 | one pair | not resolved |" in table


def test_rows_that_are_not_counted(tmp_path, monkeypatch, capsys):
    row = {**ROW, "cell": "gone", "settings": {}}
    table = table_of(tmp_path, monkeypatch, json.dumps(row), json.dumps(_without(ROW, "test")))
    assert "| default | not run | 0 |" in table
    output = capsys.readouterr().err
    assert "Not counted: gone, seed 0, as that cell no longer exists." in output
    assert "Not counted: default, seed 0, which has no test top-1." in output


def _without(row, name):
    return {key: value for key, value in row.items() if key != name}


@pytest.mark.parametrize(
    "line",
    [
        *('{"cell": "defau', "[1, 2]", '{"seed": 1}', "", '"text"'),
        *(json.dumps({**ROW, "test": score}) for score in ("50", math.nan, 101)),
    ],
)
def test_damaged_line_is_named_and_nothing_is_overwritten(tmp_path, monkeypatch, line):
    with pytest.raises(
        InputError, match=r"runs\.jsonl, line 2 is not a run. Restore the file, or rem"
    ):
        table_of(tmp_path, monkeypatch, {"cell": "default"}, line, {"cell": "other"})
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["runs.jsonl"]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"data": "b" * 16}, "images"),
        ({"weights": "c" * 16}, "pretrained weights"),
        ({"weights": None}, "pretrained weights"),
        ({"dtype": "bfloat16"}, "compute type"),
    ],
)
def test_runs_with_other_data_are_not_compared(tmp_path, monkeypatch, change, what):
    with pytest.raises(InputError, match=f"The {what} of 'default', seed 0 .* 'other', seed 0"):
        table_of(tmp_path, monkeypatch, {"cell": "default"}, {"cell": "other", **change})


def test_seeds_with_other_choices_are_not_averaged(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"The settings, .* of 'other', seed 0 .* 'other', seed 1"):
        table_of(
            tmp_path,
            monkeypatch,
            {"cell": "default", "config": "1"},
            {"cell": "other", "config": "2"},
            {"cell": "other", "config": "3", "seed": 1},
        )


def test_cells_may_set_other_data(tmp_path, monkeypatch):
    table = table_of(
        tmp_path, monkeypatch, {"cell": "default"}, {"cell": "wide", "data": "b" * 16, "test": 60.0}
    )
    assert "| wide | 60.00 | 1 | 1 | +10.00 |" in table


def test_table_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    path = sweep_file(tmp_path, {"default": {}})
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    with pytest.raises(InputError, match=r"There is no folder .*nowhere, so no table"):
        run(parser.parse_args([str(path), f"--folder={tmp_path / 'nowhere'}", "--table"]))
    assert not (tmp_path / "nowhere").exists()


def test_changes_have_the_type_of_their_field(tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    path = sweep_file(tmp_path, {"default": {}})
    changes = ["optim.lr=0.002", "data.dir=7", "optim.nesterov=True", "seed=3"]
    settings = read_sweep(path, changes[:3]).settings
    assert settings["optim.lr"] == 0.002
    assert settings["data.dir"] == "7"
    assert settings["optim.nesterov"] is True
    with pytest.raises(InputError, match="the seed cannot be a setting"):
        read_sweep(path, changes)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_sweeps_of_the_project_are_valid(path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    found = read_sweep(path, ["data.dir=photos"])
    runs = found.runs()
    assert len(set(runs)) == len(runs)
    assert {cell for cell, _ in runs} == set(found.cells)
    assert "python -m apinet_jax sweep" in path.read_text()


def test_final_recipes_are_the_best_of_the_search(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    table = (REPOSITORY / "docs/sweeps/search/table.csv").read_text().splitlines()
    held_out = {row["cell"]: float(row["mean"] or 0) for row in csv.DictReader(table)}
    final, search = (read_sweep(f"configs/sweeps/{name}.py") for name in ("final", "search"))
    for method, recipe in final.cells.items():
        of_method = [cell for cell in search.cells if cell.startswith(method)]
        assert recipe == search.cells[max(of_method, key=held_out.get)]
    assert "data.val_fraction" not in final.settings
    assert not set(final.seeds) & set(search.seeds)


@pytest.mark.parametrize(
    ("cells", "fields", "changes", "message"),
    [
        (
            {"default": {"loss.rank": 1}},
            {},
            [],
            "'default' of .* sets loss.rank, which is not a field",
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
            "reference 'paper' of .* is not one of its cells",
        ),
        ({"default": {}}, {}, ["data.dri=x"], "--set data.dri=x: there is no field 'data.dri'"),
        ({"default": {}}, {}, ["pairs.choice=nearest"], "(?s)'nearest': valid are similar, dis"),
        ({"default": {}}, {}, ["optim.lr=abc"], "'default' of .*"),
        ({"default": {"model.trunk": "resnet11"}}, {}, [], "'default' of .*'resnet11'.*resnet101"),
        (
            {"default": {"model.trunk": "vit_base_patch16_224", "data.crop": 36}},
            {},
            [],
            "'default' of .*36x36 do not divide into patches of 16",
        ),
        ({"default": {"model.drop_path": 0.1}}, {}, [], "'default' of .* has no drop path"),
        ({"default": {"data.crop": None}}, {}, [], "sets data.crop to None; leave out"),
        ({"default": {}}, {"metric": "val"}, [], "metric 'val' of .*: valid are test, validation"),
        ({"default": {}}, {"seeds": (0, 0)}, [], "cell 'default', seed 0 twice"),
        ({"default": {}}, {"seeds": 3}, [], "has the seeds 3: give integers from 0"),
        ({"default": {}}, {"seeds": (0, -1)}, [], "has the seeds .*-1.*: give integers"),
        ({"default": {}}, {"more_seeds": {"default": ("1",)}}, [], "has the seeds .*'1'"),
        (
            {"default": {}, "fast": {"optim.lr": 0.1}},
            {},
            ["optim.lr=0.5"],
            "--set optim.lr: cell 'fast' of .* sets it too",
        ),
        ({"default": {}}, {"more_seeds": {"none": (2,)}}, [], "more_seeds 'none' of .* is not one"),
    ],
)
def test_invalid_sweep(tmp_path, monkeypatch, cells, fields, changes, message):
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(InputError, match=message):
        read_sweep(str(sweep_file(tmp_path, cells, **fields)), changes)


def test_files_that_are_not_sweeps(tmp_path):
    with pytest.raises(InputError, match=r"no sweep file '.*none.py'"):
        read_sweep(str(tmp_path / "none.py"))
    for text, message in (
        ("x = 1", "defines no get_sweep"),
        ("1 / 0", "ZeroDivisionError"),
        ("get_sweep = dict", "returns a dict, not a apinet_jax.sweeps.spec.Sweep"),
        ("get_sweep = lambda: {}['cells']", "could not be run: KeyError: 'cells'"),
    ):
        Path(tmp_path / "file.py").write_text(text)
        with pytest.raises(InputError, match=message):
            read_sweep(str(tmp_path / "file.py"))


def test_commands_are_listed():
    code, output = run_command(["swep"], program=("-m", "apinet_jax"))
    assert code == 2
    assert "There is no command 'swep'. The commands are:" in output
    code, output = run_command(["sweep", "--help"], program=("-m", "apinet_jax"))
    assert code == 0
    assert "Examples:" in output
    code, output = run_command(["sweep", "x.py"], program=("-m", "apinet_jax"))
    assert code == 2
    assert "arguments are required: --folder" in output


def test_later_field_at_its_default_keeps_the_hash(tmp_path):
    sweep = Sweep("configs/folder.py", {}, {"default": {}}, "default")
    (tmp_path / "results.json").write_text('{"test": {"last": {"top1": 0.5}}}')

    def hashed(**settings):
        config = {"seed": 0, "model.dtype": "float32", **settings}
        record = {
            "config": config,
            "data_fingerprint": "images",
            "pretrained": None,
            "sessions": [{"device": "1 x cpu", "commit": None}],
        }
        (tmp_path / "run.json").write_text(json.dumps(record))
        return finished_row(sweep, "default", 0, tmp_path, None)["config"]

    before = hashed()
    assert hashed(**{"train.microbatches": 1, "model.remat": "none"}) == before
    assert hashed(**{"train.microbatches": 2}) != before


def test_heads_share_a_process(tmp_path, capsys, monkeypatch):
    """Cells with cached features; one that diverges and one that is impossible stop no other."""
    photos, folder = draw_photos(tmp_path / "photos", train=4, test=2), tmp_path / "sweep"
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "records"))
    settings = {**TINY, "train.features": "cache", "data.dir": str(photos)}
    cells = {
        "too many": {"batch.classes": 8},
        "too fast": {"optim.lr": 1e30, "optim.epochs": 3.0, "method": "softmax"},
        "default": {"method": "softmax"},
    }
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    path = sweep_file(tmp_path, cells, settings=settings)
    with pytest.raises(RunError, match=r"1 run\(s\) failed:\n  too many, seed 0: .*only 4"):
        run(parser.parse_args([str(path), f"--folder={folder}"]))
    runs = [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]
    assert [(row["cell"], "diverged" in row) for row in runs] == [
        ("too fast", True),
        ("default", False),
    ]
    shown = capsys.readouterr()
    assert "DIVERGED: too fast, seed 0" in shown.err
    assert "Features of" not in shown.err + shown.out  # in the logs
    logs = sorted(folder.glob("*/seed0/log.txt"))
    assert sum("Features of the train images" in log.read_text() for log in logs) == 1
    assert len(list(folder.glob("*/seed0/results.json"))) == 1
