"""Held-out images: a draw from each class of the training split that never changes."""

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Int

from apinet_jax.data.source import Dataset
from apinet_jax.system.errors import InputError

# Second word of the Philox key: makes these draws independent of other uses of the seed.
_SPLIT_STREAM = 0x73706C6974


def draw_stratified(
    labels: Int[np.ndarray, " N"], fraction: float, seed: int
) -> Bool[np.ndarray, " N"]:
    """Draw a part of every class.

    Of a class with n images the nearest whole number to `fraction * n` is drawn, but at least one
    and at most n - 1; a class with a single image gives none. The draw depends only on the seed,
    the class and the number of its images, through raw Philox words, which numpy never changes.

    Args:
        labels: Class of each image.
        fraction: Part to draw, in (0, 1).
        seed: Seed of the draw.

    Returns:
        True for the images that were drawn.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must be between 0 and 1, not {fraction}")
    drawn = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = min(max(int(fraction * len(members) + 0.5), 1), len(members) - 1)
        philox = np.random.Philox(
            key=np.array([seed & (1 << 64) - 1, _SPLIT_STREAM], np.uint64),
            counter=np.array([0, 0, label, 0], np.uint64),
        )
        order = np.argsort(philox.random_raw(len(members)), kind="stable")
        drawn[members[order[:count]]] = True
    return drawn


def hold_out(dataset: Dataset, fraction: float, seed: int) -> Dataset:
    """Move a stratified part of the training images into the validation split.

    Every class keeps at least one training image, and a class with a single one gives none. The
    draw depends only on the labels, the fraction and the seed. A data set that has its own
    validation split is returned as it is, and so is any if the fraction is 0.

    Args:
        dataset: The data set to draw from.
        fraction: Part of each class to move, in [0, 1).
        seed: Seed of the draw.

    Raises:
        InputError: No class has more than one image.
    """
    if dataset.validation is not None or fraction == 0:
        return dataset
    drawn = draw_stratified(dataset.train.labels, fraction, seed)
    if not drawn.any():
        raise InputError(
            f"data.val_fraction = {fraction} holds out no image: every class has a single training "
            "image, which it keeps. Set data.val_fraction=0, or add photos."
        )
    return replace(
        dataset,
        train=dataset.train.subset(np.flatnonzero(~drawn)),
        validation=dataset.train.subset(np.flatnonzero(drawn)),
    )
