"""Real weights on real photos: what a linear classifier makes of our pooled features."""

import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import apinet_jax
from apinet_jax.data.catalog import open_dataset


@pytest.mark.slow
def test_logistic_regression_on_pooled_features(shared_dir):
    """Another implementation of this trunk, with the same weights and photos, gives 68.2 %."""
    dataset = open_dataset("folder", shared_dir / "data" / "cub50")
    weights = shared_dir / "weights/squeezenet1_1_imagenet_notop.safetensors"
    trunk = apinet_jax.load_trunk(weights)

    def features(source):
        return trunk.features([source.read(index) for index in range(len(source))])

    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    classifier.fit(features(dataset.train), dataset.train.labels)
    accuracy = 100 * classifier.score(features(dataset.test), dataset.test.labels)
    assert accuracy == pytest.approx(68.2, abs=1.0)
