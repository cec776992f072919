"""Scores the best classes of a photo again, by comparators that were trained to do so.

    python -m benchmarks.packed_photos --photos=PHOTOS --file=cub50.npz
    python -m benchmarks.frozen_heads --pack=cub50.npz --weights=WEIGHTS --out=runs/lite0 --few=0
    python -m benchmarks.comparator --pack=cub50.npz --weights=WEIGHTS --out=runs/lite0

Continues `benchmarks.frozen_heads` in the same folder, whose best softmax and API-Net heads are the
baselines. As in PCNN (Nguyen et al., TMLR 2024) each of their five best classes is represented by
its training photo that is nearest to the photo, and gets a score of that pair: log p(c) + weight *
score. The scores:

    cosine       of the pooled features
    interaction  log-probability that both photos are of one class, of the best API-Net head
    trained on   the same head, trained on to tell these pairs apart
    maps         a network with attention between the feature maps of both photos

Two controls compare nothing: log-probabilities of single photos by the other baseline, and by the
head that was trained on. A pair score that gains no more than they do has the gain of a second
head.

Training pairs are as hard as those at test time: a training photo with its nearest one of its own
class, and of each of the four wrong classes that softmax prefers if it never saw the photo. For
each seed everything is trained twice: without a fifth of the training images, on which the weight
of each score is fitted, and on all of them, for the test.

Rows are written to `comparator.jsonl`, and the same command continues after an interruption.
"""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from apinet_jax.answers.unknown.scores import unit_length
from apinet_jax.data.transforms import center_crop
from apinet_jax.method.calibration import log_softmax
from apinet_jax.models.layers import normalise
from apinet_jax.system.allocator import restart_with_allocator
from apinet_jax.system.compilation_cache import enable_compilation_cache
from apinet_jax.system.console import tracked
from benchmarks.exemplars import Known, Scored, hard_pairs
from benchmarks.frozen_heads import read_features
from benchmarks.in_memory import Trainer
from benchmarks.packed_photos import unpack
from benchmarks.seed_study import (
    FOLDS,
    Images,
    Rows,
    accuracy,
    base_config,
    best_settings,
    complete,
    make_parser,
    places_in_class,
    print_table,
)
from benchmarks.trained_scores import (
    CANDIDATES,
    STEPS,
    Comparator,
    agreement,
    apply_score,
    train_score,
)

METHODS = ("softmax", "API-Net")
SEEDS = 10


class Study:
    """Scores that were trained on some of the training photos.

    Attributes:
        images: Features of all photos.
        maps: Feature maps of the training and of the test photos [N T D], float16, if any.
        settings: The best settings of softmax and of API-Net.
    """

    def __init__(self, base: Any, rows: Rows, images: Images, maps: dict[str, np.ndarray] | None):
        """Keep the arguments."""
        self.base, self.images, self.maps = base, images, maps
        self.settings = {cell: best_settings(rows, cell) for cell in METHODS}
        self._trainers: dict[tuple[str, int, int], Trainer] = {}

    def head(
        self, cell: str, chosen: Int[np.ndarray, " n"], seed: int, extra_steps: int = 0
    ) -> tuple[Trainer, Any]:
        """Return a head that was trained on some of the training photos."""
        settings = self.settings[cell]
        settings = {**settings, "steps": settings["steps"] + extra_steps}
        key = (cell, len(chosen), extra_steps)
        if key not in self._trainers:
            config = complete(self.base, settings, len(chosen))
            self._trainers[key] = Trainer(config, len(chosen), self.images.num_classes)
        trainer = self._trainers[key]
        labels = self.images.train_labels[chosen]
        return trainer, trainer.train(self.images.part(chosen), labels, seed)

    def unseen_logits(self, chosen: Int[np.ndarray, " n"], seed: int) -> Float[np.ndarray, "n C"]:
        """Return the logits of training photos, by heads that never saw them."""
        images = self.images
        folds = places_in_class(images.train_labels[chosen], 400 + seed) % FOLDS
        logits = np.zeros((len(chosen), images.num_classes), np.float32)
        for fold in range(FOLDS):
            trainer, state = self.head("softmax", chosen[folds != fold], seed)
            hidden = chosen[folds == fold]
            logits[folds == fold] = trainer.logits(state, images.without_crops(hidden))
        return logits

    def measure(
        self, chosen: Int[np.ndarray, " n"], split: str, photos: Int[np.ndarray, " M"], seed: int
    ) -> dict[str, Scored]:
        """Train on some training photos, and score the best classes of others.

        Args:
            chosen: Training photos.
            split: Split of the others.
            photos: Their rows in it.
            seed: Seed of everything.

        Returns:
            The best classes of each head.
        """
        images, labels = self.images, self.images.train_labels
        central = images.train[0] if split == "train" else images.test
        true = (labels if split == "train" else images.test_labels)[photos]
        units = unit_length(images.train[0])
        known = Known(chosen, labels[chosen], units[chosen])
        exemplars = hard_pairs(
            self.unseen_logits(chosen, seed), labels[chosen], known.nearest(units[chosen], chosen)
        )
        heads = {cell: self.head(cell, chosen, seed) for cell in METHODS}
        log_p = {
            cell: log_softmax(trainer.logits(state, central[photos]))
            for cell, (trainer, state) in heads.items()
        }

        trainer, state = heads["API-Net"]
        gates = partial(agreement, trainer.program.model)
        arrays = {"features": (images.train[0], central)}
        ways = [("interaction", gates, state.params, None, "features")]
        ways.append(("trained on", gates, state.params, 1e-4, "features"))
        if self.maps is not None:
            maps = Comparator()
            key, few = jax.random.key(seed), self.maps["train"][:2]
            start = maps.init(key, few, np.array([[0, 1]]), False)

            def compare_maps(params: Any, batch: Array, pairs: Array, key: Any) -> Array:
                rngs = None if key is None else {"dropout": key}
                return maps.apply(params, batch, pairs, key is not None, rngs=rngs)

            arrays["maps"] = (self.maps["train"], self.maps[split])
            ways.append(("maps", compare_maps, start, 5e-4, "maps"))

        nearest = known.nearest(unit_length(central[photos]))
        best = {
            cell: np.argsort(-rows, axis=1, kind="stable")[:, :CANDIDATES]
            for cell, rows in log_p.items()
        }
        found = {cell: np.take_along_axis(nearest, best[cell], axis=1) for cell in METHODS}
        scores: dict[str, dict[str, np.ndarray]] = {cell: {} for cell in METHODS}
        for cell, other in zip(METHODS, METHODS[::-1], strict=True):
            alike = (unit_length(central[photos])[:, None] * units[found[cell]]).sum(axis=2)
            scores[cell]["cosine"] = alike
            scores[cell]["the other head"] = np.take_along_axis(log_p[other], best[cell], axis=1)
        for name, score, params, lr, kind in ways:
            train, inputs = arrays[kind]
            trained = params
            if lr is not None:
                trained = train_score(score, params, train, chosen, exemplars, lr, seed)
            for cell in METHODS:
                rows = inputs[photos], train, found[cell]
                scores[cell][name] = apply_score(score, trained, *rows)
            if name == "trained on":
                bare = log_softmax(trainer.logits(state._replace(params=trained), central[photos]))
                for cell in METHODS:
                    alone = np.take_along_axis(bare, best[cell], axis=1)
                    scores[cell]["trained on, without pairs"] = alone
        return {
            cell: Scored(
                np.take_along_axis(log_p[cell], best[cell], axis=1),
                scores[cell],
                best[cell] == true[:, None],
            )
            for cell in METHODS
        }


