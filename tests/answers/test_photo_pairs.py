"""Comparison of two photos by a run."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

import apinet_jax
from apinet_jax.answers.pairs.scores import agreement, cosine, interaction_logits, pair_scores
from apinet_jax.system.errors import InputError
from benchmarks.pair_metrics import all_pairs


def test_agreement_of_two_classes():
    half, third = np.log([[1.0, 1.0]]), np.log([[2.0, 1.0]])
    np.testing.assert_allclose(agreement(half, third), np.log(1 / 2))
    np.testing.assert_allclose(agreement(third, third), np.log(5 / 9))


def test_cosine():
    found = cosine(np.array([[3.0, 4], [1, 0], [0, 0]]), np.array([[4.0, 3], [0, 1], [1, 1]]))
    np.testing.assert_allclose(found, [24 / 25, 0, 0])


def test_score_is_symmetric_to_the_bit(run, softmax_run):
    features = run.bank("test").features
    pairs = all_pairs(len(features))
    for one in (run, softmax_run):
        expected = pair_scores(one, features, pairs)
        np.testing.assert_array_equal(pair_scores(one, features, pairs[:, ::-1]), expected)


def test_interaction_is_the_mean_over_gates_and_orders(run):
    x_1, x_2 = np.split(run.bank("test").features[:6], 2)
    (g_1, g_2), (back_2, back_1) = run.gates(x_1, x_2), run.gates(x_2, x_1)
    gate = (g_1 + g_2 + back_1 + back_2) / 4
    for found, x in zip(interaction_logits(run, x_1, x_2), (x_1, x_2), strict=True):
        np.testing.assert_allclose(found, x * (1 + gate) @ run.kernel + run.bias, rtol=1e-4)


def test_many_pairs_in_parts(run, monkeypatch):
    features, pairs = run.bank("test").features, all_pairs(5)
    expected = pair_scores(run, features, pairs)
    monkeypatch.setattr("apinet_jax.answers.pairs.scores.PAIRS_AT_ONCE", 3)
    np.testing.assert_allclose(pair_scores(run, features, pairs), expected, rtol=1e-5)


def test_compare(run, photos):
    a, b = photos / "test/class0/0.png", str(photos / "test/class1/0.png")
    found, swapped = run.compare(a, b), run.compare(b, a)
    assert found.same == pytest.approx(swapped.same, rel=1e-4)
    assert found.class_1[0] == swapped.class_2[0]
    assert 0 < found.same < 1
    assert found.prior == 0.5
    name, probability = run.predict([a], top=1)[0][0]
    assert found.class_1 == (name, pytest.approx(probability, rel=1e-4))
    assert "held-out" in found.calibration
    rare = run.compare(a, b, prior=0.01)
    odds = [one.same / (1 - one.same) for one in (rare, found)]
    assert odds[0] == pytest.approx(odds[1] / 99)


def test_many_pairs_equal_single_ones(run, photos):
    names = [photos / f"test/class{label}/{number}.png" for label in (0, 1) for number in (0, 1)]
    pairs = [(names[0], names[1]), (names[1], names[2]), (names[0], names[3])]
    for pair, found in zip(pairs, run.compare_pairs(pairs), strict=True):
        assert found.same == pytest.approx(run.compare(*pair).same, rel=1e-4)
    assert run.compare_pairs([]) == []


def test_softmax_run_compares_without_gates(softmax_run, photos):
    a, b = photos / "test/class0/0.png", photos / "test/class1/0.png"
    expected = agreement(*(softmax_run.logits([x]) / softmax_run.temperature for x in (a, b)))
    found = softmax_run.compare(a, b)
    assert found.score == pytest.approx(float(expected[0]), rel=1e-4)
    assert 0 < found.same < 1


def test_missing_photo(run, photos):
    with pytest.raises(InputError, match=r"nothing\.png cannot be read"):
        run.compare(photos / "test/class0/0.png", photos / "nothing.png")


def test_run_without_held_out_images(uncalibrated_workdir, photos):
    found = apinet_jax.load(uncalibrated_workdir)
    a, b = photos / "test/class0/0.png", photos / "test/class1/0.png"
    answer = found.compare(a, b)
    assert answer.same is None
    assert answer.score < 0
    assert "no held-out images" in answer.calibration
    assert "data.val_fraction" in answer.calibration


def test_run_without_its_photos(workdir, photos, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy, ignore=shutil.ignore_patterns("answers"))
    found = apinet_jax.load(copy, data_dir=str(tmp_path / "missing"))
    answer = found.compare(photos / "test/class0/0.png", photos / "test/class1/0.png")
    assert answer.same is None
    assert "cannot be opened" in answer.calibration
    assert "--data-dir" in answer.calibration


def test_images_of_a_validation_folder_calibrate(uncalibrated_workdir, photos, tmp_path):
    copy = shutil.copytree(uncalibrated_workdir, tmp_path / "run")
    run = apinet_jax.load(copy)  # its data.val_fraction is 0
    run.dataset = replace(run.dataset, validation=run.dataset.test)
    photo = photos / "test/class0/0.png"
    assert run.compare(photo, photo).same is not None
