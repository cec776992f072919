"""What the network compares in two photos: the channels of each gate, and evidence as maps."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from apinet_jax.answers.pairs.scores import pair_temperature
from apinet_jax.data.photos import Photo
from apinet_jax.inference import Classifier
from apinet_jax.method.calibration import softmax

CHANNELS = 5  # of each gate, as in the paper's figure


class GateChannels(NamedTuple):
    """The most active channels of one gate.

    Attributes:
        channels: Their indices, the most active first.
        gates: Value of the gate in each, from 0 to 1.
        maps: Feature map of both photos in each channel.
    """

    channels: Int[np.ndarray, " K"]
    gates: Float[np.ndarray, " K"]
    maps: Float[np.ndarray, "2 K h w"]


class Evidence(NamedTuple):
    """What speaks for a class in a photo.

    Attributes:
        cells: What each cell adds to the logit of the class, less the mean over all classes. The
            class token of a run with `model.pool=both` adds to the logit too, but to no cell.
        probability: Probability of the class.
    """

    cells: Float[np.ndarray, "h w"]
    probability: float


class PairMaps(NamedTuple):
    """What the network compares in two photos.

    Attributes:
        pixels: What it sees of both.
        gates: The most active channels of both gates; `None` for a softmax run.
        evidence: For each photo, what speaks for its class: in its self and its other feature. A
            softmax run has only one kind.
        trunk: Name of the trunk, which knows where the cells of its maps are.
    """

    pixels: UInt8[np.ndarray, "2 H W 3"]
    gates: tuple[GateChannels, GateChannels] | None
    evidence: tuple[tuple[Evidence, ...], tuple[Evidence, ...]]
    trunk: str


def pair_maps(classifier: Classifier, photos: Sequence[Photo]) -> PairMaps:
    """Return the maps of two photos; gates are the mean over both orders of the pair.

    Raises:
        InputError: If a photo cannot be read, or the run classifies the class token.
    """
    return maps_of_pixels(classifier, classifier.pixels(photos))


def maps_of_pixels(classifier: Classifier, pixels: UInt8[np.ndarray, "2 H W 3"]) -> PairMaps:
    """Return `pair_maps` of two photos that are cropped already."""
    maps, description = classifier.map_pixels(pixels), classifier.describe_pixels(pixels)
    features, labels = description.features, description.logits.argmax(axis=1)
    if not classifier.has_gates:
        plain = np.zeros_like(features)
        kinds, gates = [plain], None
    else:
        first, second = features
        own = np.concatenate(pair_gates(classifier, first[None], second[None]))
        kinds = [own, own[::-1]]  # the other feature of a photo has its partner's gate
        gates = tuple(_channels(own[side], features[side], maps) for side in (0, 1))
    evidence = tuple(
        tuple(
            class_evidence(classifier, maps[side], features[side], kind[side], int(labels[side]))
            for kind in kinds
        )
        for side in (0, 1)
    )
    return PairMaps(pixels, gates, evidence, classifier.config.model.trunk)


def pair_gates(
    classifier: Classifier, x_1: Float[np.ndarray, "P D"], x_2: Float[np.ndarray, "P D"]
) -> tuple[Float[np.ndarray, "P D"], Float[np.ndarray, "P D"]]:
    """Return the gates of both photos of each pair, as the mean over both orders of the pair."""
    there, back = classifier.gates(x_1, x_2), classifier.gates(x_2, x_1)
    return (there[0] + back[1]) / 2, (there[1] + back[0]) / 2


def most_active(
    gates: Float[np.ndarray, " D"], features: Float[np.ndarray, " D"], count: int = CHANNELS
) -> Int[np.ndarray, " K"]:
    """Return the channels to which a gate adds most: the largest |x * g| (equation 3).

    The gate's value itself would also choose channels that the photo does not activate.
    """
    return np.argsort(-np.abs(gates * features), kind="stable")[:count]


def class_evidence(
    classifier: Classifier,
    feature_map: Float[np.ndarray, "h w D"],
    features: Float[np.ndarray, " F"],
    gates: Float[np.ndarray, " F"],
    label: int,
) -> Evidence:
    """Return what speaks for a class in an attentive feature, x + x * g.

    The classifier is linear, so the cells and the bias sum to the logit, less the mean logit; with
    `model.pool=both`, together with the class token.
    """
    height, width, channels = feature_map.shape
    attentive = feature_map * (1 + gates[:channels])  # [h w D]
    weights = classifier.kernel - classifier.kernel.mean(axis=1, keepdims=True)  # [F C]
    cells = attentive @ weights[:channels, label] / (height * width)
    logits = features * (1 + gates) @ classifier.kernel + classifier.bias
    probability = softmax(logits[None], pair_temperature(classifier))[0, label]
    return Evidence(cells, float(probability))


def _channels(
    gates: Float[np.ndarray, " F"],
    features: Float[np.ndarray, " F"],
    maps: Float[np.ndarray, "2 h w D"],
) -> GateChannels:
    """Return the most active channels among those of the feature map."""
    width = maps.shape[-1]
    channels = most_active(gates[:width], features[:width])
    return GateChannels(channels, gates[channels], np.moveaxis(maps[..., channels], -1, 1))
