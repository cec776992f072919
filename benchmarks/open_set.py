"""Recognises unknown species: five scores on the open-set split of the Semantic Shift Benchmark.

    python -m benchmarks.open_set --photos=CUB50 --link=runs/known
    python -m apinet_jax sweep configs/sweeps/answers_photos.py --folder=runs/open \
        --set data.dir=runs/known --set model.pretrained=WEIGHTS
    python -m benchmarks.open_set --photos=CUB50 --runs=runs/open

Vaze et al., "Open-Set Recognition: a Good Closed-Set Classifier is All You Need?", ICLR 2022. The
first 50 classes of CUB-200-2011 have 24 of its known classes, and 26 unknown ones, easy, medium or
hard by how many attributes they share with known ones. Test images of known classes are ranked
against all test images of unknown ones. Higher AUROC and lower FPR@95 (unknown photos taken for
known ones, where 95 % of the known ones are) are better.
"""

from collections import defaultdict
from typing import NamedTuple

import numpy as np

from apinet_jax.answers.trained_run import TrainedRun
from apinet_jax.answers.unknown.scores import DEFAULT_SCORE, SCORES
from apinet_jax.inference import Description
from benchmarks.pair_metrics import auroc, far_at_tar, roc_curve
from benchmarks.photo_classes import (
    METHODS,
    link_classes,
    mean_sd,
    parser,
    photos_of,
    row,
    runs_of,
)

KNOWN = (0, 5, 7, 9, 11, 12, 15, 17, 18, 19, 23, 26, 27, 28, 30, 31, 34, 38, 39, 40, 42, 43, 44, 48)
UNKNOWN = {
    "easy": (1, 4, 6, 14, 16, 20, 33, 35, 41, 46, 47),
    "medium": (2, 10, 21, 22, 37, 45, 49),
    "hard": (3, 8, 13, 24, 25, 29, 32, 36),
}


class Figures(NamedTuple):
    """How well a score separates known from unknown photos; shares from 0 to 1.

    Attributes:
        auroc: Area under the ROC curve.
        fpr_95: Share of unknown photos taken for known ones, where 95 % of the known ones are.
        called_unknown: Share of unknown photos below the threshold for 5 % false alarms.
        false_alarms: Share of known test photos below it.
    """

    auroc: float
    fpr_95: float
    called_unknown: float
    false_alarms: float


def measure(run: TrainedRun, unknown: dict[str, Description]) -> dict[tuple[str, str], Figures]:
    """Return the figures of each score and difficulty."""
    test = run.bank("test")
    known = Description(test.features, test.logits)
    found = {}
    for name in SCORES:
        detector = run.detector(name)
        verdict = detector.judge(known)
        for difficulty, photos in unknown.items():
            other = detector.judge(photos)
            scores = np.concatenate([verdict.scores, other.scores])
            is_known = np.arange(len(scores)) < len(verdict.scores)
            curve = roc_curve(scores, is_known)
            found[name, difficulty] = Figures(
                auroc(curve),
                far_at_tar(curve, 0.95),
                float(other.unknown.mean()),
                float(verdict.unknown.mean()),
            )
    return found


def main() -> None:
    arguments = parser(__doc__, "the known classes")
    arguments = arguments.parse_args()
    if arguments.link:
        link_classes(arguments.photos, KNOWN, arguments.link)
        return
    if not arguments.runs:
        raise SystemExit("Name the folder of the runs with --runs, or make one with --link.")
    files = {
        difficulty: photos_of(arguments.photos, "test", numbers)[0]
        for difficulty, numbers in UNKNOWN.items()
    }
    figures = defaultdict(list)
    accuracy = defaultdict(list)
    for method, run in runs_of(arguments.runs, arguments.photos, KNOWN):
        test = run.bank("test")
        accuracy[method].append(float((test.logits.argmax(axis=1) == test.labels).mean()))
        unknown = {difficulty: run.describe(photos) for difficulty, photos in files.items()}
        for (score, difficulty), found in measure(run, unknown).items():
            figures[method, score, difficulty].append(found)
    print_tables(figures, accuracy)


def print_tables(
    figures: dict[tuple[str, str, str], list[Figures]], accuracy: dict[str, list[float]]
) -> None:
    """Print the figures as Markdown, in percent."""
    methods = [method for method in METHODS.values() if method in accuracy]
    for method in methods:
        seeds = len(accuracy[method])
        print(f"{method}: {mean_sd(accuracy[method])} % top-1 on the known classes, {seeds} seeds")
    print("\nAUROC / FPR@95 in percent, mean ± standard deviation over the seeds:\n")
    print(row("method", "score", *UNKNOWN, "mean AUROC"))
    print(row(*["---"] * 6))
    for method in methods:
        for score in SCORES:
            lists = [figures[method, score, difficulty] for difficulty in UNKNOWN]
            cells = [
                " / ".join(mean_sd([one[column] for one in found]) for column in (0, 1))
                for found in lists
            ]
            means = [np.mean([one.auroc for one in seeds]) for seeds in zip(*lists, strict=True)]
            print(row(method, score, *cells, mean_sd(means)))
    print(f"\n`{DEFAULT_SCORE}` with its threshold for 5 % false alarms:\n")
    print(row("method", "known photos called unknown", *UNKNOWN))
    print(row(*["---"] * 5))
    for method in methods:
        lists = [figures[method, DEFAULT_SCORE, difficulty] for difficulty in UNKNOWN]
        alarms = mean_sd([one.false_alarms for one in lists[0]])
        print(row(method, alarms, *(mean_sd([o.called_unknown for o in found]) for found in lists)))


if __name__ == "__main__":
    main()
