"""Real weights on real photos: what a linear classifier makes of our pooled features."""

import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import apinet_jax
from apinet_jax.data.catalog import open_dataset


@pytest.mark.slow
@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ("squeezenet1_1_imagenet_notop", 68.2),
        ("tf_efficientnet_lite0_imagenet", 78.0),
    ],
)
def test_logistic_regression_on_pooled_features(weights, expected, shared_dir):
    """Other implementations of these trunks, with the same weights and photos, give as much."""
    dataset = open_dataset("folder", shared_dir / "data" / "cub50")
    trunk = apinet_jax.load_trunk(shared_dir / "weights" / f"{weights}.safetensors")

    def features(source):
        return trunk.features([source.read(index) for index in range(len(source))])

    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    classifier.fit(features(dataset.train), dataset.train.labels)
    accuracy = 100 * classifier.score(features(dataset.test), dataset.test.labels)
    assert accuracy == pytest.approx(expected, abs=1.0)
