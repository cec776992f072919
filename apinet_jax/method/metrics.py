"""Accuracies of a split, from the logits of all its images."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from apinet_jax.method.calibration import calibration_error, log_softmax

TOP = 5


class EvalSummary(NamedTuple):
    """Figures of an evaluation; accuracies are fractions between 0 and 1.

    Attributes:
        images: Images evaluated.
        top1: Share of images whose best class is the true one.
        top5: Share of images whose true class is among the five best.
        macro: Mean of the per-class accuracies, over the classes that have images.
        nll: Mean negative log-probability of the true class, in nats.
        ece: Expected calibration error of the probabilities, between 0 and 1.
        per_class: Accuracy of each class, `None` for one without images.
        confused: The two classes confused with each other most often, and how often (both ways).
    """

    images: int
    top1: float
    top5: float
    macro: float
    nll: float
    ece: float
    per_class: tuple[float | None, ...]
    confused: tuple[int, int, int]


def summarise(logits: Float[np.ndarray, "N C"], labels: Int[np.ndarray, " N"]) -> EvalSummary:
    """Return the accuracies and the calibration of a split.

    Among equal scores the lower class index ranks first, as for `argmax`.

    Args:
        logits: Scores of each image.
        labels: True class of each image.

    Raises:
        ValueError: There are no images.
    """
    images, num_classes = logits.shape
    if images == 0:
        raise ValueError("no image was evaluated")
    classes = np.arange(num_classes)
    confusion = np.zeros((num_classes, num_classes), int)  # true class by predicted class
    np.add.at(confusion, (labels, logits.argmax(axis=1)), 1)
    per_class_images, correct = confusion.sum(axis=1), np.diagonal(confusion)
    recall = [
        float(hits / n) if n else None for hits, n in zip(correct, per_class_images, strict=True)
    ]
    own = np.take_along_axis(logits, labels[:, None], axis=1)  # [N 1]
    ahead = ~(logits <= own) | ((logits == own) & (classes < labels[:, None]))  # NaN is ahead
    mistakes = np.triu(confusion + confusion.T, k=1)
    first, second = np.unravel_index(np.argmax(mistakes), mistakes.shape)
    return EvalSummary(
        images=images,
        top1=float(correct.sum() / images),
        top5=float((ahead.sum(axis=1) < TOP).mean()),
        macro=float(np.mean([accuracy for accuracy in recall if accuracy is not None])),
        nll=float(-np.take_along_axis(log_softmax(logits), labels[:, None], axis=1).mean()),
        ece=calibration_error(logits, labels),
        per_class=tuple(recall),
        confused=(int(first), int(second), int(mistakes[first, second])),
    )
