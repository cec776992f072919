"""The trunk's pass over a batch: at once, or in parts that need less memory."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped, UInt8

from apinet_jax.method.interaction import APINet
from apinet_jax.models.layers import normalise


class Preprocess(NamedTuple):
    """Pixel statistics of the trunk's weights (in units of 0 to 1), and its compute type."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    dtype: Any = jnp.float32


def split_batch(
    x: Shaped[Array, "B *rest"], chunks: int, shards: int
) -> Shaped[Array, "n b *rest"]:
    """Cuts a batch into chunks that every device has its share of, so that none is idle.

    A device holds consecutive rows, and a chunk is made of some of each device's.

    Args:
        x: The batch, sharded by row.
        chunks: How many chunks, `n`.
        shards: Devices that it is sharded over.
    """
    x = x.reshape(shards, chunks, -1, *x.shape[1:])  # [shards n b/shards *rest]
    return jnp.swapaxes(x, 0, 1).reshape(chunks, -1, *x.shape[3:])


def join_batch(x: Shaped[Array, "n b *rest"], shards: int) -> Shaped[Array, "B *rest"]:
    """Puts the rows of chunks back to where `split_batch` took them."""
    x = x.reshape(x.shape[0], shards, -1, *x.shape[2:])  # [n shards b/shards *rest]
    return jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[3:])


def trunk_features(
    model: APINet,
    variables: dict[str, Any],
    images: UInt8[Array, "B H W 3"],
    preprocess: Preprocess,
    microbatches: int,
    shards: int,
) -> tuple[Float[Array, "B D"], dict[str, Any]]:
    """Features of the batch, and the BatchNorm statistics after it.

    With more than one microbatch the trunk sees one after the other, each with BatchNorm
    statistics of its own, as on the devices of torch's `DataParallel`; the running statistics move
    once, by the mean. Of each only its images and features are kept; where the trunk is
    differentiated, a second pass makes the rest again, so that the gradient is that of the whole
    batch while the memory is that of one microbatch.

    Args:
        model: The network.
        variables: Its parameters and BatchNorm statistics.
        images: The batch.
        preprocess: Pixel statistics and compute type.
        microbatches: Parts that the trunk sees one after the other.
        shards: Devices that the batch is sharded over.
    """

    def features_of(images: UInt8[Array, "b H W 3"]) -> tuple[Float[Array, "b D"], dict[str, Any]]:
        normalised = normalise(images, preprocess.mean, preprocess.std, preprocess.dtype)
        return model.apply(
            variables, normalised, train=True, mutable=["batch_stats"], method="features"
        )

    if microbatches == 1:
        return features_of(images)
    again = jax.checkpoint(features_of, prevent_cse=False)  # the loop keeps the passes apart
    features, mutated = jax.lax.map(again, split_batch(images, microbatches, shards))
    return join_batch(features, shards), jax.tree.map(lambda x: jnp.mean(x, axis=0), mutated)
