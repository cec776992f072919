"""From the scores of a photo to its name, and how sure that is."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from apinet_jax.answers.prediction.taxonomy import Level, RolledUp, only_classes, roll_up
from apinet_jax.method.calibration import softmax

CONFIDENCE = 0.8
"""The least probability of a sure answer, unless the user asks for another one."""


class Naming(NamedTuple):
    """How scores become names.

    Attributes:
        class_names: Name of each class.
        temperature: Divisor of the logits.
        levels: From the classes to the coarsest groups; only the classes without a taxonomy.
        confidence: The least probability of an answer; `None` answers with the best class always.
        allowed: Labels that an answer may have; all if `None`.
    """

    class_names: tuple[str, ...]
    temperature: float = 1.0
    levels: tuple[Level, ...] = ()
    confidence: float | None = None
    allowed: tuple[int, ...] | None = None


class Answer(NamedTuple):
    """The name of a photo.

    Attributes:
        name: A class, a coarser group, or `unknown`.
        level: Its level in the taxonomy: `class` without one.
        probability: How probable it is; `None` for a photo that looks unknown.
        reason: Why it is not the best class, or why that is sure enough.
        labels: The classes that it covers; none for `unknown`.
        best: Label and probability of the most probable classes, best first.
        score: How known it looks, where photos may be unknown: higher for known classes.
    """

    name: str
    level: str
    probability: float | None
    reason: str
    labels: tuple[int, ...]
    best: tuple[tuple[int, float], ...]
    score: float | None = None


def name_rows(logits: Float[np.ndarray, "N C"], naming: Naming, top: int = 5) -> list[Answer]:
    """Return the answer for each row of scores.

    Args:
        logits: Scores of the classes.
        naming: How they become names.
        top: Classes to list of each.
    """
    probability = probabilities(logits, naming)
    order = np.argsort(-probability, axis=1, kind="stable")
    if naming.allowed is not None:
        order = order[:, : len(naming.allowed)]  # the others have none
    return [
        _answer(row, best[: max(top, 1)].tolist(), naming)
        for row, best in zip(probability, order, strict=True)
    ]


def probabilities(logits: Float[np.ndarray, "N C"], naming: Naming) -> Float[np.ndarray, "N C"]:
    """Return calibrated probabilities; classes that are not allowed have none of it."""
    if naming.allowed is None:
        return softmax(logits, naming.temperature)
    allowed = list(naming.allowed)
    probability = np.zeros(logits.shape)
    probability[:, allowed] = softmax(logits[:, allowed], naming.temperature)
    return probability


def _answer(probability: Float[np.ndarray, " C"], best: Sequence[int], naming: Naming) -> Answer:
    levels = naming.levels or only_classes(naming.class_names)
    if naming.confidence is None:
        label = best[0]
        found = RolledUp(
            naming.class_names[label], levels[0].name, float(probability[label]), (label,), ""
        )
    else:
        found = roll_up(probability, levels, naming.confidence)
    return Answer(
        found.name,
        found.level,
        found.probability,
        found.reason,
        found.labels,
        tuple((label, float(probability[label])) for label in best),
    )
