"""A search of settings on held-out training images, and tests of the chosen ones over seeds.

Every result is a line of `rows.jsonl`, so an interrupted program continues where it stopped.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections
import numpy as np
from jaxtyping import Int, Shaped

from apinet_jax.config import default_config
from apinet_jax.models.weights.hub import find_pretrained
from apinet_jax.models.weights.recognise import check_weights
from apinet_jax.sweeps.comparison import compare
from apinet_jax.system.console import tracked
from benchmarks.in_memory import Trainer

FOLDS = 5

Settings = dict[str, Any]


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of the options that all studies share.

    With `--table`, which some studies have, only the rows are needed.
    """
    runs = "--table" not in sys.argv
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--pack", type=Path, required=runs, help="written by benchmarks.packed_photos"
    )
    parser.add_argument("--weights", required=runs, help="of the trunk, as model.pretrained")
    parser.add_argument("--out", type=Path, required=True, help="folder of rows.jsonl")
    return parser


def base_config(weights: str, crop: int | None = None) -> ml_collections.ConfigDict:
    """Return the settings that all runs share: the trunk of the weights, at their image size."""
    config, found = default_config(), find_pretrained(weights)
    config.model.trunk, config.model.pretrained = check_weights(found.path, None), weights
    config.model.mean, config.model.std = found.mean, found.std
    config.data.crop = crop or found.size or 224
    config.data.resize = round(config.data.crop * 8 / 7)
    return config


class Images(NamedTuple):
    """Images of both splits: resized pixels, or features of several views.

    Attributes:
        train: Pixels [N R R 3], or features [V N D] whose first view is the central crop.
        test: Pixels [T R R 3], or features of central crops [T D].
        train_labels: Class of each training image.
        test_labels: Class of each test image.
        num_classes: Classes, `C`.
    """

    train: Shaped[np.ndarray, "..."]
    test: Shaped[np.ndarray, "T ..."]
    train_labels: Int[np.ndarray, " N"]
    test_labels: Int[np.ndarray, " T"]
    num_classes: int

    def part(self, chosen: Int[np.ndarray, " n"]) -> np.ndarray:
        """Return some of the training images, in every view."""
        return self.train[:, chosen] if self.train.ndim == 3 else self.train[chosen]

    def without_crops(self, chosen: Int[np.ndarray, " n"]) -> np.ndarray:
        """Return some of the training images, as they are evaluated."""
        return self.train[0, chosen] if self.train.ndim == 3 else self.train[chosen]


class Rows:
    """Results in a file with one JSON object on each line; a result is never computed twice."""

    def __init__(self, file: Path):
        """Read the file if it exists."""
        self._file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = file.read_text().splitlines() if file.exists() else []
        self.all: list[dict[str, Any]] = [json.loads(line) for line in lines]

    def find(self, **key: Any) -> list[dict[str, Any]]:
        """Return the results whose fields have these values."""
        return [row for row in self.all if all(row.get(name) == key[name] for name in key)]

    def add(self, **row: Any) -> None:
        """Write a result."""
        with open(self._file, "a") as file:
            file.write(json.dumps(row) + "\n")
        self.all.append(row)


