"""Scores the roll-up: how often answers are right at the level at which they are given.

    python -m benchmarks.roll_up --runs runs/answers-birds/*/seed*

The taxonomy has two levels: the species, and the last word of its name, as Strandpiper. It is the
genus of the drawn birds, and a group of similar species in CUB. Scores are those of all test
images; figures are means over the runs of a method.
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

import apinet_jax
from apinet_jax.answers.prediction.naming import Naming, name_rows
from apinet_jax.answers.prediction.taxonomy import UNKNOWN, Level, only_classes
from apinet_jax.answers.trained_run import TrainedRun

GROUP = "group"


def taxonomy_of(class_names: Sequence[str]) -> tuple[Level, Level]:
    groups = [name.replace("_", " ").split()[-1] for name in class_names]
    names, group_of = np.unique(groups, return_inverse=True)
    return *only_classes(class_names), Level(GROUP, tuple(names.tolist()), group_of)


def figures(run: TrainedRun, confidence: float) -> list[float]:
    """Shares in percent; NaN where no answer has that level."""
    bank = run.bank("test")
    levels = taxonomy_of(run.class_names)
    naming = Naming(run.class_names, run.temperature, levels, confidence)
    answers = name_rows(bank.logits, naming, top=1)
    right = np.array([label in a.labels for a, label in zip(answers, bank.labels, strict=True)])
    level = np.array([answer.level for answer in answers])
    species, group, unknown = (level == name for name in (levels[0].name, GROUP, UNKNOWN))
    best = np.array([a.best[0][0] for a in answers]) == bank.labels
    parts = [best, species, right[species], group, right[group], unknown, right[~unknown]]
    return [100 * part.mean() if len(part) else np.nan for part in parts]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", nargs="+", required=True, help="workdirs")
    parser.add_argument(
        "--confidence", nargs="+", type=float, default=[0.5, 0.8, 0.9, 0.95], metavar="P"
    )
    arguments = parser.parse_args()

    runs = defaultdict(list)
    for workdir in arguments.runs:
        run = apinet_jax.load(workdir)
        runs[run.config.method].append(run)
    header = ["confidence", "best class right", "species", "right", "group", "right", "unknown"]
    print(f"| method (runs) | {' | '.join([*header, 'all answers right'])} |")
    print("|---|" + "---:|" * (len(header) + 1))
    for method, some in sorted(runs.items()):
        for confidence in arguments.confidence:
            found = np.array([figures(run, confidence) for run in some])
            means = [f"{column[~np.isnan(column)].mean():.1f}" for column in found.T]
            print(f"| {method} ({len(some)}) | {confidence:g} | {' | '.join(means)} |")


if __name__ == "__main__":
    main()