def read_maps(config: Any, pack: Path, file: Path) -> dict[str, np.ndarray]:
    """Return the feature maps of central crops [N T D], computed once and kept in a file."""
    if not file.exists():
        photos = unpack(pack, config.data.resize)
        trainer = Trainer(config, len(photos["train"].labels), photos["train"].num_classes)
        state, preprocess = trainer.first_state(0), trainer.program.preprocess

        @jax.jit
        def compute(pixels: Array) -> Array:
            crops = normalise(pixels, preprocess.mean, preprocess.std, preprocess.dtype)
            variables = {"params": state.params, "batch_stats": state.batch_stats}
            cells = trainer.program.model.apply(variables, crops, method="feature_map")
            return cells.reshape(len(cells), -1, cells.shape[-1]).astype(jnp.float16)

        arrays = {}
        for split, (pixels, _, _) in photos.items():
            parts = np.array_split(pixels, len(pixels) // 50)
            computed = [
                np.asarray(
                    compute(np.stack([center_crop(image, config.data.crop) for image in part]))
                )
                for part in tracked(parts, f"Feature maps: {split}", len(parts))
            ]
            arrays[split] = np.concatenate(computed)
        partial_file = file.with_name(f"partial-{file.name}")
        np.savez(partial_file, **arrays)
        partial_file.rename(file)
    with np.load(file) as arrays:
        return dict(arrays)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--features", type=Path, help="where features are kept")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="(default: %(default)s)")
    parser.add_argument("--without-maps", action="store_true", help="leave out the slowest score")
    options = parser.parse_args()
    enable_compilation_cache()
    base = base_config(options.weights)
    images = read_features(base, options.pack, options.features or options.out / "features.npz")
    maps = None
    if not options.without_maps:
        maps = read_maps(base, options.pack, options.out / "maps.npz")
    base.train.features = "cache"
    study = Study(base, Rows(options.out / "rows.jsonl"), images, maps)
    rows, labels = Rows(options.out / "comparator.jsonl"), images.train_labels
    last = METHODS[0] + (", maps" if maps else ", trained on, without pairs")
    for seed in tracked(range(options.seeds), "Seeds", options.seeds):
        key = {"few": None, "stage": "test", "settings": {}, "seed": seed}
        if rows.find(**key, cell=last):
            continue
        held_out = places_in_class(labels, 300 + seed) % FOLDS == 0
        kept, hidden = np.flatnonzero(~held_out), np.flatnonzero(held_out)
        fitted = study.measure(kept, "train", hidden, seed)
        everything = np.arange(len(labels))
        trainer, state = study.head("softmax", everything, seed, STEPS)
        found = {
            "softmax, as many steps": {
                "top1": accuracy(trainer.logits(state, images.test), images.test_labels)
            }
        }
        tested = study.measure(everything, "test", np.arange(len(images.test_labels)), seed)
        for method in reversed(METHODS):
            found[method] = {"top1": tested[method].top1()}
            for name, weight in fitted[method].weights().items():
                top1 = tested[method].top1(name, weight)
                found[f"{method}, {name}"] = {"top1": top1, "weight": weight}
        for cell, result in found.items():
            if not rows.find(**key, cell=cell):
                rows.add(**key, cell=cell, **result)
    for method in METHODS:
        print_table(rows, baseline=method)


if __name__ == "__main__":
    restart_with_allocator()
    main()
