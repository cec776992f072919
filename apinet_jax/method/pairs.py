"""Pair mining on the device: a distance matrix of the batch and two masked argmins.

Every image is paired with its nearest image of the same class and its nearest image of another
class (Zhuang, Wang and Qiao 2020, section "Individual Pair Construction").
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from apinet_jax.method.types import PairIndex
from apinet_jax.models.operations import at_least_float32

Distance = Literal["sq_euclidean", "euclidean"]
Choice = Literal["similar", "dissimilar", "random", "confused"]


def squared_distances(features: Float[Array, "B D"]) -> Float[Array, "B B"]:
    """Return the squared Euclidean distances |a|^2 + |b|^2 - 2ab, without a gradient.

    They are computed in at least float32 and at the highest matmul precision: bfloat16 passes on a
    TPU, or TF32 on a GPU, are coarse enough to change which image is nearest. Rounding can make an
    entry slightly negative.

    Args:
        features: Pooled features.
    """
    features = at_least_float32(lax.stop_gradient(features))
    squared_norm = jnp.sum(features * features, axis=1)  # [B]
    products = jnp.matmul(features, features.T, precision=lax.Precision.HIGHEST)  # [B B]
    return squared_norm[:, None] + squared_norm[None, :] - 2 * products


def nearest(
    distances: Float[Array, "B B"], allowed: Bool[Array, "B B"]
) -> tuple[Int[Array, " B"], Bool[Array, " B"]]:
    """Return the nearest allowed column of each row; ties go to the lowest index.

    Args:
        distances: Distance of each pair of images.
        allowed: The candidates of each row.

    Returns:
        The index of the nearest candidate (0 where a row has none), and whether it exists.
    """
    index = jnp.argmin(jnp.where(allowed, distances, jnp.inf), axis=1)
    has_candidate = jnp.any(allowed, axis=1)
    return jnp.where(has_candidate, index, 0), has_candidate


def mine_pairs(
    features: Float[Array, "B D"],
    labels: Int[Array, " B"],
    image_id: Int[Array, " B"],
    distance: Distance = "sq_euclidean",
    choice: Choice = "similar",
    key: Key[Array, ""] | None = None,
    scores: Float[Array, "B C"] | None = None,
) -> PairIndex:
    """Return the intra-class and inter-class partner of every image of the global batch.

    Copies of an image (equal `image_id`, if a class has fewer than `S` images) are at distance
    zero and teach nothing, so they never form a pair.

    Args:
        features: Pooled features; no gradient flows through the choice of partners.
        labels: True class of each image.
        image_id: Identity of each image.
        distance: `sq_euclidean` (the authors' program) or `euclidean` (the paper). The square root
            is monotonic, so both choose the same partners up to rounding: the root can make two
            close distances equal, and ties go to the lowest index.
        choice: The partner among the candidates: the most `similar` (the paper), the most
            `dissimilar`, or a `random` one with equal probability (the paper's ablations). With
            `confused` (not in the paper) the inter-class partner is the most similar image of the
            class of the batch that has the highest score for the image.
        key: Key of the random choice, required only for it.
        scores: Score of each class for each image, required only for `confused`.

    Returns:
        Both partners of each image, and whether they exist.

    Examples:
        >>> import jax.numpy as jnp
        >>> features = jnp.array([[0.0], [1.0], [3.0], [7.0]])
        >>> pairs = mine_pairs(features, jnp.array([0, 0, 1, 1]), jnp.arange(4))
        >>> print(pairs.intra, pairs.inter)
        [1 0 3 2] [2 2 1 1]
    """
    distances = squared_distances(features)
    if distance == "euclidean":
        distances = jnp.sqrt(jnp.maximum(distances, 0))
    if choice == "dissimilar":
        distances = -distances
    elif choice == "random":  # the smallest of uniform numbers
        distances = jax.random.uniform(key, distances.shape)
    same_class = labels[:, None] == labels[None, :]
    distinct = image_id[:, None] != image_id[None, :]
    intra, intra_valid = nearest(distances, same_class & distinct)
    others = ~same_class
    if choice == "confused":
        rivals = jnp.where(others, lax.stop_gradient(scores)[:, labels], -jnp.inf)  # [B B]
        others &= rivals == jnp.max(rivals, axis=1, keepdims=True)
    inter, inter_valid = nearest(distances, others)
    return PairIndex(intra, inter, intra_valid, inter_valid)
