"""The maps that `benchmarks/explanations.py` scores, each a function of the same quantities."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from apinet_jax.answers.bank import Bank
from apinet_jax.answers.explanation.contrast import contrast_map, gate_contrast
from apinet_jax.answers.pairs.maps import pair_gates
from apinet_jax.answers.trained_run import TrainedRun
from apinet_jax.models import trunk_spec

EXEMPLARS = 3  # of each class, as in the command's picture
BLOB = 0.25  # standard deviation of the centred blob, of the side of the image


class Question(NamedTuple):
    """Why these classes and not those?

    Attributes:
        maps: Feature map of each image.
        first: The class to explain.
        rival: The class to explain it against.
    """

    maps: Float[np.ndarray, "N h w D"]
    first: Int[np.ndarray, " N"]
    rival: Int[np.ndarray, " N"]


def all_maps(run: TrainedRun, question: Question, seed: int) -> dict[str, np.ndarray]:
    """Return the map of every method, [N h w]; higher values speak for the first class.

    Grad-CAM is `ReLU(sum_k alpha_k A_k)` with alpha_k the mean gradient of the logit. For a linear
    classifier of the mean feature, alpha is the class's weights up to a factor: Finer-CAM with
    gamma = 0.
    """
    maps, first, rival = question
    kernel = run.kernel
    spec, side = trunk_spec(run.config.model.trunk), run.config.data.crop
    down, right = (
        (spec.first_centre(side) + spec.cell_step * np.arange(cells) + 0.5) / side - 0.5
        for cells in maps.shape[1:3]
    )
    blob = np.exp(-(down[:, None] ** 2 + right[None] ** 2) / (2 * BLOB**2))
    noise = np.random.default_rng(seed).standard_normal(maps.shape[:3])
    found = {
        "contrast map": contrast_map(maps, kernel, first, rival),
        "Finer-CAM, gamma 1": contrast_map(maps, kernel, first, rival, relu=True),
        "Finer-CAM, gamma 0.6": contrast_map(maps, kernel, first, rival, gamma=0.6, relu=True),
        "Grad-CAM (gamma 0)": contrast_map(maps, kernel, first, rival, gamma=0.0, relu=True),
        "CAM of the class": contrast_map(maps, kernel, first, rival, gamma=0.0),
        "centred blob": np.broadcast_to(blob, maps.shape[:3]),
        "noise": noise,
    }
    found |= _pair_maps(run, question)
    return {name: np.asarray(values, np.float64) for name, values in found.items()}


def _pair_maps(run: TrainedRun, question: Question) -> dict[str, np.ndarray]:
    """Return the maps that compare each image with training images of both classes."""
    maps, first, rival = question
    bank, kernel = run.bank("train"), run.kernel
    x = maps.mean(axis=(1, 2))
    near = _nearest(bank, x, first), _nearest(bank, x, rival)  # each [N E D]
    direction = near[0].mean(axis=1) - near[1].mean(axis=1)
    found = {"exemplars, no gates": np.einsum("nhwd,nd->nhw", maps, direction)}
    if not run.has_gates:
        return found
    own, theirs = zip(*(_gates(run, x, exemplars) for exemplars in near), strict=True)
    both = sum(map(_gate_mean, (*own, *theirs))) / 4  # [N D]
    rival_only = _gate_mean(own[1]) - _gate_mean(theirs[1])
    shift = np.abs(_gate_mean(theirs[0]) - _gate_mean(theirs[1]))
    pair = kernel, first, rival
    plain = contrast_map(maps, *pair)
    return found | {
        # Equation 3, self and other features, over the exemplars of both classes.
        "pair: gated contrast": 1.5 * plain + gate_contrast(maps, both, *pair),
        # What the gates add to it.
        "pair: added by gates": gate_contrast(maps, both, *pair),
        # Self less other features, with the rival's exemplars: what the ranking loss compares.
        "pair: self - other": contrast_map(maps * rival_only[:, None, None], *pair),
        # Channels whose gates differ between the exemplars of both classes, without classifier.
        "pair: gates that differ": np.einsum("nhwd,nd->nhw", maps, shift),
    }


def _nearest(
    bank: Bank, x: Float[np.ndarray, "N D"], labels: Int[np.ndarray, " N"]
) -> Float[np.ndarray, "N E D"]:
    """Return the features of the nearest training images of a class, by cosine."""

    def unit(rows: np.ndarray) -> np.ndarray:
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)

    cosine = unit(x) @ unit(bank.features).T  # [N train]
    cosine[bank.labels[None] != labels[:, None]] = -np.inf
    return bank.features[np.argsort(-cosine, axis=1)[:, :EXEMPLARS]]


def _gates(
    run: TrainedRun, x: Float[np.ndarray, "N D"], exemplars: Float[np.ndarray, "N E D"]
) -> tuple[np.ndarray, np.ndarray]:
    count = exemplars.shape[1]
    pairs = pair_gates(run, x.repeat(count, axis=0), exemplars.reshape(-1, x.shape[1]))
    return tuple(gates.reshape(exemplars.shape) for gates in pairs)


def _gate_mean(gates: Float[np.ndarray, "N E D"]) -> Float[np.ndarray, "N D"]:
    return gates.mean(axis=1)
