"""What the gates of API-Net do to frozen features, and whether its partners are rivals.

    python -m benchmarks.gate_diagnosis --pack=cub50.npz --weights=WEIGHTS --out=runs/lite0

Continues `benchmarks.frozen_heads` in the same folder: its best settings of each method are trained
again. The partner of a training image is its nearest image among all training images.

*Rival* of a class: the wrong class that softmax predicts most often for its test images, over all
seeds. Gates are those of each training image in its two pairs. *Own gate*: an image under the gate
of the pair with itself. *Mean gate*: the mean over all gates. *Participation ratio* of vectors:
(sum of the eigenvalues of their covariance)² / (sum of squared eigenvalues).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from apinet_jax.method.losses import cross_entropy
from apinet_jax.method.pairs import mine_pairs
from apinet_jax.method.types import TrainState
from apinet_jax.sweeps.comparison import paired_difference
from apinet_jax.system.console import tracked
from benchmarks.frozen_heads import read_features
from benchmarks.in_memory import Trainer
from benchmarks.seed_study import (
    Images,
    Rows,
    accuracy,
    base_config,
    best_settings,
    complete,
    make_parser,
)

SEEDS = 10


class Diagnosis(NamedTuple):
    """Figures of one seed.

    Attributes:
        gate: Mean of all gates.
        gate_sd: Their standard deviation.
        constant: Part of their variance that a constant for each channel explains.
        gate_ratio: Participation ratio of the gates.
        feature_ratio: Participation ratio of the features.
        gated_loss: Cross-entropy of training images under their gates.
        ungated_loss: The same without gates.
        test_ungated: Top-1 of test images without gates, in percent.
        test_own: The same under their own gates.
        test_mean: The same under the mean gate.
    """

    gate: float
    gate_sd: float
    constant: float
    gate_ratio: float
    feature_ratio: float
    gated_loss: float
    ungated_loss: float
    test_ungated: float
    test_own: float
    test_mean: float


def participation_ratio(rows: Float[np.ndarray, "N D"]) -> float:
    """Return how many directions the variance of vectors fills, from 1 to D."""
    spectrum = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False) ** 2
    return float(spectrum.sum() ** 2 / np.square(spectrum).sum())


def diagnose(trainer: Trainer, state: TrainState, images: Images) -> Diagnosis:
    """Return the figures of a trained head."""
    model, variables = trainer.program.model, {"params": state.params}
    features, labels = jnp.asarray(images.train[0]), jnp.asarray(images.train_labels)
    partner = mine_pairs(features, labels, jnp.arange(len(labels)))
    x_1 = jnp.concatenate([features, features])
    x_2 = jnp.concatenate([features[partner.intra], features[partner.inter]])
    both = jnp.concatenate([labels, labels])

    def gates(x_1: jax.Array, x_2: jax.Array) -> jax.Array:
        return model.apply(variables, x_1, x_2, train=False, method="gate_vectors")[0]

    def classify(x: jax.Array) -> jax.Array:
        return model.apply(variables, x, train=False, method="classify")

    def top1(gate: jax.Array | float) -> float:
        return accuracy(np.asarray(classify(test + test * gate)), images.test_labels)

    found, test = np.asarray(gates(x_1, x_2)), jnp.asarray(images.test)
    mean = found.mean(axis=0)
    return Diagnosis(
        gate=float(found.mean()),
        gate_sd=float(found.std()),
        constant=float(mean.var() / found.var()),
        gate_ratio=participation_ratio(found),
        feature_ratio=participation_ratio(np.asarray(features)),
        gated_loss=float(cross_entropy(classify(x_1 + x_1 * found), both).mean()),
        ungated_loss=float(cross_entropy(classify(features), labels).mean()),
        test_ungated=top1(0.0),
        test_own=top1(gates(test, test)),
        test_mean=top1(mean[None]),
    )


def rival_shares(
    labels: Int[np.ndarray, " N"],
    partners: Int[np.ndarray, " N"],
    mistakes: Int[np.ndarray, "C C"],
) -> list[float]:
    """Return the share of inter-class partners among the first 1, 2 and 3 rivals.

    Args:
        labels: Class of each image.
        partners: Class of its inter-class partner.
        mistakes: How often each class was mistaken for each other one.
    """
    rivals = np.argsort(-mistakes, axis=1, kind="stable")
    mistaken = np.take_along_axis(mistakes, rivals, axis=1) > 0
    hits = mistaken[labels] & (rivals[labels] == partners[:, None])
    return [float(np.mean(hits[:, :n].any(axis=1))) for n in (1, 2, 3)]


def main() -> None:
    parser = make_parser(__doc__)
    options = parser.parse_args()
    base, rows = base_config(options.weights), Rows(options.out / "rows.jsonl")
    images = read_features(base, options.pack, options.out / "features.npz")
    base.train.features = "cache"

    def trainer_of(cell: str) -> Trainer:
        config = complete(base, best_settings(rows, cell), len(images.train_labels))
        return Trainer(config, len(images.train_labels), images.num_classes)

    softmax, apinet = trainer_of("softmax"), trainer_of("API-Net")
    mistakes, found = np.zeros((images.num_classes,) * 2, int), []
    for seed in tracked(range(SEEDS), "Heads", SEEDS):
        ours, theirs = (
            trainer.train(images.train, images.train_labels, seed) for trainer in (apinet, softmax)
        )
        found.append(diagnose(apinet, ours, images))
        predicted = softmax.logits(theirs, images.test).argmax(axis=1)
        np.add.at(mistakes, (images.test_labels, predicted), 1)
    np.fill_diagonal(mistakes, 0)
    labels = images.train_labels
    pairs = mine_pairs(jnp.asarray(images.train[0]), jnp.asarray(labels), jnp.arange(len(labels)))
    shares = rival_shares(labels, labels[np.asarray(pairs.inter)], mistakes)
    print("| inter-class partner is of | share | a random one |\n|---|---|---|")
    for n, share in enumerate(shares, start=1):
        chance = n / (images.num_classes - 1)
        print(f"| the first {n} rivals | {100 * share:.1f} % | {100 * chance:.1f} % |")
    print("\n| figure | mean | sd |\n|---|---|---|")
    for name, values in zip(Diagnosis._fields, np.transpose(found), strict=True):
        print(f"| {name} | {np.mean(values):.4g} | {np.std(values, ddof=1):.2g} |")
    for name in ("test_own", "test_mean"):
        difference = paired_difference(
            {seed: getattr(each, name) for seed, each in enumerate(found)},
            {seed: each.test_ungated for seed, each in enumerate(found)},
        )
        print(f"\n{name} minus test_ungated: {difference.mean:+.2f} ", end="")
        print(f"({difference.low:+.2f} to {difference.high:+.2f})")


if __name__ == "__main__":
    main()
