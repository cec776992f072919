"""Evaluation as masked sums: padding counts nothing, so every image counts exactly once."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from apinet_jax.method.calibration import calibration_error
from apinet_jax.method.losses import cross_entropy


class EvalSums(NamedTuple):
    """Sums over the images seen so far; adding two of them field by field joins their images.

    Attributes:
        confusion: Images of true class i (row) that were given class j (column).
        top5: Images whose true class is among the five best.
        nll: Sum of the negative log-probabilities of the true class.
    """

    confusion: Int[Array, "C C"]
    top5: Int[Array, ""]
    nll: Float[Array, ""]


def eval_sums(
    logits: Float[Array, "B C"], labels: Int[Array, " B"], mask: Bool[Array, " B"]
) -> EvalSums:
    """The sums of one batch.

    Args:
        logits: Scores of each image.
        labels: True class of each image.
        mask: False for padding.

    Returns:
        Sums over the unmasked rows.
    """
    num_classes = logits.shape[1]
    predicted = jnp.argmax(logits, axis=1)
    confusion = (
        jnp.zeros((num_classes, num_classes), jnp.int32)
        .at[labels, predicted]
        .add(mask.astype(jnp.int32))
    )
    _, best = jax.lax.top_k(logits, min(5, num_classes))
    in_top5 = mask & jnp.any(best == labels[:, None], axis=1)
    nll = jnp.sum(jnp.where(mask, cross_entropy(logits, labels), 0))
    return EvalSums(confusion, jnp.sum(in_top5, dtype=jnp.int32), nll)


class EvalSummary(NamedTuple):
    """What a person wants to know of an evaluation; accuracies are fractions between 0 and 1.

    Attributes:
        images: Images evaluated.
        top1: Share of images whose best class is the true one.
        top5: Share of images whose true class is among the five best.
        macro: Mean of the per-class accuracies, over the classes that have images.
        nll: Mean negative log-probability of the true class, in nats.
        ece: Expected calibration error of the probabilities, between 0 and 1.
        per_class: Accuracy of each class, `None` for one without images.
        confused: The two classes mistaken for each other most often, and how often (both ways).
    """

    images: int
    top1: float
    top5: float
    macro: float
    nll: float
    ece: float
    per_class: tuple[float | None, ...]
    confused: tuple[int, int, int]


def summarise(
    sums: EvalSums, logits: Float[np.ndarray, "N C"], labels: Int[np.ndarray, " N"]
) -> EvalSummary:
    """Turns the sums of a whole split into accuracies.

    Args:
        sums: The sums.
        logits: Scores of every image that they count.
        labels: True class of each.

    Raises:
        ValueError: If no image was counted.
    """
    confusion = np.asarray(sums.confusion)
    per_class_images = confusion.sum(axis=1)
    images = int(per_class_images.sum())
    if images == 0:
        raise ValueError("no image was evaluated")
    correct = np.diagonal(confusion)
    seen = per_class_images > 0
    recall = correct[seen] / per_class_images[seen]
    accuracy = iter(recall.tolist())
    mistakes = np.triu(confusion + confusion.T, k=1)
    first, second = np.unravel_index(np.argmax(mistakes), mistakes.shape)
    return EvalSummary(
        images=images,
        top1=float(correct.sum() / images),
        top5=float(np.asarray(sums.top5) / images),
        macro=float(recall.mean()),
        nll=float(np.asarray(sums.nll) / images),
        ece=calibration_error(logits, labels),
        per_class=tuple(next(accuracy) if has_images else None for has_images in seen),
        confused=(int(first), int(second), int(mistakes[first, second])),
    )
