"""Scores the question "are two photos of the same class?", for API-Net and softmax runs.

    python -m benchmarks.pair_scores --runs runs/apinet/seed* --baselines runs/softmax/seed*

Every score is calibrated on the held-out images of its run and measured on its test images, over
all pairs and over the hardest. The hardest are, for each score, all pairs of the same class, and
each image with the image of another class that this score finds most alike. EER is the equal error
rate. TAR is the largest true accept rate at a false accept rate of at most 1e-2 or 1e-3. ECE is the
calibration error of the probabilities, where both kinds of pairs weigh the same. Figures are means
over the runs, with the standard deviation of AUROC. `--candidates --split validation` compares the
scores that were tried for the interaction, on held-out images.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np

import apinet_jax
from apinet_jax.answers.bank import Bank
from apinet_jax.answers.pairs.calibration import calibration_pairs, fit_pair_calibration
from apinet_jax.answers.pairs.scores import (
    PAIRS_AT_ONCE,
    agreement,
    cosine,
    interaction_logits,
    pair_scores,
    pair_temperature,
)
from apinet_jax.answers.trained_run import TrainedRun
from apinet_jax.method.calibration import softmax
from apinet_jax.system.compilation_cache import enable_compilation_cache
from benchmarks.pair_metrics import (
    all_pairs,
    auroc,
    equal_error_rate,
    hardest_pairs,
    pair_calibration_error,
    roc_curve,
    tar_at_far,
)

PRIOR = 0.5
COLUMNS = ("AUROC", "EER", "TAR at 1e-2", "TAR at 1e-3", "ECE")
Scores = dict[str, np.ndarray]


class Row(NamedTuple):
    """Figures of one score of one run, over all pairs and over the hardest."""

    all: tuple[float, ...]
    hardest: tuple[float, ...]


def scores_of(run: TrainedRun, bank: Bank, pairs: np.ndarray, *, candidates: bool) -> Scores:
    """Return every score of every pair of a split."""
    parts: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(pairs), PAIRS_AT_ONCE):
        first, second = pairs[start : start + PAIRS_AT_ONCE].T
        found = plain_scores(run, bank, first, second)
        if run.has_gates and candidates:
            found |= candidate_scores(run, bank.features[first], bank.features[second])
        for name, score in found.items():
            parts.setdefault(name, []).append(score)
    scores = {name: np.concatenate(some) for name, some in parts.items()}
    if run.has_gates:
        scores = {"interaction": pair_scores(run, bank.features, pairs)} | scores
    return scores


def plain_scores(run: TrainedRun, bank: Bank, first: np.ndarray, second: np.ndarray) -> Scores:
    """Return the scores without gates."""
    logits = bank.logits / run.temperature
    return {
        "agreement without gates": agreement(logits[first], logits[second]),
        "cosine of features": cosine(bank.features[first], bank.features[second]),
    }


def candidate_scores(run: TrainedRun, x_1: np.ndarray, x_2: np.ndarray) -> Scores:
    """Return the other scores that were tried for the interaction."""
    (gate_1, gate_2), (back_2, back_1) = run.gates(x_1, x_2), run.gates(x_2, x_1)
    own_1, own_2 = (gate_1 + back_1) / 2, (gate_2 + back_2) / 2

    def logits(x: np.ndarray, gate: np.ndarray) -> np.ndarray:
        return (x * (1 + gate) @ run.kernel + run.bias) / pair_temperature(run)

    self_1, other_1 = logits(x_1, own_1), logits(x_1, own_2)
    self_2, other_2 = logits(x_2, own_2), logits(x_2, own_1)
    probability_1 = (softmax(self_1) + softmax(other_1)) / 2
    probability_2 = (softmax(self_2) + softmax(other_2)) / 2
    rows = np.arange(len(x_1))
    margins = [
        (softmax(own) - softmax(other))[rows, own.argmax(axis=1)]
        for own, other in ((self_1, other_1), (self_2, other_2))
    ]
    both = 1 + (own_1 + own_2) / 2
    mean_1, mean_2 = interaction_logits(run, x_1, x_2)
    centred = (rows - rows.mean(axis=1, keepdims=True) for rows in (mean_1, mean_2))
    return {
        "interaction, temperature of plain features": agreement(
            mean_1 / run.temperature, mean_2 / run.temperature
        ),
        "mean of probabilities": np.log((probability_1 * probability_2).sum(axis=1)),
        "both under one gate": (agreement(self_1, other_2) + agreement(other_1, self_2)) / 2,
        "ranking margins": -(margins[0] + margins[1]),
        "cosine of gated features": cosine(x_1 * both, x_2 * both),
        "cosine of gated logits": cosine(*centred),
    }


def figures(
    scores: np.ndarray, same: np.ndarray, probability: np.ndarray | None
) -> tuple[float, ...]:
    """Return the figures of `COLUMNS`."""
    curve = roc_curve(scores, same)
    ece = np.nan if probability is None else pair_calibration_error(probability, same, PRIOR)
    rates = (tar_at_far(curve, 1e-2), tar_at_far(curve, 1e-3))
    return (auroc(curve), equal_error_rate(curve), *rates, ece)


def rows_of(folder: Path, split: str, *, candidates: bool) -> dict[str, Row]:
    """Return the figures of every score of a run."""
    run = apinet_jax.load(folder)
    bank, held_out = run.bank(split), run.bank("validation")
    pairs, fitted = all_pairs(len(bank.labels)), calibration_pairs(held_out.labels)
    same = bank.labels[pairs[:, 0]] == bank.labels[pairs[:, 1]]
    found = scores_of(run, bank, pairs, candidates=candidates)
    known = scores_of(run, held_out, fitted, candidates=candidates)
    kind = "API-Net" if run.has_gates else "softmax"
    rows = {}
    for name, score in found.items():
        probability = None
        if split != "validation":  # else it was fitted on these pairs
            calibration = fit_pair_calibration(held_out.labels, fitted, known[name])
            probability = calibration.probability(score, PRIOR)
        hard = hardest_pairs(score, bank.labels)
        rows[f"{kind}: {name}"] = Row(
            figures(score, same, probability),
            figures(score[hard], same[hard], None if probability is None else probability[hard]),
        )
    print(
        f"{folder}: {len(bank.labels):,} images, {same.sum():,} of {len(same):,} pairs", flush=True
    )
    return rows


def table(rows: dict[str, list[Row]], pairs: str) -> list[str]:
    """Return a Markdown table: means over runs."""
    lines = [f"| score | {' | '.join(COLUMNS)} |", "|---|" + "---|" * len(COLUMNS)]
    for name, runs in rows.items():
        values = np.array([getattr(row, pairs) for row in runs])
        mean = values.mean(axis=0)
        spread = f" ± {values[:, 0].std(ddof=1):.4f}" if len(runs) > 1 else ""
        cells = [f"{mean[0]:.4f}{spread}", *(f"{value:.3f}" for value in mean[1:])]
        lines.append(f"| {name} | {' | '.join(cells)} |".replace("nan", "-"))
    return lines


def differences(rows: dict[str, list[Row]], pairs: str) -> list[str]:
    """Return how far the AUROC of the interaction is ahead of other scores, seed by seed."""
    reference, *others = rows
    lines = [f"AUROC of {reference}, less that of:"]
    for name in others:
        if len(rows[name]) == len(rows[reference]):
            values = [
                getattr(ours, pairs)[0] - getattr(theirs, pairs)[0]
                for ours, theirs in zip(rows[reference], rows[name], strict=True)
            ]
            listed = ", ".join(f"{value:+.4f}" for value in values)
            lines.append(f"- {name}: {np.mean(values):+.4f} ({listed})")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="API-Net runs")
    parser.add_argument(
        "--baselines", type=Path, nargs="+", default=[], help="softmax runs, in the order of seeds"
    )
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    parser.add_argument("--candidates", action="store_true", help="other scores of the interaction")
    arguments = parser.parse_args()
    enable_compilation_cache()
    rows: dict[str, list[Row]] = {}
    for folder in (*arguments.runs, *arguments.baselines):
        found = rows_of(folder, arguments.split, candidates=arguments.candidates)
        for name, row in found.items():
            rows.setdefault(name, []).append(row)
    for pairs, title in (("all", "All pairs"), ("hardest", "The hardest pairs")):
        print(f"\n{title} of {arguments.split} images:\n", *table(rows, pairs), sep="\n")
        print("", *differences(rows, pairs), sep="\n")


if __name__ == "__main__":
    main()
