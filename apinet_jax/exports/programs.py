"""What an exported file computes, as pure functions of photos: resizing is part of the program."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, UInt8

from apinet_jax.answers.pairs.calibration import PairCalibration
from apinet_jax.answers.pairs.scores import GATED
from apinet_jax.method.interaction import APINet
from apinet_jax.models.layers import normalise
from apinet_jax.trained_network import TrainedNetwork

_BITS = 22  # of Pillow's weights
_UNITS = (2**11, 2**5, 1)  # of the parts of a weight: 11, 6 and 5 bits


class Answer(NamedTuple):
    """What the classifier says about photos.

    Attributes:
        probabilities: Of each class, calibrated by the temperature of the run.
        logits: Scores of the classes, as evaluation computes them.
    """

    probabilities: Float[Array, "B C"]
    logits: Float[Array, "B C"]


class PairAnswer(NamedTuple):
    """What the network says about pairs of photos.

    Attributes:
        same: Probability that both photos show one class, where half of the pairs do.
        probabilities_1: Of each class, for the first photos.
        probabilities_2: The same for the second photos.
    """

    same: Float[Array, " B"]
    probabilities_1: Float[Array, "B C"]
    probabilities_2: Float[Array, "B C"]


def cut_crop(
    pixels: UInt8[Array, "B H W 3"], resize: int, crop: int
) -> Float[Array, "B {crop} {crop} 3"]:
    """Resize complete photos to a square and cut its central part, as evaluation does.

    The result equals that of Pillow's antialiased bilinear filter (of Pillow 13 and later), which
    rounds to grey levels after each direction. Height and width may be symbolic.

    Args:
        pixels: RGB photos of one size.
        resize: Side of the square.
        crop: Side of its central part.
    """
    start = round((resize - crop) / 2)
    rows, columns = (resize_weights(length, resize, start, crop) for length in pixels.shape[1:3])

    def rows_first(grey: Float[Array, "B H W 3"]) -> Float[Array, "B y x 3"]:
        grey = _weighted("phy,bhwc->pybwc", rows, grey)
        return _weighted("pwx,ybwc->pbyxc", columns, grey)

    def columns_first(grey: Float[Array, "B H W 3"]) -> Float[Array, "B y x 3"]:
        grey = _weighted("pwx,bhwc->pxbhc", columns, grey)
        return _weighted("phy,xbhc->pbyxc", rows, grey)

    # Pillow begins with the height if it loses more than twice as many pixels as the width.
    height, width = (jnp.int32(1) * length for length in pixels.shape[1:3])
    tall = height - resize > 2 * jnp.maximum(width - resize, 0)
    return lax.cond(tall, rows_first, columns_first, pixels.astype(jnp.float32))


def resize_weights(
    length: Any, resize: int, start: int, count: int
) -> Int[Array, "length {count}"]:
    """Return how much each pixel of a line adds to pixels of the resized line, times 2²².

    A triangle whose half width is a pixel of the coarser line: linear interpolation, with
    antialiasing. Pillow rounds the weights to 22 bits too, which decides ties between grey levels.

    Args:
        length: Pixels of the line, at most 65,535 as in a JPEG; may be symbolic.
        resize: Pixels of the resized line.
        start: The first of those that are computed.
        count: How many are.
    """
    size = jnp.int32(1) * length  # a symbolic length becomes a traced number
    given = 2 * jnp.arange(length, dtype=jnp.int32)[:, None] + 1
    wanted = 2 * (start + jnp.arange(count, dtype=jnp.int32)[None]) + 1
    # Distances are integers: in half pixels times the length of the other line.
    reach = 2 * jnp.maximum(size, resize)
    near = jnp.maximum(reach - jnp.abs(wanted * size - given * resize), 0)
    total = jnp.broadcast_to(near.sum(axis=0, keepdims=True), near.shape)
    # The division of near * 2²² by the total, two bits at a time: it never overflows.
    weights, rest = jnp.zeros_like(near), near
    for _ in range(_BITS // 2):
        digit, rest = _divided(4 * rest, total)
        weights = 4 * weights + digit
    return weights + (2 * rest >= total).astype(jnp.int32)


def _divided(x: Int[Array, "..."], y: Int[Array, "..."]) -> tuple[Array, Array]:
    """Return quotient and remainder of numbers that are not negative."""
    quotient = lax.div(x, y)
    return quotient, x - quotient * y


def _weighted(
    product: str, weights: Int[Array, "length count"], grey: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Return rounded sums of grey levels.

    The products are of floats. Parts of the weights are so small that all sums are exact.
    """
    parts, rest = [], weights
    for unit in _UNITS:
        part, rest = _divided(rest, jnp.full_like(rest, unit))
        parts.append(part.astype(jnp.float32))
    # One product for all parts: each would have to be compiled.
    sums = jnp.einsum(product, jnp.stack(parts), grey, precision=lax.Precision.HIGHEST)
    total = jnp.int32(2 ** (_BITS - 1))
    for unit, part in zip(_UNITS, sums, strict=True):
        total = total + part.astype(jnp.int32) * unit
    return _divided(total, jnp.full_like(total, 2**_BITS))[0].astype(jnp.float32)


