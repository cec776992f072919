"""Training in memory, as in `benchmarks/`, gives the weights of an ordinary run."""

import jax
import numpy as np
import pytest
from same_runs import program_of
from tiny_runs import config_for, draw_photos, save_trunk, train

from apinet_jax.setup.loaders import make_reader
from apinet_jax.workdir.checkpoint import load_weights
from benchmarks.in_memory import Trainer


@pytest.mark.slow
def test_weights_equal_those_of_a_run(tmp_path):
    """On pixels; tests/runs/test_feature_cache.py does the same on features."""
    weights = save_trunk(tmp_path / "trunk.safetensors")
    photos = draw_photos(tmp_path / "photos")
    settings = {"model__pretrained": str(weights), "optim__epochs": 2.0}
    train(config_for(photos, **settings), tmp_path / "run")
    config, dataset, _, _ = program_of(tmp_path / "run", None, 1)
    reader = make_reader(config, dataset.train, dataset.fingerprint)
    images = np.stack([reader(index) for index in range(len(dataset.train))])
    trainer = Trainer(config, len(dataset.train), len(dataset.class_names))
    state = trainer.train(images, dataset.train.labels, config.seed)
    expected = load_weights(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, state.params, expected.params)
    jax.tree.map(np.testing.assert_array_equal, state.batch_stats, expected.batch_stats)
    assert np.isfinite(trainer.logits(state, images)).all()
