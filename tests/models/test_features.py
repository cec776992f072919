"""Real weights on real photos: what a linear classifier makes of our pooled features."""

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from apinet_jax.data.cache import ImageReader
from apinet_jax.data.catalog import open_dataset
from apinet_jax.data.pipeline import EvalLoader, stream
from apinet_jax.models import make_trunk, trunk_spec
from apinet_jax.models.layers import normalise
from apinet_jax.models.weights.files import read_safetensors
from apinet_jax.models.weights.torch_names import load_torch_tensors


@pytest.mark.slow
def test_logistic_regression_on_pooled_features(shared_dir):
    """Another implementation of this trunk, with the same weights and photos, gives 68.2 %."""
    dataset = open_dataset("folder", shared_dir / "data" / "cub50")
    spec, trunk = trunk_spec("squeezenet1_1"), make_trunk("squeezenet1_1")
    tensors = read_safetensors(shared_dir / "weights/squeezenet1_1_imagenet_notop.safetensors")
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32)
    shapes = jax.eval_shape(lambda x: trunk.init(jax.random.key(0), x, train=False), image)
    variables = load_torch_tensors(tensors, shapes, spec.classifier_prefixes)

    @jax.jit
    def pooled(images):
        return trunk.apply(variables, normalise(images, spec.mean, spec.std), False).mean((1, 2))

    def features(source):
        loader = EvalLoader(ImageReader(source, 256), 224, 50, np.arange(50))
        with stream(loader, 0, loader.num_batches) as batches:
            parts = [np.asarray(pooled(batch.image))[batch.mask] for batch in batches]
        return np.concatenate(parts)

    scaler = StandardScaler()
    train = scaler.fit_transform(features(dataset.train))
    classifier = LogisticRegression(max_iter=1000).fit(train, dataset.train.labels)
    test = scaler.transform(features(dataset.test))
    accuracy = 100 * classifier.score(test, dataset.test.labels)
    assert accuracy == pytest.approx(68.2, abs=1.0)
