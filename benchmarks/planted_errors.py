"""Plants wrong labels and near-duplicates, and counts what the audit finds.

    python -m benchmarks.planted_errors --data PHOTOS --features WEIGHTS
    python -m benchmarks.planted_errors --run RUN

Five per cent of the labels are replaced by random other ones. With --features all labels are
scored by the linear discriminant across folds, with --run those of the test images by the network,
which never saw them. "Found" and "share wrong" are about labels with a probability of at most 1 %,
which the report counts. Near-duplicates (--features only) are altered copies of every 15th photo.
"""

import argparse
import io
import itertools
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance

from apinet_jax.answers.audits.audit import LIKELY, NEAR_DUPLICATE, NEIGHBOURS, nearest
from apinet_jax.answers.audits.label_errors import mistakenness, out_of_fold
from apinet_jax.answers.report.figures import auroc
from apinet_jax.data.catalog import open_dataset
from apinet_jax.method.calibration import softmax
from apinet_jax.pretrained_trunk import load_trunk
from apinet_jax.system.console import tracked

SHARE, EVERY = 20, 15  # one label in 20, one photo in 15


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="a folder of photos")
    parser.add_argument("--features", help="pretrained weights")
    parser.add_argument("--run", action="append", help="a trained run; may be repeated")
    parser.add_argument("--seeds", type=int, default=5, help="draws of wrong labels (default: 5)")
    arguments = parser.parse_args()
    print("| scored by | ranked by | AUROC | wrong among the first n | found | share wrong |")
    print("|---|---|---|---|---|---|")
    if arguments.features:
        features, labels, copies = read(arguments.data, arguments.features)
        classes = int(labels.max()) + 1
        folds = labels, lambda wrong: out_of_fold(features, wrong, classes)
        report("folds", [folds], arguments.seeds)
    if arguments.run:
        report("network", [network(run) for run in arguments.run], arguments.seeds)
    if arguments.features:
        near_duplicates(features, copies)


def network(run: str) -> tuple[np.ndarray, Callable]:
    """Return the labels of the test images, and their probabilities whatever the labels are."""
    import apinet_jax

    trained = apinet_jax.load(run)
    bank = trained.bank("test")
    probability = softmax(bank.logits, trained.temperature)
    return bank.labels, lambda wrong: probability


def report(scorer: str, sets: list[tuple[np.ndarray, Callable]], seeds: int) -> None:
    """Print mean figures over sets of images and draws of wrong labels."""
    figures = {"mistakenness": [], "probability of the label": []}
    for (labels, score), seed in itertools.product(sets, range(seeds)):
        random, wrong = np.random.default_rng(seed), labels.copy()
        planted = random.choice(len(labels), len(labels) // SHARE, replace=False)
        classes = int(labels.max()) + 1
        wrong[planted] = (wrong[planted] + random.integers(1, classes, len(planted))) % classes
        probability = score(wrong)
        own = np.take_along_axis(probability, wrong[:, None], axis=1)[:, 0]
        bad, likely = wrong != labels, own <= LIKELY
        shares = (bad & likely).sum() / bad.sum(), bad[likely].mean()
        for name, scores in (
            ("mistakenness", mistakenness(probability, wrong)),
            ("probability of the label", -own),
        ):
            first = np.argsort(-scores, kind="stable")[: bad.sum()]
            figures[name].append((auroc(scores, bad), bad[first].mean(), *shares))
    for name, rows in figures.items():
        area, *rest = np.mean(rows, axis=0)
        percent = " | ".join(f"{100 * value:.0f} %" for value in rest)
        print(f"| {scorer} | {name} | {area:.3f} | {percent} |")


def recoded(image: Image.Image) -> Image.Image:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=50)
    return Image.open(content)


ALTERED = {
    "JPEG of quality 50": recoded,
    "2 % cut off each side": lambda image: image.crop(
        [round(share * side) for share in (0.02, 0.98) for side in image.size]
    ),
    "20 % brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "half the size": lambda image: image.resize([side // 2 for side in image.size]),
}


def read(data: str, weights: str) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Return features and labels of all photos, and features of altered copies."""
    dataset, trunk = open_dataset("folder", data), load_trunk(weights)
    sources = list(dataset.splits.values())
    pictures = [(source, int(row)) for source in sources for row in source.rows]
    parts, copies = [], {name: [] for name in ALTERED}
    for number, (source, row) in enumerate(tracked(pictures, "Features", len(pictures))):
        image = source.picture(row)
        parts.append(trunk.features([image]))
        if number % EVERY == 0:
            for name, alter in ALTERED.items():
                copies[name].append(trunk.features([alter(image)]))
    labels = np.concatenate([source.labels for source in sources])
    return (
        np.concatenate(parts),
        labels,
        {name: np.concatenate(rows) for name, rows in copies.items()},
    )


def near_duplicates(features: np.ndarray, copies: dict[str, np.ndarray]) -> None:
    """Print how many altered copies are found next to their originals."""

    def ratios(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        index, cosine = nearest(rows, NEIGHBOURS)
        scale = (1 - cosine[:, -1:] + 1 - cosine[index, -1]) / 2
        return index, (1 - cosine) / scale

    index, ratio = ratios(features)
    rows = np.argwhere(ratio <= NEAR_DUPLICATE)
    pairs = {tuple(sorted((int(row), int(index[row, place])))) for row, place in rows}
    print(f"\n{len(pairs)} pairs among {len(features):,} photos as they are.\n")
    print("| copy | found |\n|---|---|")
    for name, altered in copies.items():
        index, ratio = ratios(np.concatenate([features, altered]))
        originals = np.arange(0, len(features), EVERY)
        mine = slice(len(features), None)
        hits = ((index[mine] == originals[:, None]) & (ratio[mine] <= NEAR_DUPLICATE)).any(axis=1)
        print(f"| {name} | {100 * hits.mean():.0f} % |")


if __name__ == "__main__":
    main()
