"""The optimizer, by default the authors': SGD in two groups, a cosine, a backbone frozen at first.

It is the update of PyTorch's SGD: decay joins the gradient, momentum sums them without damping,
and the learning rate of the step scales the whole.
"""

from typing import Any, Literal

import jax
import optax

TRUNK = "trunk"
Rule = Literal["sgd", "adamw"]


def cosine_schedule(lr: float, total_steps: int, warmup_steps: int = 0) -> optax.Schedule:
    """lr/2 (1 + cos(pi step / total_steps)): the base rate at step 0, zero after the last step.

    Args:
        lr: Base rate.
        total_steps: Steps of the run.
        warmup_steps: Steps in which the rate rises in a line to the base rate; the cosine then
            spans what is left.
    """
    if not warmup_steps:
        return optax.cosine_decay_schedule(lr, total_steps)
    return optax.warmup_cosine_decay_schedule(lr / warmup_steps, lr, warmup_steps, total_steps)


def group_labels(params: dict[str, Any]) -> dict[str, Any]:
    """Labels every leaf with its group: `trunk` for the backbone, `head` for all the rest."""
    return {
        name: jax.tree.map(lambda _, name=name: TRUNK if name == TRUNK else "head", leaves)
        for name, leaves in params.items()
    }


def kernels(params: dict[str, Any]) -> dict[str, Any]:
    """Tells which leaves are kernels: no biases, scales of norms, tokens, position embeddings."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def make_optimizer(
    schedule: optax.Schedule,
    *,
    momentum: float,
    weight_decay: float,
    decay_bn_bias: bool,
    frozen_steps: int,
    rule: Rule = "sgd",
    nesterov: bool = False,
    head_lr_factor: float = 1.0,
) -> optax.GradientTransformation:
    """One rule for head and backbone, the latter standing still for `frozen_steps`.

    While the backbone stands still neither decay nor momentum accrues in it and its gradient is
    not looked at, as when its optimizer's `step` is not called. The schedule runs on.

    Args:
        schedule: Learning rate of each step, for both groups.
        momentum: Share of the summed updates that the next step keeps; AdamW's first beta.
        weight_decay: L2 penalty, added to the gradient; with AdamW decoupled from it.
        decay_bn_bias: Whether the decay includes all parameters (the authors' does), and not the
            kernels alone.
        frozen_steps: Steps before the backbone starts to move.
        rule: `sgd` with momentum (the authors) or `adamw`.
        nesterov: Whether momentum looks ahead.
        head_lr_factor: Rate of the head, in units of the rate.

    Returns:
        The optimizer, for parameters with a `trunk` entry and head entries beside it.
    """

    def group(factor: float = 1.0) -> optax.GradientTransformation:
        decay = optax.add_decayed_weights(weight_decay, mask=None if decay_bn_bias else kernels)
        if rule == "adamw":
            parts = [optax.scale_by_adam(b1=momentum, nesterov=nesterov), decay]
        else:
            parts = [decay, optax.trace(decay=momentum, nesterov=nesterov)]
        return optax.chain(*parts, *([optax.scale(factor)] if factor != 1 else []))

    trunk = group()
    if frozen_steps:
        trunk = optax.transforms.conditionally_mask(trunk, lambda step: step >= frozen_steps)
    return optax.chain(
        optax.partition({TRUNK: trunk, "head": group(head_lr_factor)}, group_labels),
        optax.scale_by_learning_rate(schedule),
    )
