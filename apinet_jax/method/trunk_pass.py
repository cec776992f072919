"""The pass of the trunk over a batch: at once, or in microbatches that need less memory."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Shaped, UInt8

from apinet_jax.method.interaction import APINet
from apinet_jax.models.layers import normalise


class Preprocess(NamedTuple):
    """Pixel statistics of the trunk's weights, for pixels from 0 to 1, and its compute dtype."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    dtype: Any = jnp.float32


def split_batch(
    x: Shaped[Array, "B *rest"], chunks: int, shards: int
) -> Shaped[Array, "n b *rest"]:
    """Split a batch into chunks with an equal share of each device, so that none is idle.

    Args:
        x: The batch, sharded by row: each device has consecutive rows.
        chunks: Number of chunks, `n`.
        shards: Devices that share the batch.
    """
    x = x.reshape(shards, chunks, -1, *x.shape[1:])  # [shards n b/shards *rest]
    return jnp.swapaxes(x, 0, 1).reshape(chunks, -1, *x.shape[3:])


def join_batch(x: Shaped[Array, "n b *rest"], shards: int) -> Shaped[Array, "B *rest"]:
    """Undo `split_batch`."""
    x = x.reshape(x.shape[0], shards, -1, *x.shape[2:])  # [n shards b/shards *rest]
    return jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[3:])


def trunk_features(
    model: APINet,
    variables: dict[str, Any],
    images: UInt8[Array, "B H W 3"] | Float[Array, "B D"],
    preprocess: Preprocess,
    microbatches: int,
    shards: int,
    key: Key[Array, ""] | None = None,
) -> tuple[Float[Array, "B D"], dict[str, Any]]:
    """Return the features of the batch, and the BatchNorm statistics after it.

    The trunk processes microbatches in sequence, each with separate BatchNorm statistics, as on the
    devices of torch's `DataParallel`; their mean updates the running statistics. Only images and
    features are stored, and the backward pass recomputes the rest: the gradient is that of the
    complete batch, with the memory of one microbatch.

    Args:
        model: The network.
        variables: Its parameters and BatchNorm statistics.
        images: The batch; features that were computed before are returned as they are.
        preprocess: Pixel statistics and compute type.
        microbatches: Number of microbatches.
        shards: Devices that share the batch.
        key: Key of the drop path; `None` drops nothing.
    """
    if images.ndim == 2:
        return images, {"batch_stats": variables["batch_stats"]}

    def features_of(
        images: UInt8[Array, "b H W 3"], key: Key[Array, ""] | None
    ) -> tuple[Float[Array, "b D"], dict[str, Any]]:
        return model.apply(
            variables,
            normalise(images, preprocess.mean, preprocess.std, preprocess.dtype),
            train=True,
            mutable=["batch_stats"],
            rngs=None if key is None else {"drop_path": key},
            method="features",
        )

    if microbatches == 1:
        return features_of(images, key)
    recomputed = jax.checkpoint(features_of, prevent_cse=False)  # the loop separates the passes
    keys = None if key is None else jax.random.split(key, microbatches)
    chunks = split_batch(images, microbatches, shards)
    features, mutated = jax.lax.map(lambda chunk: recomputed(*chunk), (chunks, keys))
    return join_batch(features, shards), jax.tree.map(lambda x: jnp.mean(x, axis=0), mutated)
