"""API-Net (Attentive Pairwise Interaction) for fine-grained image classification, in JAX and Flax.

The public API: `train`, `evaluate`, `load`, `load_trunk`, the module `config`, and the method's
pure pieces. Each is imported when it is first used, so that importing the package is fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from apinet_jax import config as config
    from apinet_jax.answers.trained_run import load as load
    from apinet_jax.evaluation import evaluate as evaluate
    from apinet_jax.method.interaction import APINet as APINet
    from apinet_jax.method.losses import pair_loss as pair_loss
    from apinet_jax.method.losses import score_ranking as score_ranking
    from apinet_jax.method.pairs import mine_pairs as mine_pairs
    from apinet_jax.models import make_trunk as make_trunk
    from apinet_jax.pretrained_trunk import load_trunk as load_trunk
    from apinet_jax.training import train as train

__version__ = "0.1.0"
"""The version of the package."""

_MODULE_OF = {
    "APINet": "apinet_jax.method.interaction",
    "evaluate": "apinet_jax.evaluation",
    "load": "apinet_jax.answers.trained_run",
    "load_trunk": "apinet_jax.pretrained_trunk",
    "make_trunk": "apinet_jax.models",
    "mine_pairs": "apinet_jax.method.pairs",
    "pair_loss": "apinet_jax.method.losses",
    "score_ranking": "apinet_jax.method.losses",
    "train": "apinet_jax.training",
}

__all__ = ["__version__", "config", *_MODULE_OF]  # noqa: PLE0604 - the keys are strings


def __getattr__(name: str) -> Any:
    if name == "config":
        return import_module("apinet_jax.config")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'apinet_jax' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
