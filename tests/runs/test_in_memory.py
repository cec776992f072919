"""Training in memory, as in `benchmarks/`, gives the weights of an ordinary run."""

import jax
import numpy as np
import pytest
from same_runs import program_of
from tiny_runs import config_for, draw_photos, save_trunk, train

from apinet_jax.feature_cache import cached_features
from apinet_jax.method.optim import TRUNK
from apinet_jax.setup.build import fresh_state, load_pretrained
from apinet_jax.setup.loaders import make_reader
from apinet_jax.workdir.checkpoint import load_weights
from benchmarks.in_memory import Trainer


@pytest.mark.parametrize("kind", ["compute", "cache"])
def test_weights_equal_those_of_a_run(kind, tmp_path):
    weights = save_trunk(tmp_path / "trunk.safetensors")
    photos = draw_photos(tmp_path / "photos")
    settings = {"model__pretrained": str(weights), "train__features": kind, "optim__epochs": 2.0}
    train(config_for(photos, **settings), tmp_path / "run")
    config, dataset, mesh, program = program_of(tmp_path / "run", None, 1)
    reader = make_reader(config, dataset.train, dataset.fingerprint)
    images = np.stack([reader(index) for index in range(len(dataset.train))])
    if kind == "cache":
        state = fresh_state(config, program, mesh)
        state = load_pretrained(state, config.model.trunk, str(weights))
        images = cached_features(config, dataset, program, state, mesh, lambda: None).train
    trainer = Trainer(config, len(dataset.train), len(dataset.class_names))
    state = trainer.train(images, dataset.train.labels, config.seed)
    found, expected = dict(state.params), load_weights(tmp_path / "run")
    if kind == "cache":  # then only the head
        found[TRUNK] = expected.params[TRUNK]
    jax.tree.map(np.testing.assert_array_equal, found, expected.params)
    if kind == "compute":
        jax.tree.map(np.testing.assert_array_equal, state.batch_stats, expected.batch_stats)
    assert np.isfinite(trainer.logits(state, images[0] if kind == "cache" else images)).all()
