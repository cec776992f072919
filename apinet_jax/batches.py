"""Photos through a compiled function, in batches of few sizes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from apinet_jax.system.errors import InputError, explain_out_of_memory


def in_batches(
    function: Callable[[UInt8[np.ndarray, "B H W 3"]], Any],
    pixels: Callable[[slice], UInt8[np.ndarray, "B H W 3"]],
    count: int,
    size: int,
    advice: str,
) -> Any:
    """Apply a compiled function to photos, and join its results.

    Batches are padded to a power of two, or to `size`: few programs are compiled, whatever the
    number of photos.

    Args:
        function: From the pixels of a batch to arrays with one row for each image.
        pixels: Returns the pixels of some photos.
        count: Number of photos.
        size: Most photos in a batch.
        advice: Full sentences: which settings need less memory.

    Raises:
        InputError: If there are no photos.
        RunError: If the device runs out of memory.
    """
    if count == 0:
        raise InputError("There are no photos to classify: the sequence is empty.")
    parts = []
    with explain_out_of_memory(advice):
        for first in range(0, count, size):
            images = pixels(slice(first, min(first + size, count)))
            padded = min(size, 1 << (len(images) - 1).bit_length())
            padding = ((0, padded - len(images)), (0, 0), (0, 0), (0, 0))
            found = function(np.pad(images, padding))
            parts.append(jax.tree.map(partial(_first, len(images)), found))
    return jax.tree.map(lambda *some: np.concatenate(some), *parts)


def _first(count: int, rows: jax.Array) -> np.ndarray:
    return np.asarray(rows)[:count]
