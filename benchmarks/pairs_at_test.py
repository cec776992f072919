"""Scores the best classes of a photo again, each by its nearest training photo.

    python -m apinet_jax sweep configs/sweeps/answers_birds.py --folder=runs/answers-birds
    python -m benchmarks.pairs_at_test --runs runs/answers-birds/*/seed*

As in PCNN (Nguyen et al., TMLR 2024) the probability of each of the N best classes is multiplied
with a score of the pair of the photo and the nearest training photo of that class:
log p(c) + weight * score. The weight is fitted on held-out images, by their cross-entropy, never
on test images. The network is as it was trained; nothing was trained for this use. The scores:

    interaction  log-probability that both photos are of one class, as `compare` uses it
    gated class  log-probability of the class under the gates of the pair
    cosine       of the pooled features

Prints top-1 on test images before and after, and the gain of each run.
"""

import argparse
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize_scalar

import apinet_jax
from apinet_jax.answers.bank import Bank
from apinet_jax.answers.pairs.scores import (
    cosine,
    interaction_logits,
    pair_scores,
    pair_temperature,
)
from apinet_jax.answers.trained_run import TrainedRun
from apinet_jax.answers.unknown.scores import unit_length
from apinet_jax.method.calibration import log_softmax
from apinet_jax.system.compilation_cache import enable_compilation_cache
from benchmarks.photo_classes import METHODS, row

_PAIRS_AT_ONCE = 4096
_LARGEST_WEIGHT = 50.0


class Candidates(NamedTuple):
    """The best classes of each image, and the training image that stands for each.

    Attributes:
        classes: The best classes, the first is the predicted one.
        exemplars: Nearest training image of each, by cosine.
    """

    classes: Int[np.ndarray, "M N"]
    exemplars: Int[np.ndarray, "M N"]


def candidates(bank: Bank, train: Bank, count: int) -> Candidates:
    """Return the best classes of each image, and the nearest training image of each class."""
    order = np.argsort(-bank.logits, axis=1, kind="stable")[:, :count]
    similar = unit_length(bank.features) @ unit_length(train.features).T
    of_class = train.labels == np.arange(bank.logits.shape[1])[:, None]  # [C images]
    nearest = np.stack(
        [np.where(members, similar, -np.inf).argmax(axis=1) for members in of_class], axis=1
    )
    return Candidates(order, np.take_along_axis(nearest, order, axis=1))


def scores(
    run: TrainedRun, bank: Bank, train: Bank, found: Candidates
) -> dict[str, Float[np.ndarray, "M N"]]:
    """Return the scores of every candidate; those that need gates only for an API-Net run."""
    count, features = len(bank.labels), np.concatenate([bank.features, train.features])
    first = np.broadcast_to(np.arange(count)[:, None], found.exemplars.shape)
    pairs = np.stack([first, count + found.exemplars], axis=-1).reshape(-1, 2)
    flat = {"interaction": pair_scores(run, features, pairs)}
    if run.has_gates:
        parts = []
        for start in range(0, len(pairs), _PAIRS_AT_ONCE):
            x_1, x_2 = features[pairs[start : start + _PAIRS_AT_ONCE].T]
            parts.append(interaction_logits(run, x_1, x_2)[0])
        gated = log_softmax(np.concatenate(parts) / pair_temperature(run))
        flat["gated class"] = np.take_along_axis(gated, found.classes.reshape(-1, 1), axis=1)[:, 0]
    flat["cosine"] = cosine(*features[pairs.T])
    return {name: values.reshape(found.classes.shape) for name, values in flat.items()}


def fit_weight(
    log_p: Float[np.ndarray, "M N"], score: Float[np.ndarray, "M N"], true: Int[np.ndarray, "M N"]
) -> float:
    """Return the weight of a score that suits the labels best; 0 if it does not help.

    Images whose class is not among the candidates say nothing about it.
    """
    known = true.any(axis=1)

    def loss(weight: float) -> float:
        return -log_softmax(log_p + weight * score)[known][true[known]].mean()

    best = minimize_scalar(loss, bounds=(0.0, _LARGEST_WEIGHT), method="bounded")
    return float(best.x) if best.fun < loss(0.0) else 0.0


def measure(run: TrainedRun, count: int) -> tuple[float, dict[str, tuple[float, float]]]:
    """Return top-1 before, and for each score the weight and top-1 after."""
    train = run.bank("train")
    found = {}
    for split in ("validation", "test"):
        bank = run.bank(split)
        best = candidates(bank, train, count)
        log_p = np.take_along_axis(log_softmax(bank.logits / run.temperature), best.classes, axis=1)
        true = best.classes == bank.labels[:, None]
        found[split] = (log_p, scores(run, bank, train, best), true)
    held_out, test = found["validation"], found["test"]
    after = {}
    for name, score in test[1].items():
        weight = fit_weight(held_out[0], held_out[1][name], held_out[2])
        chosen = (test[0] + weight * score).argmax(axis=1)
        after[name] = (weight, float(test[2][np.arange(len(chosen)), chosen].mean()))
    return float(test[2][:, 0].mean()), after


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="with held-out images")
    parser.add_argument("--top", type=int, default=10, help="classes to score (default: 10)")
    arguments = parser.parse_args()
    enable_compilation_cache()
    rows = defaultdict(list)
    for folder in arguments.runs:
        run = apinet_jax.load(folder)
        before, after = measure(run, min(arguments.top, len(run.class_names)))
        for name, (weight, top_1) in after.items():
            rows[METHODS[run.config.method], name].append((before, top_1, weight))
    print(row("method", "score", "runs", "before", "after", "gain", "weights"))
    print(row(*["---"] * 7))
    for (method, name), values in rows.items():
        before, after, weights = np.array(values).T
        gains = ", ".join(f"{100 * gain:+.1f}" for gain in after - before)
        print(
            row(
                *(method, name, len(values)),
                *(f"{100 * mean:.1f}" for mean in (before.mean(), after.mean())),
                f"{100 * (after - before).mean():+.2f} ({gains})",
                ", ".join(f"{weight:.2f}" for weight in weights),
            )
        )


if __name__ == "__main__":
    main()
