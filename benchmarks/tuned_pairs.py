"""Scores the best classes of a photo again by pairs, with a trunk that was fine-tuned.

    python -m benchmarks.evidence --pack=cub50.npz --weights=WEIGHTS --out=runs/tuned --crop=128
    python -m benchmarks.tuned_pairs --pack=cub50.npz --weights=WEIGHTS --out=runs/tuned --crop=128

Continues `benchmarks.evidence` in the same folder, and trains the best recipe of each method again,
first without a fifth of the training images. On these the weight of each score is fitted:
log p(c) + weight * score, where each of the five best classes of a photo is represented by its
nearest training photo. Then on all of them, for the test. The scores are the cosine of the pooled
features, and for API-Net the log-probability that both photos are of one class.

Rows are written to `pairs.jsonl`, and the same command continues after an interruption.
"""

from functools import partial

import jax
import numpy as np
from jaxtyping import Bool, Int

from apinet_jax.answers.unknown.scores import unit_length
from apinet_jax.data.transforms import center_crop
from apinet_jax.method.calibration import log_softmax
from apinet_jax.method.types import TrainState
from apinet_jax.system.allocator import restart_with_allocator
from apinet_jax.system.compilation_cache import enable_compilation_cache
from apinet_jax.system.console import tracked
from benchmarks.exemplars import Known, Scored
from benchmarks.in_memory import Trainer
from benchmarks.packed_photos import unpack
from benchmarks.seed_study import (
    FOLDS,
    Rows,
    base_config,
    best_settings,
    complete,
    make_parser,
    places_in_class,
    print_table,
)
from benchmarks.trained_scores import CANDIDATES, agreement, apply_score

CELLS = ("softmax", "API-Net")


def scored(
    trainer: Trainer,
    state: TrainState,
    known: tuple[np.ndarray, Int[np.ndarray, " n"]],
    photos: tuple[np.ndarray, Int[np.ndarray, " M"]],
) -> Scored:
    """Return the best classes of photos.

    Args:
        trainer: What trained the network.
        state: Its state.
        known: Training photos [n R R 3] and their classes.
        photos: Other photos, and their classes.
    """
    crop = trainer.config.data.crop
    known_features, features = (
        trainer.features(state, np.stack([center_crop(image, crop) for image in images]))
        for images, _ in (known, photos)
    )
    rows = Known(np.arange(len(known[1])), known[1], unit_length(known_features))
    logits = trainer.logits(state, photos[0])
    best = np.argsort(-logits, axis=1, kind="stable")[:, :CANDIDATES]
    nearest = np.take_along_axis(rows.nearest(unit_length(features)), best, axis=1)
    alike = (unit_length(features)[:, None] * rows.features[nearest]).sum(axis=2)
    scores = {"cosine": alike}
    if trainer.config.method == "apinet":
        score = partial(agreement, trainer.program.model)
        params = jax.device_get(state.params)
        scores["interaction"] = apply_score(score, params, features, known_features, nearest)
    log_p = np.take_along_axis(log_softmax(logits), best, axis=1)
    return Scored(log_p, scores, best == photos[1][:, None])


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--crop", type=int, help="pixels; by default those of the weights")
    parser.add_argument("--seeds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--cells", nargs="+", default=CELLS, choices=CELLS)
    options = parser.parse_args()
    enable_compilation_cache()
    base = base_config(options.weights, options.crop)
    recipes, rows = Rows(options.out / "rows.jsonl"), Rows(options.out / "pairs.jsonl")
    train, test = (unpack(options.pack, base.data.resize)[split] for split in ("train", "test"))
    held_out = places_in_class(train.labels, 0) % FOLDS == 0
    for cell in options.cells:
        settings, trainers = best_settings(recipes, cell), {}

        def trained(
            chosen: Bool[np.ndarray, " N"], seed: int, settings=settings, trainers=trainers
        ):
            """Train on some photos; return what `scored` needs of them."""
            pixels, labels = train.pixels[chosen], train.labels[chosen]
            if len(labels) not in trainers:
                config = complete(base, settings, len(labels))
                trainers[len(labels)] = Trainer(config, len(labels), train.num_classes)
            trainer = trainers[len(labels)]
            return trainer, trainer.train(pixels, labels, seed), (pixels, labels)

        fitted = rows.find(stage="fit", cell=cell, settings=settings)
        if not fitted:
            hidden = (train.pixels[held_out], train.labels[held_out])
            weights = scored(*trained(~held_out, 0), hidden).weights()
            rows.add(stage="fit", cell=cell, settings=settings, weights=weights)
            fitted = rows.all[-1:]
        for seed in tracked(range(options.seeds), f"Seeds: {cell}", options.seeds):
            key = {"few": None, "stage": "test", "settings": settings, "seed": seed}
            if rows.find(**key, cell=cell):
                continue
            everything = np.ones(len(train.labels), bool)
            found = scored(*trained(everything, seed), (test.pixels, test.labels))
            for name, weight in fitted[0]["weights"].items():
                top1 = found.top1(name, weight)
                rows.add(**key, cell=f"{cell}, {name}", top1=top1, weight=weight)
            rows.add(**key, cell=cell, top1=found.top1())
    print_table(rows)


if __name__ == "__main__":
    restart_with_allocator()
    main()