def classify_crops(
    variables: dict[str, Any], crops: Float[Array, "B H W 3"], *, network: TrainedNetwork
) -> Answer:
    """Classify photos that were cut by `cut_crop`."""
    return _describe(variables, crops, network)[1]


def classify_photos(
    variables: dict[str, Any], pixels: UInt8[Array, "B H W 3"], *, network: TrainedNetwork
) -> Answer:
    """Classify photos of one size."""
    return classify_crops(variables, _cut(pixels, network), network=network)


def compare_photos(
    variables: dict[str, Any],
    pixels_1: UInt8[Array, "B H W 3"],
    pixels_2: UInt8[Array, "B h w 3"],
    *,
    network: TrainedNetwork,
    calibration: PairCalibration,
) -> PairAnswer:
    """Compare pairs of photos, as `compare` does.

    Each photo is classified under both gates of the pair, in both orders; the agreement of the two
    classifications is the score, which the calibration of the run maps to a probability. A softmax
    run has no gates, and compares the plain classifications.
    """
    crops = [_cut(pixels, network) for pixels in (pixels_1, pixels_2)]
    features, answers = zip(*(_describe(variables, each, network) for each in crops), strict=True)
    if network.model.interaction == "none":
        logits, temperature = [answer.logits for answer in answers], network.temperature
    else:
        logits = _interact(variables, *features, network)
        temperature = GATED * network.temperature
    both = sum(jax.nn.log_softmax(each / jnp.float32(temperature)) for each in logits)
    score = jax.scipy.special.logsumexp(both, axis=1)
    knots, odds = (np.float32(each) for each in (calibration.scores, calibration.log_odds))
    same = jax.nn.sigmoid(jnp.interp(score, knots, odds))
    return PairAnswer(same, answers[0].probabilities, answers[1].probabilities)


def _cut(pixels: UInt8[Array, "B H W 3"], network: TrainedNetwork) -> Float[Array, "B h w 3"]:
    return cut_crop(pixels, network.config.data.resize, network.config.data.crop)


def _describe(
    variables: dict[str, Any], crops: Float[Array, "B H W 3"], network: TrainedNetwork
) -> tuple[Float[Array, "B D"], Answer]:
    """Return the features and the answer for photos that were cut."""
    apply = partial(network.model.apply, variables, train=False)
    images = normalise(crops, *network.preprocess)
    features = apply(images, method=APINet.features)
    logits = apply(features, method=APINet.classify)
    if network.config.eval.flip:
        mirrored = apply(images[:, :, ::-1], method=APINet.features)
        logits = (logits + apply(mirrored, method=APINet.classify)) / 2
    return features, Answer(jax.nn.softmax(logits / jnp.float32(network.temperature)), logits)


def _interact(
    variables: dict[str, Any],
    x_1: Float[Array, "B D"],
    x_2: Float[Array, "B D"],
    network: TrainedNetwork,
) -> list[Float[Array, "B C"]]:
    """Return the mean logits of both photos over their gates and both orders."""
    interact: Callable[..., Any] = partial(
        network.model.apply, variables, train=False, method=APINet.interact
    )
    there, back = interact(x_1, x_2), interact(x_2, x_1)
    views = (
        (there.self_1, there.other_1, back.self_2, back.other_2),
        (there.self_2, there.other_2, back.self_1, back.other_1),
    )
    return [
        jnp.stack([logits for logits in some if logits is not None]).mean(axis=0) for some in views
    ]