class Task:
    """Settings trained on all images of each class, or on few of them.

    Attributes:
        base: What all settings share.
        images: The images.
        rows: The results.
        few: Images of each class, `None` for all.
    """

    def __init__(
        self,
        base: ml_collections.ConfigDict,
        images: Images,
        rows: Rows,
        few: int | None = None,
    ):
        """Keep the arguments."""
        self.base, self.images, self.rows, self.few = base, images, rows, few
        weights = Path(base.model.pretrained or "none").stem
        self._key = {"weights": weights, "crop": base.data.crop, "few": few}
        self._title = f"{few or 'all'} images of a class"

    def search(self, drawn: list[Settings], confirmed: int, folds: int = FOLDS) -> Settings:
        """Return the best settings on held-out images.

        Args:
            drawn: The settings, each evaluated on one fold.
            confirmed: How many of them are then evaluated on other folds; the best mean decides.
            folds: Folds for these, of five.
        """
        title = f"{drawn[0]['method']}, {self._title}"
        scores = [
            self._evaluate(each, fold=0) for each in tracked(drawn, f"Search: {title}", len(drawn))
        ]
        first = [drawn[i] for i in np.argsort(-np.array(scores), kind="stable")[:confirmed]]
        means = [
            np.mean([self._evaluate(each, fold) for fold in range(folds)])
            for each in tracked(first, f"Other folds: {title}", len(first))
        ]
        return first[int(np.argmax(means))]

    def _evaluate(self, settings: Settings, fold: int) -> float:
        """Return the accuracy of settings on the held-out images of a fold."""
        key = {**self._key, "stage": "search", "settings": settings, "fold": fold}
        if known := self.rows.find(**key):
            return known[0]["top1"]
        labels = self.images.train_labels
        if self.few is None:
            held_out = places_in_class(labels, 0) % FOLDS == fold
        else:
            held_out = places_in_class(labels, 100 + fold) >= self.few
        train, held_out = np.flatnonzero(~held_out), np.flatnonzero(held_out)
        trainer = self._trainer(settings, len(train))
        state = trainer.train(self.images.part(train), labels[train], seed=fold)
        logits = trainer.logits(state, self.images.without_crops(held_out))
        top1 = accuracy(logits, labels[held_out])
        self.rows.add(**key, top1=top1)
        return top1

    def test(self, cell: str, settings: Settings, seeds: int) -> None:
        """Train a cell with all seeds, and evaluate it on the test images."""
        key = {**self._key, "stage": "test", "cell": cell, "settings": settings}
        images, trainer = self.images, None
        for seed in tracked(range(seeds), f"Test: {cell}, {self._title}", seeds):
            if self.rows.find(**key, seed=seed):
                continue
            chosen = np.arange(len(images.train_labels))
            if self.few is not None:
                places = places_in_class(images.train_labels, 200 + seed)
                chosen = np.flatnonzero(places < self.few)
            trainer = trainer or self._trainer(settings, len(chosen))
            state = trainer.train(images.part(chosen), images.train_labels[chosen], seed)
            top1 = accuracy(trainer.logits(state, images.test), images.test_labels)
            self.rows.add(**key, seed=seed, top1=top1)

    def _trainer(self, settings: Settings, count: int) -> Trainer:
        return Trainer(complete(self.base, settings, count), count, self.images.num_classes)


def complete(
    base: ml_collections.ConfigDict, settings: Settings, num_images: int
) -> ml_collections.ConfigDict:
    """Return the configuration of a run; `steps` and `frozen_steps` become epochs."""
    config = base.copy_and_resolve_references()
    changes = {name: value for name, value in settings.items() if "." in name or name == "method"}
    config.update_from_flattened_dict(changes)
    batch_size = config.batch.classes * config.batch.images
    steps_in_epoch = max(1, num_images // batch_size)
    config.optim.epochs = settings["steps"] / steps_in_epoch
    config.optim.frozen_epochs = settings.get("frozen_steps", 0) / steps_in_epoch
    return config


def best_settings(rows: Rows, cell: str, few: int | None = None) -> Settings:
    """Return the settings that a search chose for a cell."""
    tested = rows.find(few=few, stage="test", cell=cell)
    if not tested:
        raise SystemExit(f"These rows have no test of {cell}: run the search to its end first.")
    return tested[-1]["settings"]


def places_in_class(labels: Int[np.ndarray, " N"], seed: int) -> Int[np.ndarray, " N"]:
    """Return the place of each image in a random order of its class."""
    random = np.random.Generator(np.random.Philox(key=1_000 + seed))
    places = np.empty(len(labels), int)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        places[members] = random.permutation(len(members))
    return places


def accuracy(logits: np.ndarray, labels: Int[np.ndarray, " N"]) -> float:
    """Return the top-1 accuracy in percent; NaN for a run that diverged."""
    if not np.isfinite(logits).all():
        return float("nan")
    return 100 * float(np.mean(np.argmax(logits, axis=1) == labels))


def print_table(rows: Rows, few: int | None = None, baseline: str = "softmax") -> None:
    """Print the test accuracies, and the paired differences from one cell, or the first."""
    tested = rows.find(few=few, stage="test")
    settings: dict[str, Mapping[str, Any]] = {row["cell"]: row["settings"] for row in tested}
    scores: dict[str, dict[int, float]] = {}
    for row in tested:
        if row["settings"] == settings[row["cell"]]:  # of the last search
            scores.setdefault(row["cell"], {})[row["seed"]] = row["top1"]
    if not scores:
        return
    print(f"\n{few or 'All'} images of each class:\n")
    for cell in ("API-Net", "softmax"):
        print(f"{cell}: {settings.get(cell)}")
    baseline = baseline if baseline in scores else next(iter(scores))
    print(f"\n| cell | seeds | mean | sd | minus {baseline} | 95 % interval |")
    print("|---|---|---|---|---|---|")
    for line in compare(list(scores), scores, baseline):
        values = np.array(list(line.scores.values()))
        spread = f"{values.std(ddof=1):.2f}" if len(values) > 1 else ""
        text = f"| {line.cell} | {len(values)} | {values.mean():.2f} | {spread} |"
        if line.difference is not None:
            low, high = line.difference.low, line.difference.high
            text += f" {line.difference.mean:+.2f} | {low:+.2f} to {high:+.2f} |"
        else:
            text += " | |"
        print(text)
