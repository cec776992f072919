"""Contrast maps: which cells of a feature map speak for one class and against another.

The classifier is linear in the mean of the feature map. The difference of two logits is therefore
the sum of one term for each cell, plus the difference of two biases. These terms are Finer-CAM
(Zhang et al., CVPR 2025) at the last layer, with gamma = 1 and without ReLU. Without the ReLU
nothing is lost: the map sums to the difference exactly, and its negative cells speak for the rival.

With `model.pool=both` the class token is classified together with the mean. What it adds belongs to
no cell, and is counted with the biases.
"""

import numpy as np
from jaxtyping import Float, Int

Class = int | Int[np.ndarray, "*N"]


def contrast_map(
    feature_map: Float[np.ndarray, "*N h w D"],
    kernel: Float[np.ndarray, "F C"],
    predicted: Class,
    against: Class,
    *,
    gamma: float = 1.0,
    relu: bool = False,
) -> Float[np.ndarray, "*N h w"]:
    """Return what each cell adds to the logit of one class, less what it adds to its rival's.

    With the default options, `contrast.sum() + contrast_bias(...)` is the difference of the logits.

    Args:
        feature_map: Feature maps before pooling; the mean over their cells is classified.
        kernel: Weights of the classifier, those of the feature map first.
        predicted: The class that positive cells speak for; one, or one for each image.
        against: The rival, which negative cells speak for.
        gamma: Weight of the rival. 0 leaves CAM of the class, which for a linear classifier is
            Grad-CAM up to a factor; Finer-CAM's paper uses 0.6.
        relu: Whether negative cells become 0, as in CAM and in Finer-CAM.
    """
    rows = kernel[: feature_map.shape[-1]].T
    rows = rows.astype(np.promote_types(kernel.dtype, np.float32))
    weights = rows[predicted] - gamma * rows[against]  # [*N D]
    height, width = feature_map.shape[-3:-1]
    # A feature map in bfloat16 is summed in float32, as the pooling does.
    wide = feature_map.astype(rows.dtype)
    contrast = np.einsum("...hwd,...d->...hw", wide, weights) / (height * width)
    return np.maximum(contrast, 0) if relu else contrast


def contrast_bias(
    bias: Float[np.ndarray, " C"], predicted: Class, against: Class, *, gamma: float = 1.0
) -> Float[np.ndarray, "*N"]:
    """Return what the biases add to the difference of the logits, wherever the network looks."""
    return np.asarray(bias[predicted] - gamma * bias[against])


def token_contrast(
    features: Float[np.ndarray, "*N F"],
    feature_map: Float[np.ndarray, "*N h w D"],
    kernel: Float[np.ndarray, "F C"],
    predicted: Class,
    against: Class,
) -> Float[np.ndarray, "*N"]:
    """Return what the class token adds to the difference of the logits; 0 without one.

    Args:
        features: Pooled features: the mean over the feature map, then the class token, if any.
        feature_map: Feature maps before pooling.
        kernel: Weights of the classifier.
        predicted: As for `contrast_map`.
        against: As for `contrast_map`.
    """
    width = feature_map.shape[-1]
    weights = kernel[width:].T
    contrast = features[..., width:] * (weights[predicted] - weights[against])  # [*N F-D]
    return np.asarray(contrast.sum(axis=-1))


def mirror_average(
    feature_map: Float[np.ndarray, "*N h w D"], mirrored: Float[np.ndarray, "*N h w D"]
) -> Float[np.ndarray, "*N h w D"]:
    """Return the mean of the feature maps of photos and, mirrored back, of their mirror images.

    `eval.flip` averages the logits of both. As the classifier is linear, these are the logits of
    this mean, so its contrast map has the same exact sum.
    """
    return (feature_map + mirrored[..., ::-1, :]) / 2


def gate_contrast(
    feature_map: Float[np.ndarray, "*N h w D"],
    gates: Float[np.ndarray, "*N F"],
    kernel: Float[np.ndarray, "F C"],
    predicted: Class,
    against: Class,
) -> Float[np.ndarray, "*N h w"]:
    """Return what the gates of a pair add to the contrast map, cell by cell.

    A channel that the mutual vector lacks has a gate of 1/2 (equation 2), and `x + x * g` is then
    1.5 times `x` (equation 3). This is the rest: the contrast map of `x * (g - 1/2)`. The
    difference of the logits under the gate is `1.5 * contrast.sum() + gate_contrast.sum() + bias`.

    Args:
        feature_map: Feature maps of one image of each pair.
        gates: Gates of the pair: the image's own, or its partner's, those of the feature map first.
        kernel: Weights of the classifier, likewise.
        predicted: The class that positive cells speak for.
        against: The rival, which negative cells speak for.
    """
    gates = gates[..., None, None, : feature_map.shape[-1]]
    rest = feature_map.astype(gates.dtype) * (gates - 0.5)
    return contrast_map(rest, kernel, predicted, against)
