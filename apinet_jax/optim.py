"""The authors' optimizer: SGD in two groups, a cosine over the run, a backbone frozen at first.

It is the update of PyTorch's SGD: decay joins the gradient, momentum sums them without damping,
and the learning rate of the step scales the whole.
"""

from typing import Any

import jax
import optax

TRUNK = "trunk"


def cosine_schedule(lr: float, total_steps: int) -> optax.Schedule:
    """lr/2 (1 + cos(pi step / total_steps)): the base rate at step 0, zero after the last step."""
    return optax.cosine_decay_schedule(lr, total_steps)


def group_labels(params: dict[str, Any]) -> dict[str, Any]:
    """Labels every leaf with its group: `trunk` for the backbone, `head` for all the rest."""
    return {
        name: jax.tree.map(lambda _, name=name: TRUNK if name == TRUNK else "head", leaves)
        for name, leaves in params.items()
    }


def make_optimizer(
    schedule: optax.Schedule,
    *,
    momentum: float,
    weight_decay: float,
    decay_bn_bias: bool,
    frozen_steps: int,
) -> optax.GradientTransformation:
    """SGD with momentum for head and backbone, the latter standing still for `frozen_steps`.

    While the backbone stands still neither decay nor momentum accrues in it and its gradient is
    not looked at, as when its optimizer's `step` is not called. The schedule runs on.

    Args:
        schedule: Learning rate of each step, for both groups.
        momentum: Share of the summed updates that the next step keeps.
        weight_decay: L2 penalty, added to the gradient.
        decay_bn_bias: Whether the decay includes BatchNorm parameters and biases (the authors do).
        frozen_steps: Steps before the backbone starts to move.

    Returns:
        The optimizer, for parameters with a `trunk` entry and head entries beside it.
    """

    def sgd() -> optax.GradientTransformation:
        decayed = None if decay_bn_bias else lambda tree: jax.tree.map(lambda x: x.ndim > 1, tree)
        return optax.chain(
            optax.add_decayed_weights(weight_decay, mask=decayed), optax.trace(decay=momentum)
        )

    trunk = sgd()
    if frozen_steps:
        trunk = optax.transforms.conditionally_mask(trunk, lambda step: step >= frozen_steps)
    return optax.chain(
        optax.partition({TRUNK: trunk, "head": sgd()}, group_labels),
        optax.scale_by_learning_rate(schedule),
    )
