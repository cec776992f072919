"""The demo: procedurally drawn birds, 12 species in 4 genera, from scratch on a laptop.

python -m apinet_jax.main --config configs/demo.py
"""

from apinet_jax.config import default_config


def get_config(preset: str = "code"):
    config = default_config(preset)
    config.data.name = "birds"
    config.data.resize, config.data.crop = 144, 128
    config.data.cache = "disk"
    config.batch.classes, config.batch.images = 12, 4
    config.model.trunk = "resnet10_w16"
    config.optim.lr = 0.1  # the best of four for both methods, on held-out images; docs/results.md
    config.optim.epochs = 80.0
    config.optim.frozen_epochs = 0.0
    return config
