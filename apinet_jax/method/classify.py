"""Classification of single images, as at test time: no pairs, no gates."""

from functools import partial
from typing import Any

from jaxtyping import Array, Float, UInt8

from apinet_jax.method.interaction import APINet
from apinet_jax.method.trunk_pass import Preprocess
from apinet_jax.models.layers import normalise


def image_features(
    params: dict[str, Any],
    batch_stats: dict[str, Any],
    images: UInt8[Array, "B H W 3"],
    *,
    model: APINet,
    preprocess: Preprocess,
) -> Float[Array, "B D"]:
    """Return the pooled features of single images, with the arguments of `classify_images`."""
    images = normalise(images, preprocess.mean, preprocess.std, preprocess.dtype)
    variables = {"params": params, "batch_stats": batch_stats}
    return model.apply(variables, images, train=False, method="features")


def classify_images(
    params: dict[str, Any],
    batch_stats: dict[str, Any],
    images: UInt8[Array, "B H W 3"] | Float[Array, "B D"],
    *,
    model: APINet,
    preprocess: Preprocess,
    flip: bool = False,
) -> Float[Array, "B C"]:
    """Return the logits of single images, without gates.

    Args:
        params: Parameters.
        batch_stats: BatchNorm statistics.
        images: Pixels, 0 to 255, or features of images.
        model: The network.
        preprocess: Pixel statistics and compute type.
        flip: Whether to average the logits of each image with those of its mirror image.
    """
    classify = partial(model.apply, {"params": params, "batch_stats": batch_stats}, train=False)
    if images.ndim == 2:
        return classify(images, method="classify")
    images = normalise(images, preprocess.mean, preprocess.std, preprocess.dtype)
    logits = classify(images)
    return (logits + classify(images[:, :, ::-1])) / 2 if flip else logits
