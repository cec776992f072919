"""Suspicious images, against values computed by hand."""

import tracemalloc

import numpy as np
import pytest

from apinet_jax.answers.audits import audit, label_errors
from apinet_jax.answers.audits.audit import Images, audit_images, nearest
from apinet_jax.answers.audits.label_errors import mistakenness, out_of_fold


def test_mistakenness():
    probability = np.array([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5], [0.25, 0.75]])
    found = mistakenness(probability, np.array([0, 1, 0, 0]))
    # Entropies 0, 0, ln 2 and 0.25 ln 4 + 0.75 ln(4/3).
    certainty = np.exp(-(0.25 * np.log(4) + 0.75 * np.log(4 / 3)))
    np.testing.assert_allclose(found, [0, 1, 0.25, (1 + certainty) / 2])


def test_nearest_leaves_the_image_itself_out():
    angles = np.deg2rad([0, 10, 180, 190])  # their mean is almost the origin
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    index, cosine = nearest(points, 2)
    assert index[:, 0].tolist() == [1, 0, 3, 2]
    np.testing.assert_allclose(cosine[:, 0], np.cos(np.deg2rad(10)), atol=1e-6)
    assert (cosine[:, 1] < 0).all()


def test_copies_are_each_others_nearest():
    features = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
    features[20:] = features[:10]
    index, cosine = nearest(features, 3)
    assert index[:10, 0].tolist() == list(range(20, 30))
    np.testing.assert_allclose(cosine[:10, 0], 1, atol=1e-5)


def test_neighbours_of_all_images_need_not_fit_into_memory(monkeypatch):
    features = np.random.default_rng(0).normal(size=(600, 2000)).astype(np.float32)  # 5 MB
    nearest(features[:20])  # imports
    peaks = []
    for rows in (50, 600):
        monkeypatch.setattr(audit, "_ROWS", rows)
        tracemalloc.start()
        nearest(features)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[0] < peaks[1] - 10e6


def test_few_images_have_fewer_neighbours():
    assert nearest(np.eye(1))[0].shape == (1, 0)
    assert nearest(np.eye(3))[0].shape == (3, 2)


def test_label_does_not_influence_its_own_probability():
    features = np.random.default_rng(0).normal(size=(20, 3)) + np.repeat([[0], [9]], 10, axis=0)
    labels = np.repeat([0, 1], 10)
    expected = out_of_fold(features, labels, 2)
    assert (expected.argmax(axis=1) == labels).all()
    labels[4] = 1
    found = out_of_fold(features, labels, 2)
    assert found[4, 0] > 0.9
    np.testing.assert_allclose(found.sum(axis=1), 1)


def test_discriminant_is_fishers():
    # Both classes have the covariance I / 2, and shrinkage keeps a multiple of I.
    square = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])
    features = np.concatenate([square, square + np.array([4, 0])]).astype(float)
    weights, bias = label_errors._discriminant(features, np.repeat([0, 1], 4))
    np.testing.assert_allclose(weights, [[0, 8], [0, 0]], atol=1e-9)  # 2 x mean
    np.testing.assert_allclose(bias, np.log(0.5) - np.array([0, 16]), atol=1e-9)


def test_only_image_of_a_class_is_not_doubted():
    features = np.random.default_rng(0).normal(size=(9, 4))
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2])
    np.testing.assert_array_equal(out_of_fold(features, labels, 4)[8], [0, 0, 1, 0])


def test_many_copies_are_duplicates():
    features = np.random.default_rng(0).normal(size=(40, 8))
    features[:14] = features[0]
    train = Images(features, np.zeros(40, int), [str(i) for i in range(40)], None)
    assert audit_images({"train": train}, 1).repeated >= 14 * 10 / 2


@pytest.fixture
def splits():
    """Two clusters of 20 training images; test image 0 is a copy with another label."""
    random = np.random.default_rng(1)
    centres = 10 * np.eye(2, 16)
    labels = np.repeat([0, 1], 20)
    features = centres[labels] + random.normal(size=(40, 16))
    labels[3] = 1  # a planted error
    features[7] = features[8]  # a repeated image
    train = Images(features, labels, [f"train/{i}.jpg" for i in range(40)], None)
    copy = np.stack([features[0], 40 * np.ones(16)])
    probability = np.array([[0.9, 0.1], [0.0, 1.0]])
    test = Images(copy, np.array([1, 1]), ["test/a.jpg", "test/b.jpg"], probability)
    return {"train": train, "test": test}


def test_planted_errors_are_found(splits):
    found = audit_images(splits, 2)
    assert found.images == 42
    assert found.scored_by == {"train": "folds", "test": "network"}
    files = [(one.image.file_name, one.suggested) for one in found.label_errors]
    assert set(files) == {("train/3.jpg", 0), ("test/a.jpg", 0)}
    assert found.label_errors[0].own <= found.label_errors[1].own < 0.5
    (pair,) = found.near_duplicates
    assert (pair.first.file_name, pair.second.file_name) == ("train/0.jpg", "test/a.jpg")
    assert (pair.across_splits, pair.across_classes) == (True, True)
    assert pair.cosine == pytest.approx(1, abs=1e-5)
    assert pair.ratio == 0
    assert found.repeated == 1
    assert found.outliers[0].image.file_name == "test/b.jpg"
    assert len(found.outliers) == 42


def test_outliers():
    # Two clusters in opposite directions and one image on either side: the mean is the origin.
    east, north = np.eye(2)
    features = np.stack([east, -east] * 12 + [north, -north])
    images = Images(features, np.zeros(26, int), [str(i) for i in range(26)], None)
    outliers = audit_images({"train": images}, 1).outliers
    assert {one.image.index for one in outliers[:2]} == {24, 25}
    # Ten neighbours of an image have its direction, those of an outlier are at right angles.
    np.testing.assert_allclose([one.distance for one in outliers], [1, 1] + [0] * 24, atol=1e-6)


def test_one_image():
    found = audit_images({"train": Images(np.ones((1, 4)), np.array([0]), ["a.jpg"], None)}, 1)
    assert found.label_errors == found.near_duplicates == []
    assert found.likely_errors == 0


def test_run_scores_test_images_by_the_network(run):
    found = run.audit()
    assert found.scored_by == {"train": "folds", "validation": "network", "test": "network"}
    bank = run.bank("test")
    wrong = (bank.logits.argmax(axis=1) != bank.labels).sum()
    assert sum(one.image.split == "test" for one in found.label_errors) == wrong
    assert found.images == sum(len(source) for source in run.dataset.splits.values())
    assert audit.LIKELY <= 1
