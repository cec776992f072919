"""Real weights on real photos: what a linear classifier makes of our pooled features."""

import os
import subprocess
import sys

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

PROGRAM = """
import sys
import numpy as np
import apinet_jax
from apinet_jax.data.catalog import open_dataset

photos, weights, file = sys.argv[1:]
dataset, trunk = open_dataset("folder", photos), apinet_jax.load_trunk(weights)
features = {}
for split, source in (("train", dataset.train), ("test", dataset.test)):
    features[split] = trunk.features([source.read(index) for index in range(len(source))])
    features[f"{split}_labels"] = source.labels
np.savez(file, **features)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ("squeezenet1_1_imagenet_notop", 68.2),
        ("tf_efficientnet_lite0_imagenet", 78.0),
    ],
)
def test_logistic_regression_on_pooled_features(weights, expected, shared_dir, tmp_path):
    """Other implementations of these trunks, with the same weights and photos, give as much."""
    arguments = shared_dir / "data/cub50", shared_dir / f"weights/{weights}.safetensors"
    # The tests compile without optimisation (tests/conftest.py): too slow for 3,000 photos.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    file = tmp_path / "features.npz"
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments), str(file)]
    subprocess.run(command, check=True, env=environment)
    features = np.load(file)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    classifier.fit(features["train"], features["train_labels"])
    accuracy = 100 * classifier.score(features["test"], features["test_labels"])
    assert accuracy == pytest.approx(expected, abs=1.0)
