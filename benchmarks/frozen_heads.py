r"""API-Net and softmax as heads on the features of a frozen trunk.

    python -m benchmarks.packed_photos --photos=PHOTOS --file=cub50.npz
    python -m benchmarks.frozen_heads --pack=cub50.npz --weights=WEIGHTS --out=runs/lite0

The photos may also be those of a data set: `packed_photos --data=birds`.

1. Search: each method gets 60 random settings, evaluated on held-out training images (one fold of
   five). The best eight of each are evaluated on the other four folds as well.
2. Test: the best setting of each method, and changes and ablations of API-Net around it, with
   10 seeds on all training images, evaluated on the test images. The others have the settings that
   were chosen for API-Net.
3. Few images: the same search and test with 5 and with 10 training images of each class. A seed
   draws the images, the same for both methods. All other training images choose the settings, which
   is more than a user with few images has.

All methods get equally many settings and steps; a step of API-Net costs more. The third method is
softmax that classifies each image under eight dropout masks, as often as API-Net does.

`--settings=ROWS` tests the best settings of another search instead, such as one at another crop:

    python -m benchmarks.frozen_heads --pack=cub50.npz --weights=WEIGHTS --out=runs/lite0-128 \
        --crop=128 --few=0 --settings=runs/lite0/rows.jsonl

Rows are written to `rows.jsonl`, and the same command continues after an interruption.
`--table` prints the tables.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from apinet_jax.data.crops import ArrayReader, AugmentedView, RandomCrop
from apinet_jax.data.transforms import center_crop
from apinet_jax.system.allocator import restart_with_allocator
from apinet_jax.system.console import tracked
from benchmarks.in_memory import Trainer
from benchmarks.packed_photos import unpack
from benchmarks.seed_study import (
    Images,
    Rows,
    Settings,
    Task,
    base_config,
    best_settings,
    make_parser,
    print_table,
)

MASKS: Settings = {"loss.dropout_samples": 8}  # as often as API-Net classifies each image
SETTINGS, CONFIRMED, SEEDS = 60, 8, 10
VIEWS = 3  # random crops of each training image, besides the central one
FEW = (5, 10)
BATCH = 120
METHODS = ("API-Net", "softmax", "softmax, 8 dropout masks")


def read_features(config: ml_collections.ConfigDict, pack: Path, file: Path) -> Images:
    """Return the features, computed once and kept in a file."""
    if not file.exists():
        photos = unpack(pack, config.data.resize)
        train, test = photos["train"], photos["test"]
        trainer = Trainer(config, len(train.labels), train.num_classes)
        state = trainer.first_state(0)
        crop = config.data.crop

        def central(pixels: np.ndarray) -> np.ndarray:
            return np.stack([center_crop(image, crop) for image in pixels])

        random = RandomCrop(ArrayReader(train.pixels), crop, seed=0)
        views = [AugmentedView(random, view) for view in range(1, 1 + VIEWS)]
        crops = [central(train.pixels)]
        crops += [np.stack([view(i) for i in range(len(train.labels))]) for view in views]
        crops.append(central(test.pixels))
        computed = [
            trainer.features(state, each) for each in tracked(crops, "Features", len(crops))
        ]
        partial = file.with_name(f"partial-{file.name}")
        np.savez(
            partial,
            train=np.stack(computed[:-1]),
            test=computed[-1],
            train_labels=train.labels,
            test_labels=test.labels,
            num_classes=train.num_classes,
        )
        partial.rename(file)
    with np.load(file) as arrays:
        fields = {name: arrays[name] for name in Images._fields}
    return Images(**{**fields, "num_classes": int(fields["num_classes"])})


def draw_settings(method: str, number: int, few: int | None, num_classes: int) -> Settings:
    """Return the settings with this number; both methods share those that both have.

    With few images of each class the runs are half as long.
    """
    random = np.random.Generator(np.random.Philox(key=number))

    def log_uniform(low: float, high: float) -> float:
        return float(f"{np.exp(random.uniform(np.log(low), np.log(high))):.3g}")

    def choice(*values: Any) -> Any:
        return values[random.integers(len(values))]

    settings = {
        "method": method,
        "optim.lr": log_uniform(0.005, 0.5),
        "optim.weight_decay": log_uniform(1e-5, 1e-2),
        "model.dropout": choice(0.0, 0.2, 0.5, 0.7, 0.8),
        "loss.label_smoothing": choice(0.0, 0.1),
        "steps": choice(100, 200, 400) // (1 if few is None else 2),
    }
    classes = min(num_classes, choice(30, 40, 24))
    settings |= {"batch.classes": classes, "batch.images": BATCH // classes}
    if method == "apinet":
        settings |= {
            "model.hidden": choice(128, 512),
            "loss.rank_weight": choice(0.0, 1.0, 4.0),
            "loss.rank_margin": choice(0.05, 0.2),
        }
    return settings


def other_cells(api: Settings, softmax: Settings) -> Iterator[tuple[str, Settings]]:
    """The other cells of the test: controls, ablations of the pairs, changes of the method."""
    yield "softmax, balanced", {**softmax, "batch.sampler": "balanced"}
    shared = {name: value for name, value in api.items() if name in softmax}
    alike = {**shared, "method": "softmax"}
    yield "softmax, settings of API-Net", alike
    masks = {**alike, **MASKS}
    yield "the same, 8 dropout masks", masks
    yield "the same, balanced, 8 dropout masks", {**masks, "batch.sampler": "balanced"}
    ranking = 1.0 if api["loss.rank_weight"] == 0 else 0.0
    changes: dict[str, Settings] = {
        "change: confused partners": {"pairs.choice": "confused"},
        "change: ungated features too": {"loss.ungated_weight": 1.0},
        "change: class contrast": {"loss.contrast_weight": 1.0},
        "gates: from each image alone": {"model.gates": "alone"},
        "mutual vector: sum": {"model.mutual": "sum"},
        "mutual vector: product": {"model.mutual": "product"},
        "mutual vector: squared difference": {"model.mutual": "sq_difference"},
        "mutual vector: own feature": {"model.mutual": "own"},
        "mutual vector: ReLU in the MLP": {"model.mutual_activation": "relu"},
        "features: self only": {"model.interaction": "self"},
        "features: other only": {"model.interaction": "other"},
        f"ranking weight {ranking:g}": {"loss.rank_weight": ranking},
        "pairs: intra only": {"pairs.kinds": "intra"},
        "pairs: inter only": {"pairs.kinds": "inter"},
        "pairs: random": {"pairs.choice": "random"},
        "pairs: most dissimilar": {"pairs.choice": "dissimilar"},
    }
    for cell, change in changes.items():
        yield cell, {**api, **change}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--features", type=Path, help="where features are kept")
    parser.add_argument("--crop", type=int, help="pixels; by default those of the weights")
    parser.add_argument(
        "--settings",
        type=Path,
        help="the rows of a search whose best settings to test, e.g. of "
        "another crop, without a search and without the other cells",
    )
    parser.add_argument("--few", type=int, action="append", help="images of a class; 0 for all")
    parser.add_argument("--table", action="store_true", help="only print the tables")
    options = parser.parse_args()
    rows = Rows(options.out / "rows.jsonl")
    cases = [few or None for few in options.few or (0, *FEW)]
    if options.table:
        for few in cases:
            print_table(rows, few)
        return
    base = base_config(options.weights, options.crop)
    features = read_features(base, options.pack, options.features or options.out / "features.npz")
    base.train.features = "cache"
    for few in cases:
        task = Task(base, features, rows, few)
        if options.settings:
            for cell in METHODS:
                task.test(cell, best_settings(Rows(options.settings), cell, few), SEEDS)
            print_table(rows, few)
            continue
        pairs, plain = (
            [draw_settings(method, number, few, features.num_classes) for number in range(SETTINGS)]
            for method in ("apinet", "softmax")
        )
        masked = [{**settings, **MASKS} for settings in plain]
        best = [task.search(drawn, CONFIRMED) for drawn in (pairs, plain, masked)]
        cells = dict(zip(METHODS, best, strict=True))
        if few is None:
            cells |= other_cells(*best[:2])
        for cell, settings in cells.items():
            task.test(cell, settings, SEEDS)
        print_table(rows, few)


if __name__ == "__main__":
    restart_with_allocator()
    main()
