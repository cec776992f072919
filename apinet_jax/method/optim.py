"""The optimizer; by default the authors' SGD with a cosine and a backbone that is frozen at first.

The update is that of PyTorch's SGD: decay is added to the gradient, momentum sums both without
damping, and the learning rate of the step scales the sum.
"""

from typing import Any, Literal

import jax
import optax

TRUNK = "trunk"
Rule = Literal["sgd", "adamw"]


def cosine_schedule(lr: float, total_steps: int, warmup_steps: int = 0) -> optax.Schedule:
    """Return lr/2 (1 + cos(pi step / total_steps)): `lr` at step 0, zero after the last step.

    Args:
        lr: Base rate.
        total_steps: Steps of the run.
        warmup_steps: Steps of a linear warm-up to the base rate; the cosine spans the others.
    """
    if not warmup_steps:
        return optax.cosine_decay_schedule(lr, total_steps)
    return optax.warmup_cosine_decay_schedule(lr / warmup_steps, lr, warmup_steps, total_steps)


def group_labels(params: dict[str, Any]) -> dict[str, Any]:
    """Label every leaf with its group: `trunk` for the backbone, `head` for everything else."""
    return {
        name: jax.tree.map(lambda _, name=name: TRUNK if name == TRUNK else "head", leaves)
        for name, leaves in params.items()
    }


def kernels(params: dict[str, Any]) -> dict[str, Any]:
    """Mask the kernels: not biases, scales of norms, tokens or position embeddings."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def make_optimizer(
    schedule: optax.Schedule,
    *,
    momentum: float,
    weight_decay: float,
    decay_bn_bias: bool,
    frozen_steps: int | None,
    rule: Rule = "sgd",
    nesterov: bool = False,
    head_lr_factor: float = 1.0,
) -> optax.GradientTransformation:
    """Return the optimizer of head and backbone; the backbone is frozen for `frozen_steps`.

    In a frozen backbone neither decay nor momentum accrues, and its gradient is ignored, as if
    PyTorch's `step` were not called for it. The schedule advances.

    Args:
        schedule: Learning rate of each step, for both groups.
        momentum: Decay of the sum of gradients; the first beta of AdamW.
        weight_decay: L2 penalty, added to the gradient; decoupled from it in AdamW.
        decay_bn_bias: Whether all parameters decay, as in the authors' program, or only kernels.
        frozen_steps: Steps in which the backbone is frozen; `None` if it never moves, and needs no
            state.
        rule: `sgd` with momentum (the authors' program) or `adamw`.
        nesterov: Whether to use Nesterov momentum.
        head_lr_factor: Learning rate of the head, relative to the schedule.

    Returns:
        The optimizer, for parameters with a `trunk` entry and head entries next to it.
    """

    def group(factor: float = 1.0) -> optax.GradientTransformation:
        decay = optax.add_decayed_weights(weight_decay, mask=None if decay_bn_bias else kernels)
        if rule == "adamw":
            parts = [optax.scale_by_adam(b1=momentum, nesterov=nesterov), decay]
        else:
            parts = [decay, optax.trace(decay=momentum, nesterov=nesterov)]
        return optax.chain(*parts, *([optax.scale(factor)] if factor != 1 else []))

    trunk = optax.set_to_zero() if frozen_steps is None else group()
    if frozen_steps:
        trunk = optax.transforms.conditionally_mask(trunk, lambda step: step >= frozen_steps)
    return optax.chain(
        optax.partition({TRUNK: trunk, "head": group(head_lr_factor)}, group_labels),
        optax.scale_by_learning_rate(schedule),
    )
