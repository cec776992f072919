"""Why this class and not that one: a contrast map and the nearest training photos of both."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from apinet_jax.answers.bank import Bank, split_pixels
from apinet_jax.answers.class_names import find_classes
from apinet_jax.answers.explanation.contrast import (
    contrast_bias,
    contrast_map,
    gate_contrast,
    mirror_average,
    token_contrast,
)
from apinet_jax.answers.pairs.maps import pair_gates
from apinet_jax.answers.pairs.scores import cosine
from apinet_jax.data.photos import Photo, Window
from apinet_jax.inference import Classifier
from apinet_jax.method.calibration import softmax
from apinet_jax.system.errors import InputError


class Gates(NamedTuple):
    """What the gates of a pair add to the contrast maps of both photos; see `gate_contrast`.

    Gates are the mean over both orders of the pair. The maps show the photos as they are, also
    where `eval.flip` averages mirror images.

    Attributes:
        photo: Map of the explained photo, under its own gate.
        exemplar: Map of the training photo, under its own gate.
    """

    photo: Float[np.ndarray, "h w"]
    exemplar: Float[np.ndarray, "h w"]


class Exemplar(NamedTuple):
    """A training photo that resembles the explained one.

    Attributes:
        class_name: Its class.
        file_name: Its file.
        similarity: Cosine of the pooled features of both.
        pixels: What the network sees of it.
        gates: The gates of the pair; `None` for a softmax run, which has none.
    """

    class_name: str
    file_name: str
    similarity: float
    pixels: UInt8[np.ndarray, "H W 3"]
    gates: Gates | None


class Explanation(NamedTuple):
    """Why a photo is one class and not another.

    Attributes:
        predicted: The most probable class.
        against: The rival.
        probability: Calibrated probability of the predicted class.
        rival_probability: Calibrated probability of the rival.
        difference: Logit of the predicted class less the rival's, without temperature.
        contrast: What each cell of the feature map adds to the difference: positive for the
            predicted class, negative for the rival. `contrast.sum() + bias` is the difference, up
            to rounding.
        bias: What else adds to it, wherever the network looks: see `bias_source`.
        pixels: What the network sees of the photo.
        exemplars: The nearest training photos of the predicted class, then of the rival.
        no_exemplars: Why there are none; `None` if there are some.
        trunk: Name of the trunk, which knows where the cells of the maps are.
        bias_source: What `bias` comes from: the biases of the classifier, and with
            `model.pool=both` the class token.
    """

    predicted: str
    against: str
    probability: float
    rival_probability: float
    difference: float
    contrast: Float[np.ndarray, "h w"]
    bias: float
    pixels: UInt8[np.ndarray, "H W 3"]
    exemplars: tuple[Exemplar, ...]
    no_exemplars: str | None
    trunk: str
    bias_source: str = "biases"


def explain_photo(
    classifier: Classifier,
    photo: Photo,
    against: str | None,
    train: Bank | None,
    *,
    count: int = 3,
    window: Window | None = None,
    no_exemplars: str | None = None,
) -> Explanation:
    """Explain a prediction against a rival class.

    Args:
        classifier: The run.
        photo: The photo.
        against: Name of the rival; `None` for the most probable one.
        train: Training images to find exemplars in; `None` if the photos of the run are missing.
        count: Exemplars of each class, at most.
        window: The part of the photo to use; see `Classifier.pixels`.
        no_exemplars: Why `train` is missing.

    Raises:
        InputError: If the photo cannot be read, no class has that name, the rival is the
            predicted class, or the run classifies the class token, without a map.
    """
    pixels = classifier.pixels([photo], windows=None if window is None else [window])
    own = evidence = classifier.map_pixels(pixels)
    features, (logits,) = classifier.describe_pixels(pixels)
    probability = softmax(logits[None], classifier.temperature)[0]
    first = int(logits.argmax())
    rival = _rival(classifier.class_names, logits, first, against)
    pooled = features
    if classifier.config.eval.flip:
        mirrored = pixels[:, :, ::-1]
        evidence = mirror_average(own, classifier.map_pixels(mirrored))
        pooled = (features + classifier.describe_pixels(mirrored).features) / 2
    token = token_contrast(pooled, evidence, classifier.kernel, first, rival)
    exemplars = ()
    if train is not None:
        exemplars = tuple(
            exemplar
            for label in (first, rival)
            for exemplar in _exemplars(
                classifier, features[0], own[0], train, (first, rival), label, count
            )
        )
    return Explanation(
        predicted=classifier.class_names[first],
        against=classifier.class_names[rival],
        probability=float(probability[first]),
        rival_probability=float(probability[rival]),
        difference=float(logits[first] - logits[rival]),
        contrast=contrast_map(evidence[0], classifier.kernel, first, rival),
        bias=float(contrast_bias(classifier.bias, first, rival) + token[0]),
        bias_source="biases, class token" if classifier.config.model.pool == "both" else "biases",
        pixels=pixels[0],
        exemplars=exemplars,
        no_exemplars=no_exemplars,
        trunk=classifier.config.model.trunk,
    )


def _rival(
    class_names: tuple[str, ...], logits: Float[np.ndarray, " C"], first: int, against: str | None
) -> int:
    """Return the class to explain against."""
    if against is None:
        if len(class_names) == 1:
            raise InputError("The run has one class only: no rival to explain against exists.")
        return int(np.argsort(-logits, kind="stable")[1])
    (rival,) = find_classes([against], class_names)
    if rival == first:
        raise InputError(
            f"The photo is predicted to be {against} itself. Name another class to explain it "
            "against, or none for the most probable rival."
        )
    return rival


def _exemplars(
    classifier: Classifier,
    feature: Float[np.ndarray, " F"],
    own: Float[np.ndarray, "h w D"],
    train: Bank,
    pair: tuple[int, int],
    label: int,
    count: int,
) -> list[Exemplar]:
    """Return the training photos of a class with the largest cosine, the nearest first."""
    of_class = np.flatnonzero(train.labels == label)
    features = train.features[of_class]
    similarity = cosine(features, np.broadcast_to(feature, features.shape))
    best = np.argsort(-similarity, kind="stable")[:count]
    chosen = of_class[best]
    if len(chosen) == 0:
        return []
    source = train.source
    pixels = split_pixels(classifier, source, chosen)
    gates = _gates(classifier, feature, own, pixels, train.features[chosen], pair)
    return [
        Exemplar(
            class_name=classifier.class_names[label],
            file_name=source.file_names[index],
            similarity=float(alike),
            pixels=some,
            gates=both,
        )
        for index, alike, some, both in zip(chosen, similarity[best], pixels, gates, strict=True)
    ]


def _gates(
    classifier: Classifier,
    feature: Float[np.ndarray, " F"],
    own: Float[np.ndarray, "h w D"],
    pixels: UInt8[np.ndarray, "N H W 3"],
    partners: Float[np.ndarray, "N F"],
    pair: tuple[int, int],
) -> list[Gates | None]:
    """Return the gate maps of a photo with each of its partners."""
    if not classifier.has_gates:
        return [None] * len(partners)
    both = pair_gates(classifier, np.broadcast_to(feature, partners.shape), partners)
    maps = np.broadcast_to(own, (len(partners), *own.shape)), classifier.map_pixels(pixels)
    drawn = (
        gate_contrast(one, gates, classifier.kernel, *pair)
        for one, gates in zip(maps, both, strict=True)
    )
    return [Gates(*some) for some in zip(*drawn, strict=True)]


def explanation_figures(found: Explanation) -> dict[str, Any]:
    """Return the figures of an explanation as plain data, without pictures and exemplars."""
    return {
        "predicted": found.predicted,
        "against": found.against,
        "probability": found.probability,
        "rival_probability": found.rival_probability,
        "difference": found.difference,
        "bias": found.bias,
        "bias_source": found.bias_source,
        "contrast": np.asarray(found.contrast, float).tolist(),
    }
