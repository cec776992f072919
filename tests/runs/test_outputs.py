"""Files and reports of a run, and of its evaluation."""

import importlib
import json
import math
import shutil
import sys
from importlib.machinery import ModuleSpec
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from tiny_runs import (
    REPOSITORY,
    config_for,
    content_of,
    draw_photos,
    evaluate,
    rows_of,
    save_trunk,
    train,
)

from apinet_jax import training as train_module
from apinet_jax.evaluation import Evaluation
from apinet_jax.loop import Run
from apinet_jax.method.metrics import EvalSummary
from apinet_jax.method.types import TrainState
from apinet_jax.models.weights.torch_names import to_torch_tensors
from apinet_jax.results import report_results
from apinet_jax.setup.build import Plan
from apinet_jax.system.mesh import make_mesh
from apinet_jax.workdir.checkpoint import Checkpoints, load_weights
from apinet_jax.workdir.record import sha256_of


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return draw_photos(tmp_path_factory.mktemp("photos"), train=12, test=5)


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    return save_trunk(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


class Watch:
    """Records imports of TensorFlow, saves and evaluations in their order."""

    def __init__(self, patch):
        self.tensorflow, self.events = [], []
        patch.setattr(sys, "meta_path", [self, *sys.meta_path])
        save, evaluate = Checkpoints.save, train_module.evaluate_split

        def watched_save(checkpoints, state, metadata, *, best_score=None):
            self.events.append(("saved" if best_score is None else "best", int(state.step)))
            save(checkpoints, state, metadata, best_score=best_score)

        def watched_evaluate(*args, title, **kwargs):
            self.events.append(title)
            return evaluate(*args, title=title, **kwargs)

        patch.setattr(Checkpoints, "save", watched_save)
        patch.setattr(train_module, "evaluate_split", watched_evaluate)

    def find_spec(self, name, *_):
        """TensorFlow seems to be installed."""
        return ModuleSpec(name, self) if name == "tensorflow" else None

    def create_module(self, spec):
        self.tensorflow.append(spec.name)
        raise ImportError(spec.name)

    def exec_module(self, module):
        raise AssertionError(module)


@pytest.fixture(scope="module")
def watched():
    with pytest.MonkeyPatch.context() as patch:
        yield Watch(patch)


@pytest.fixture(scope="module")
def run(photos, weights_file, tmp_path_factory, watched):
    """A run from pretrained weights, with held-out images, and its configuration."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    config = config_for(
        photos,
        data__workers=0,
        model__pretrained=str(weights_file),
        optim__epochs=2.0,
        eval__batch_size=6,
        eval__flip=True,
    )
    train(config, workdir)
    return workdir, config


def test_every_step_has_a_row(run):
    workdir, _ = run
    rows = [row for row in rows_of(workdir) if row["kind"] == "train"]
    assert [row["step"] for row in rows] == list(range(1, 9))
    for row in rows:
        assert row["loss"] == pytest.approx(row["cross_entropy"] + row["ranking"], rel=1e-5)
        assert 0 < row["pairs"] <= 16
        assert 0 <= row["data_wait"] <= 1
        assert row["images_per_s"] > 0
        assert row["lr"] == pytest.approx(0.005 * (1 + math.cos(math.pi * (row["step"] - 1) / 8)))


def test_curves_and_events_exist(run):
    workdir, _ = run
    with Image.open(workdir / "curves.png") as image:
        assert min(image.size) > 500
        assert len(image.convert("L").getcolors(256)) > 50
    (events,) = (workdir / "tensorboard").iterdir()
    assert b"train/loss" in events.read_bytes()
    assert b"validation/top1" in events.read_bytes()


def test_run_record(run, weights_file, photos):
    record = json.loads((run[0] / "run.json").read_text())
    assert record["config"]["model.trunk"] == "test_tiny"
    assert record["config"]["data.dir"] == str(photos)
    assert record["pretrained"] == {
        "source": str(weights_file),
        "sha256": sha256_of(weights_file),
    }
    assert len(record["data_fingerprint"]) == 64
    (session,) = record["sessions"]
    assert "cpu" in session["device"]
    assert session["versions"]["jax"] == jax.__version__
    assert (session["commit"] is None) == (not (REPOSITORY / ".git").exists())


def test_run_needs_no_tensorflow(run, watched):
    assert watched.tensorflow == []
    with pytest.raises(ImportError):
        importlib.import_module("tensorflow")
    assert watched.tensorflow  # it would have been noticed


def test_state_is_saved_before_it_is_evaluated(run, watched):
    """At the end of each epoch, though saves are due every three steps."""
    held_out = "Evaluating validation images"
    events = [event for event in watched.events if event not in (("best", 4), ("best", 8))]
    expected = [("saved", 3), ("saved", 4), held_out, ("saved", 6), ("saved", 8), held_out]
    assert events[:6] == expected
    first_best = watched.events.index(("best", 4))
    assert watched.events[first_best - 1] == held_out


def test_results_say_which_was_chosen_and_how(run):
    workdir, _ = run
    results = json.loads((workdir / "results.json").read_text())
    validation = [row for row in rows_of(workdir) if row["kind"] == "validation"]
    assert [row["step"] for row in validation] == [4, 8]
    assert results["chosen"] == "best"
    assert results["chosen_how"] == "best of 2 epochs on 12 held-out images"
    best = max(validation, key=lambda row: (row["top1"], row["step"]))["step"]
    assert results["steps"] == {"last": 8, "best": best}
    for summary in results["test"].values():
        assert summary["images"] == 20
        assert summary["macro"] == pytest.approx(np.mean(list(summary["per_class"].values())))
        assert summary["top5"] == 1.0  # of four classes


def test_temperature_is_fitted_on_held_out_images(run, capsys):
    workdir, config = run
    figures = json.loads((workdir / "results.json").read_text())["calibration"]
    evaluate(workdir, "best", config)
    best = json.loads((workdir / "results.json").read_text())["test"]["best"]
    assert figures["test_ece"] == best["ece"]
    assert 0.05 <= figures["temperature"] <= 20
    assert 0 <= figures["test_ece_scaled"] <= 1
    assert f"calibration error     {100 * best['ece']:.2f} %" in capsys.readouterr().out


@pytest.mark.parametrize("batch_size", [1, 20, 64])
def test_evaluation_does_not_depend_on_its_batch(run, batch_size):
    workdir, config = run
    config = config.copy_and_resolve_references()
    config.eval.batch_size = batch_size
    results = json.loads((workdir / "results.json").read_text())
    for which in ("last", "best"):
        summary = evaluate(workdir, which, config)
        assert summary.images == 20
        assert summary.top1 == results["test"][which]["top1"]
        assert summary.nll == pytest.approx(results["test"][which]["nll"], rel=1e-5)


def test_flip_follows_the_run_or_the_command(run):
    workdir, config = run
    expected = json.loads((workdir / "results.json").read_text())["test"]["last"]["nll"]
    config = config.copy_and_resolve_references()
    for flip in (None, True):
        config.eval.flip = flip
        assert evaluate(workdir, "last", config).nll == pytest.approx(expected, rel=1e-6)
    config.eval.flip = False
    assert evaluate(workdir, "last", config).nll != pytest.approx(expected, rel=1e-6)


def test_evaluation_of_a_checkpoint_by_its_folder(run, capsys):
    workdir, _ = run
    before = content_of(workdir / "checkpoints")
    evaluate(workdir / "checkpoints/8")
    printed = capsys.readouterr().out
    assert "Test images, step 8" in printed
    assert "mean over classes" in printed
    assert "top-5" not in printed  # of four classes
    report = json.loads((workdir / "evaluation-8.json").read_text())
    assert set(report["per_class"]) == {f"class{label}" for label in range(4)}
    assert content_of(workdir / "checkpoints") == before


def test_results_on_held_out_images(run, tmp_path, capsys):
    """Figures that are not finite still give valid JSON."""
    workdir = shutil.copytree(run[0], tmp_path / "run")
    nan, per_class = math.nan, (1.0, None, 0.5, 0.0)
    figures = EvalSummary(12, 0.75, 1.0, 0.5, nan, nan, per_class, (2, 3, 1))
    splits = []

    def evaluate(_state, split):
        splits.append(split)
        return Evaluation(figures, np.full((12, 4), nan), np.zeros(12, int))

    names = tuple(f"class{label}" for label in range(4))
    weights = load_weights(workdir)
    report_results(
        Run(
            config=run[1],
            workdir=workdir,
            dataset=SimpleNamespace(test=None, validation=range(12), class_names=names),
            mesh=make_mesh(),
            plan=Plan(8, epoch=4, total=8, frozen=4, save_every=3, evaluate_every=4),
            learning_rate=np.zeros(8),
            checkpoints=SimpleNamespace(wait=lambda: None),
            writer=SimpleNamespace(rows=rows_of(workdir)),
            metadata={},
            evaluate=evaluate,
            check_signals=lambda: None,
        ),
        TrainState(np.array(8), weights.params, weights.batch_stats, ()),
    )
    assert splits == ["validation"]  # the last checkpoint is the best one
    text = (workdir / "results.json").read_text()
    assert "NaN" not in text
    results = json.loads(text)
    assert "test" not in results
    assert results["validation"]["best"]["top1"] == 0.75
    assert results["validation"]["last"]["nll"] is None
    printed = capsys.readouterr().out
    assert (
        "Held-out images (there are no test images), best checkpoint (chosen: best of 2" in printed
    )
    assert "top-1                 75.00 %" in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("  checkpoint ")]
    chosen = line.split()[-1]
    assert chosen == f"{workdir}/best/{results['steps']['best']}"
    assert load_weights(chosen).metadata["step"] == results["steps"]["best"]


def test_run_starts_from_the_pretrained_trunk(photos, weights_file, tmp_path):
    """A frozen trunk keeps the weights of the file."""
    config = config_for(
        photos,
        data__workers=0,
        data__val_fraction=0.0,
        model__pretrained=str(weights_file),
        optim__epochs=0.5,
        method="softmax",
    )
    train(config, tmp_path / "run")
    weights = load_weights(tmp_path / "run")
    variables = {"params": weights.params["trunk"], "batch_stats": weights.batch_stats["trunk"]}
    ours = to_torch_tensors(variables)
    for name, tensor in load_file(weights_file).items():
        if "running" in name:
            assert np.any(ours[name] != tensor), name
        else:
            np.testing.assert_array_equal(ours[name], tensor)
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["chosen"] == "last"
    assert set(results["test"]) == {"last"}
