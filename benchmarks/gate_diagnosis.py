"""What the gates of API-Net do to features that never move, and whether its partners are rivals.

    python -m benchmarks.gate_diagnosis --pack=cub50.npz --weights=WEIGHTS --out=DIR

Continues `benchmarks.frozen_heads` in the same folder: its best settings of each method are trained
again. The partner of a training image is its nearest image among all training images.

*Rival* of a class: the class for which softmax mistakes its test images most often, counted over
the seeds. *Own gate*: an image under the gate of the pair with itself. *Mean gate*: the mean of the
gates of all training pairs. *Effective rank* of vectors: (sum of the eigenvalues of their
covariance)² / (sum of squared eigenvalues).
"""

import argparse
from pathlib import Path
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
from benchmarks.frozen_heads import base_config, read_features
from benchmarks.in_memory import Trainer
from benchmarks.search_and_test import Images, Rows, Settings, accuracy, complete

SEEDS = 10


class Diagnosis(NamedTuple):
    """Figures of one seed.

    Attributes:
        gate: Mean of all gates.
        gate_sd: Their standard deviation.
        constant: Part of their variance that a constant for each channel explains.
        gate_rank: Effective rank of the gates.
        feature_rank: Effective rank of the features.
        gated_loss: Cross-entropy of training images under the gates of their pairs.
        bare_loss: The same without gates.
        test_bare: Top-1 of test images without gates, in percent.
        test_own: The same under their own gates.
        test_mean: The same under the mean gate.
    """

    gate: float
    gate_sd: float
    constant: float
    gate_rank: float
    feature_rank: float
    gated_loss: float
    bare_loss: float
    test_bare: float
    test_own: float
    test_mean: float


def effective_rank(rows: Float[np.ndarray, "N D"]) -> float:
    """Return the effective rank of vectors."""
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
        gate_rank=effective_rank(found),
        feature_rank=effective_rank(np.asarray(features)),
        gated_loss=float(cross_entropy(classify(x_1 + x_1 * found), both).mean()),
        bare_loss=float(cross_entropy(classify(features), labels).mean()),
        test_bare=top1(0.0),
        test_own=top1(gates(test, test)),
        test_mean=top1(mean[None]),
    )


def rival_shares(
    images: Images, rivals: Int[np.ndarray, "C C"]
) -> tuple[Float[np.ndarray, " 3"], float]:
    """Return how often the partner of another class is of the first three rivals, and by chance.

    Args:
        images: The images.
        rivals: The other classes by the number of mistakes, for each class.
    """
    labels = images.train_labels
    pairs = mine_pairs(images.train[0], jnp.asarray(labels), jnp.arange(len(labels)))
    partner = labels[np.asarray(pairs.inter)]
    shares = [np.mean((rivals[labels, :n] == partner[:, None]).any(axis=1)) for n in (1, 2, 3)]
    return np.array(shares), 1 / (images.num_classes - 1)


def best_settings(rows: Rows, cell: str) -> Settings:
    """Return what `benchmarks.frozen_heads` chose."""
    return rows.find(few=None, stage="test", cell=cell)[0]["settings"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--pack", type=Path, required=True, help="written by benchmarks.packed_photos"
    )
    parser.add_argument("--weights", required=True, help="of the trunk, as model.pretrained")
    parser.add_argument("--out", type=Path, required=True, help="folder of rows.jsonl")
    options = parser.parse_args()
    base, rows = base_config(options.weights), Rows(options.out / "rows.jsonl")
    images = read_features(base, options.pack, options.out / "features.npz")
    base.train.features = "cache"

    def trainer_of(cell: str) -> Trainer:
        config = complete(base, best_settings(rows, cell), len(images.train_labels))
        return Trainer(config, images.train_labels, images.num_classes)

    softmax, apinet = trainer_of("softmax"), trainer_of("API-Net")
    mistakes, found = np.zeros((images.num_classes,) * 2), []
    for seed in tracked(range(SEEDS), "Heads", SEEDS):
        logits = softmax.logits(softmax.train(images.train, seed), images.test)
        np.add.at(mistakes, (images.test_labels, logits.argmax(axis=1)), 1)
        found.append(diagnose(apinet, apinet.train(images.train, seed), images))
    np.fill_diagonal(mistakes, -1)
    rivals = np.argsort(-mistakes, axis=1, kind="stable")
    shares, chance = rival_shares(images, rivals)
    print("| partner of another class is of | share | by chance |\n|---|---|---|")
    for n, share in enumerate(shares, start=1):
        print(f"| the first {n} rivals | {100 * share:.1f} % | {100 * n * chance:.1f} % |")
    print("\n| figure | mean | sd |\n|---|---|---|")
    for name, values in zip(Diagnosis._fields, np.transpose(found), strict=True):
        print(f"| {name} | {np.mean(values):.4g} | {np.std(values, ddof=1):.2g} |")
    for name in ("test_own", "test_mean"):
        difference = paired_difference(
            {seed: getattr(each, name) for seed, each in enumerate(found)},
            {seed: each.test_bare for seed, each in enumerate(found)},
        )
        print(f"\n{name} minus test_bare: {difference.mean:+.2f} ", end="")
        print(f"({difference.low:+.2f} to {difference.high:+.2f})")


if __name__ == "__main__":
    main()
