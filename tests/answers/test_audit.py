"""Suspicious images, against values computed by hand."""

import numpy as np
import pytest

from apinet_jax.answers import audit
from apinet_jax.answers.audit import Images, audit_images, mistakenness, nearest, neighbour_votes


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


def test_few_images_have_fewer_neighbours():
    assert nearest(np.eye(1))[0].shape == (1, 0)
    assert nearest(np.eye(3))[0].shape == (3, 2)


def test_votes_are_weighted_by_cosine():
    neighbours = np.array([[1, 2], [0, 2], [0, 1]])
    cosine = np.array([[0.9, 0.83], [0.9, 0.9], [0.83, 0.9]])
    votes = neighbour_votes(neighbours, cosine, np.array([0, 0, 1]), 2)
    # A cosine lower by 0.07 has a vote lower by a factor e. The own label has none.
    weight = 1 / (1 + np.exp(-1))
    np.testing.assert_allclose(votes, [[weight, 1 - weight], [0.5, 0.5], [1, 0]])


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
    assert found.scored_by == {"train": "neighbours", "test": "network"}
    files = [(one.image.file_name, one.suggested) for one in found.label_errors]
    assert set(files) == {("train/3.jpg", 0), ("test/a.jpg", 0)}
    assert found.label_errors[0].mistakenness >= found.label_errors[1].mistakenness > 0.5
    (pair,) = found.near_duplicates
    assert (pair.first.file_name, pair.second.file_name) == ("train/0.jpg", "test/a.jpg")
    assert (pair.across_splits, pair.across_classes) == (True, True)
    assert pair.cosine == pytest.approx(1, abs=1e-5)
    assert found.repeated == 1
    assert found.outliers[0].image.file_name == "test/b.jpg"
    assert len(found.outliers) == 42


def test_one_image():
    found = audit_images({"train": Images(np.ones((1, 4)), np.array([0]), ["a.jpg"], None)}, 1)
    assert found.label_errors == found.near_duplicates == []
    assert found.likely_errors == 0


def test_run_scores_test_images_by_the_network(run):
    found = run.audit()
    assert found.scored_by == {"train": "neighbours", "validation": "network", "test": "network"}
    bank = run.bank("test")
    wrong = (bank.logits.argmax(axis=1) != bank.labels).sum()
    assert sum(one.image.split == "test" for one in found.label_errors) == wrong
    assert found.images == sum(len(source) for source in run.dataset.splits.values())
    assert audit.LIKELY <= 1
