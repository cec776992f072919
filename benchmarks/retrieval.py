"""Finds and adds classes that a run was not trained on: recall@k, and the gallery.

    python -m benchmarks.retrieval --photos=CUB50 --link=runs/first40
    python -m apinet_jax sweep configs/sweeps/answers_photos.py --folder=runs/retrieval \
        --set data.dir=runs/first40 --set model.pretrained=WEIGHTS
    python -m benchmarks.retrieval --photos=CUB50 --runs=runs/retrieval --weights=WEIGHTS

Networks are trained on the first 40 classes. Recall@k: for each photo of the other ten classes,
whether one of its k nearest by cosine, among all other photos of the ten, shows the same class.
Gallery: the ten are added from 5 training photos each, and the test photos of all 50 classes are
named. Five draws of the 5 photos are averaged.
"""

from collections import defaultdict
from typing import Any

import numpy as np

from apinet_jax import load_trunk
from apinet_jax.answers.trained_run import TrainedRun
from apinet_jax.answers.unknown.gallery import class_means, divide, fit_cosines
from apinet_jax.answers.unknown.scores import unit_length
from benchmarks.photo_classes import (
    METHODS,
    link_classes,
    mean_sd,
    parser,
    photos_of,
    row,
    runs_of,
)

OLD, NEW = tuple(range(40)), tuple(range(40, 50))
RANKS = (1, 2, 4, 8)
SHOTS, DRAWS = 5, 5
NEIGHBOURS = (1, 3, 5)


def nearest_photos(features: np.ndarray, k: int) -> Any:
    """Return an exact search for the k nearest photos by cosine."""
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute").fit(features)


def recall(features: np.ndarray, labels: np.ndarray) -> list[float]:
    """Return recall@k for each of `RANKS`: each photo against all others."""
    # Each photo itself is left out.
    nearest = nearest_photos(features, max(RANKS)).kneighbors(return_distance=False)
    same = labels[nearest] == labels[:, None]
    return [float(same[:, :rank].any(axis=1).mean()) for rank in RANKS]


def similarity(
    features: np.ndarray, reference: np.ndarray, labels: np.ndarray, classes: int, k: int | None
) -> np.ndarray:
    """Return cosines to class means, or the mean over the k nearest photos of each class."""
    if k is None:
        return unit_length(features) @ class_means(reference, labels, classes).T
    columns = []
    for label in range(classes):
        own = reference[labels == label]
        distances, _ = nearest_photos(own, min(k, len(own))).kneighbors(features)
        columns.append(1 - distances.mean(axis=1))
    return np.stack(columns, axis=1)


def added(run: TrainedRun, new: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[tuple, list]:
    """Return the accuracy on old and on new classes after the ten were added, for each design.

    A design is how similar photos are (`None`: to class means, or to k neighbours), and who names
    the old classes: the similarities or the classifier.
    """
    train, held_out, test = (run.bank(split) for split in ("train", "validation", "test"))
    old, count = len(OLD), len(OLD) + len(NEW)
    (few_from, few_labels), (new_test, new_labels) = new["train"], new["test"]
    features = np.concatenate([test.features, new_test])
    logits = np.concatenate([test.logits, run_logits(run, new_test)])
    labels = np.concatenate([test.labels, new_labels])
    is_old = labels < old
    found = defaultdict(list)
    found["before"] = [(float((test.logits.argmax(axis=1) == test.labels).mean()), 0.0)]
    for draw in range(DRAWS):
        random = np.random.default_rng([run.config.seed, draw])
        few = np.concatenate(
            [random.choice(np.flatnonzero(few_labels == n), SHOTS, replace=False) for n in NEW]
        )
        reference = np.concatenate([train.features, few_from[few]])
        classes = np.concatenate([train.labels, few_labels[few]])
        for k in (None, *NEIGHBOURS):
            cosines = similarity(held_out.features, train.features, train.labels, old, k)
            temperature = fit_cosines(cosines, held_out.labels)
            similar = similarity(features, reference, classes, count, k) / temperature
            joined = divide(similar, logits / run.temperature)
            for who, scores in (("similarity", similar), ("classifier", joined)):
                right = scores.argmax(axis=1) == labels
                found[k, who].append((float(right[is_old].mean()), float(right[~is_old].mean())))
    return found


def run_logits(run: TrainedRun, features: np.ndarray) -> np.ndarray:
    """Return the logits of features."""
    return features @ run.kernel + run.bias


def main() -> None:
    arguments = parser(__doc__, "the first 40 classes")
    arguments.add_argument("--weights", help="also score these pretrained weights, untrained")
    arguments = arguments.parse_args()
    if arguments.link:
        link_classes(arguments.photos, OLD, arguments.link)
        return
    files = {split: photos_of(arguments.photos, split, NEW) for split in ("train", "test")}
    every = [path for paths, _ in files.values() for path in paths]
    labels = np.concatenate([numbers for _, numbers in files.values()])
    first = len(files["train"][0])
    recalls, figures = defaultdict(list), defaultdict(list)
    if arguments.weights:
        recalls["pretrained"].append(recall(load_trunk(arguments.weights).features(every), labels))
    for method, run in runs_of(arguments.runs, arguments.photos, OLD) if arguments.runs else ():
        features = run.features(every)
        recalls[method].append(recall(features, labels))
        new = {
            "train": (features[:first], labels[:first]),
            "test": (features[first:], labels[first:]),
        }
        for design, pairs in added(run, new).items():
            figures[method, design].append(np.mean(pairs, axis=0))
    print(f"\nRecall in percent, {len(every)} photos of ten classes that were not trained on:\n")
    print(row("features", *(f"@{rank}" for rank in RANKS)))
    print(row(*["---"] * (1 + len(RANKS))))
    for name, found in recalls.items():
        print(row(name, *(mean_sd(values) for values in zip(*found, strict=True))))
    if not figures:
        return
    print(f"\nTop-1 in percent after ten classes were added from {SHOTS} photos each:\n")
    print(row("run", "similarity", "old classes named by", "old", "new", "mean of both"))
    print(row(*["---"] * 6))
    for method in METHODS.values():
        before = [pair[0] for pair in figures[method, "before"]]
        print(row(method, "before adding", "classifier", mean_sd(before), "", ""))
        for (name, design), found in figures.items():
            if name != method or design == "before":
                continue
            k, who = design
            how = "class mean" if k is None else f"{k} nearest"
            old, new = zip(*found, strict=True)
            print(row(method, how, who, mean_sd(old), mean_sd(new), mean_sd(np.mean(found, 1))))


if __name__ == "__main__":
    main()
