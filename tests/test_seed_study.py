"""The searches and tests of `benchmarks/`: divisions, resuming, packed photos."""

import numpy as np
import pytest
from tiny_runs import draw_photos, run_command, save_trunk

from apinet_jax.config import default_config
from apinet_jax.data.decoding import decode
from apinet_jax.data.transforms import to_pixels
from benchmarks.frozen_heads import draw_settings
from benchmarks.gate_diagnosis import participation_ratio, rival_shares
from benchmarks.packed_photos import pack, read_folder, unpack
from benchmarks.seed_study import (
    Images,
    Rows,
    Task,
    accuracy,
    complete,
    places_in_class,
    print_table,
)

LABELS = np.repeat(np.arange(4), 10)


def test_divisions_have_as_many_images_of_each_class():
    folds = places_in_class(LABELS, seed=1) % 5
    for fold in range(5):
        assert np.bincount(LABELS[folds == fold]).tolist() == [2, 2, 2, 2]
    assert np.bincount(LABELS[places_in_class(LABELS, 2) < 3]).tolist() == [3, 3, 3, 3]
    assert np.array_equal(places_in_class(LABELS, 1), places_in_class(LABELS, 1))
    assert not np.array_equal(places_in_class(LABELS, 1), places_in_class(LABELS, 2))


def test_methods_share_settings():
    pairs = [
        [draw_settings(method, n, None, 50) for n in range(60)] for method in ("apinet", "softmax")
    ]
    for ours, theirs in zip(*pairs, strict=True):
        assert {**ours, "method": "softmax"}.items() >= theirs.items()
    assert len({str(settings) for settings in pairs[1]}) == 60
    batches = {(s["batch.classes"], s["batch.images"]) for s in pairs[1]}
    assert batches == {(30, 4), (40, 3), (24, 5)}
    assert draw_settings("softmax", 3, None, 12)["batch.images"] == 10
    assert (
        draw_settings("softmax", 3, 5, 50)["steps"] * 2
        == draw_settings("softmax", 3, None, 50)["steps"]
    )


@pytest.fixture
def task(tmp_path):
    """Features that show their class."""
    random = np.random.default_rng(0)
    features = random.standard_normal((3, 40, 16)).astype(np.float32)
    features += 20 * np.eye(16, dtype=np.float32)[LABELS]
    config = default_config()
    config.update({"train": {"features": "cache"}, "model": {"trunk": "test_tiny", "hidden": 4}})
    config.batch.update({"classes": 4, "images": 2})
    images = Images(features[:2], features[2], LABELS, LABELS, 4)

    def open_task(few=None):
        return Task(config, images, Rows(tmp_path / "rows.jsonl"), few)

    return open_task


def test_search_and_test_resume(task, tmp_path, capsys):
    slow, fast = ({"method": "softmax", "steps": 12, "optim.lr": lr} for lr in (1e-6, 0.1))
    assert task().search([slow, fast], confirmed=1, folds=2) == fast
    task().test("softmax", fast, seeds=2)
    rows = (tmp_path / "rows.jsonl").read_text()
    assert len(rows.splitlines()) == 2 + 1 + 2
    task().search([slow, fast], confirmed=1, folds=2)
    task().test("softmax", fast, seeds=2)
    assert (tmp_path / "rows.jsonl").read_text() == rows
    few = task(few=3)
    few.test("API-Net", {"method": "apinet", "steps": 4}, seeds=2)
    few.test("softmax", fast, seeds=2)
    for number in (None, 3):
        print_table(few.rows, number)
    printed = capsys.readouterr().out
    assert "All images of each class" in printed
    assert "3 images of each class" in printed
    assert "| softmax | 2 | 100.00 | 0.00 |" in printed


def test_steps_become_epochs():
    config = complete(default_config(), {"steps": 7, "batch.classes": 2, "batch.images": 2}, 9)
    assert config.optim.epochs == 3.5
    assert complete(default_config(), {"steps": 7}, 9).optim.epochs == 7  # less than a batch
    assert complete(default_config(), {"steps": 7}, 9).optim.frozen_epochs == 0
    frozen = complete(default_config(), {"steps": 9, "frozen_steps": 3}, 120)
    assert (frozen.optim.epochs, frozen.optim.frozen_epochs) == (9, 3)


def test_diverged_logits_have_no_accuracy():
    logits = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert accuracy(logits, np.array([1, 1])) == 50
    assert np.isnan(accuracy(logits * np.nan, np.array([0, 1])))


def test_rival_shares_by_hand():
    mistakes = np.array([[0, 5, 2, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 9, 0]])
    labels, partners = np.array([0, 0, 0, 2, 3]), np.array([1, 2, 3, 0, 2])
    # Class 2 was never mistaken, so its partner is of no rival, and neither is class 3 of class 0.
    assert rival_shares(labels, partners, mistakes) == pytest.approx([2 / 5, 3 / 5, 3 / 5])


def test_participation_ratio_by_hand():
    assert participation_ratio(np.array([[1.0, 2.0], [-1.0, -2.0]])) == pytest.approx(1)
    assert participation_ratio(np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])) == (
        pytest.approx(2)
    )


def test_packed_photos(tmp_path, capsys):
    photos = draw_photos(tmp_path / "photos", train=3, test=1)
    pack(read_folder(photos), tmp_path / "packed.npz", size=None, quality=75)
    unpacked = unpack(tmp_path / "packed.npz", size=36)
    assert unpacked["train"].labels.tolist() == np.repeat(np.arange(4), 3).tolist()
    assert unpacked["test"].pixels.shape == (4, 36, 36, 3)
    encoded = (photos / "train/class1/2.png").read_bytes()
    np.testing.assert_array_equal(unpacked["train"].pixels[5], to_pixels(decode(encoded), None, 36))
    pack(read_folder(photos), tmp_path / "small.npz", size=24, quality=90)
    assert unpack(tmp_path / "small.npz", size=24)["train"].pixels.shape == (12, 24, 24, 3)
    assert "small.npz" in capsys.readouterr().out


WITHOUT = """
import runpy, sys
for module in ("grain", "tensorflow", "tensorflow_datasets"):
    sys.modules[module] = None
sys.argv[:1] = ["evidence"]
runpy.run_module("benchmarks.evidence", run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
def test_evidence_needs_neither_grain_nor_tfds(tmp_path):
    pack(read_folder(draw_photos(tmp_path / "photos", classes=15)), tmp_path / "packed.npz", 36, 90)
    weights = save_trunk(tmp_path / "trunk.safetensors")
    options = ["--crop=32", "--steps=1", "--seeds=1", "--recipes=2", f"--out={tmp_path}"]
    options += [f"--pack={tmp_path / 'packed.npz'}", f"--weights={weights}"]
    code, output = run_command(options, program=("-c", WITHOUT), devices=1)
    assert code == 0, output
    assert "| API-Net, random partners | 1 |" in output
    rows = (tmp_path / "rows.jsonl").read_text()
    assert len(rows.splitlines()) == 2 * (2 + 2 * 2) + 5
    code, _ = run_command(options, program=("-c", WITHOUT), devices=1)
    assert code == 0
    assert (tmp_path / "rows.jsonl").read_text() == rows
    options = [option for option in options if not option.startswith(("--steps", "--recipes"))]
    options += [f"--settings={tmp_path / 'rows.jsonl'}", f"--out={tmp_path / 'other'}"]
    code, output = run_command(options, program=("-c", WITHOUT), devices=1)
    assert code == 0, output
    assert len((tmp_path / "other/rows.jsonl").read_text().splitlines()) == 3
