"""Which images of each class leave a training split: a draw that never changes."""

import numpy as np
from jaxtyping import Bool, Int

# Second word of the Philox key: keeps these draws apart from every other use of the seed.
_SPLIT_STREAM = 0x73706C6974


def draw_stratified(
    labels: Int[np.ndarray, " N"], fraction: float, seed: int
) -> Bool[np.ndarray, " N"]:
    """Marks a part of every class.

    Of a class with n images the nearest whole number to `fraction * n` is drawn, but at least one
    and at most n - 1; a class with a single image gives none. The draw depends on the seed, the
    class and the number of its images only, through raw Philox words, which numpy never changes.

    Args:
        labels: Class of each image.
        fraction: Part to draw, in (0, 1).
        seed: Seed of the draw.

    Returns:
        True for the images that were drawn.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must lie between 0 and 1, not {fraction}")
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
