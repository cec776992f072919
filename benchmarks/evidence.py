r"""API-Net and softmax with the trunk fine-tuned, on a GPU in minutes or on a CPU in hours.

    python -m benchmarks.packed_photos --photos=PHOTOS --file=cub50-256.npz --size=256 --quality=75
    python -m benchmarks.evidence --pack=cub50-256.npz --weights=WEIGHTS --out=DIR --crop=224

Each method gets the same ten recipes, evaluated on held-out training images. The best of each,
softmax with balanced batches (and with the recipe of API-Net), and API-Net with random partners are
then trained with ten seeds on all training images, and evaluated on the test images. Needs neither
grain nor TFDS: packed photos and weights are all its data, together less than 60 MB. Rows are
written to `rows.jsonl`, and the same command continues after an interruption. `--table` prints the
table.

`--settings=ROWS` tests the best recipes of another search instead, such as one with a smaller
trunk: API-Net, softmax, and softmax with the recipe and the batches of API-Net.

    python -m benchmarks.evidence --pack=cub50-256.npz --weights=OTHER --out=OTHER_DIR --crop=224 \
        --seeds=3 --settings=DIR/rows.jsonl

`--steps=1` tries a search and its tests with one step for each run.
"""

from pathlib import Path

from apinet_jax.system.allocator import restart_with_allocator
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

CONFIRMED, FOLDS = 2, 3
STEPS = 300

# Shared by both methods. `optim.lr` is the rate of the trunk; the head has a higher one.
RECIPES: tuple[Settings, ...] = (
    {"optim.lr": 0.01, "optim.head_lr_factor": 1.0},
    {"optim.lr": 0.003, "optim.head_lr_factor": 10.0},
    {"optim.lr": 0.001, "optim.head_lr_factor": 50.0},
    {"optim.lr": 0.01, "optim.head_lr_factor": 5.0, "model.batch_norm": "fixed"},
    {"optim.lr": 0.003, "optim.head_lr_factor": 20.0, "model.batch_norm": "fixed"},
    {"optim.lr": 0.001, "optim.head_lr_factor": 50.0, "model.batch_norm": "fixed"},
    {
        **{"optim.lr": 0.003, "optim.head_lr_factor": 20.0, "model.batch_norm": "fixed"},
        **{"data.augmentation": "random_resized", "data.min_area": 0.4},
    },
    {
        **{"optim.rule": "adamw", "optim.weight_decay": 0.05, "model.batch_norm": "fixed"},
        **{"optim.lr": 1e-4, "optim.head_lr_factor": 10.0},
    },
    {
        **{"optim.rule": "adamw", "optim.weight_decay": 0.05, "model.batch_norm": "fixed"},
        **{"optim.lr": 3e-4, "optim.head_lr_factor": 5.0, "loss.label_smoothing": 0.1},
    },
    {
        **{"optim.lr": 0.003, "optim.head_lr_factor": 20.0, "model.batch_norm": "fixed"},
        **{"optim.ema": 0.99, "loss.label_smoothing": 0.1, "model.dropout": 0.7},
    },
)


def recipes(method: str, steps: int) -> list[Settings]:
    """Return the settings of each recipe; a tenth of the run has a frozen trunk."""
    shared = {"method": method, "steps": steps, "frozen_steps": steps // 10}
    batch = {"batch.classes": 15, "batch.images": 4}
    return [{**shared, **batch, **recipe} for recipe in RECIPES]


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--crop", type=int, help="pixels; by default those of the weights")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--steps", type=int, default=STEPS, help="of a run (default: %(default)s)")
    parser.add_argument("--recipes", type=int, help="only so many recipes")
    parser.add_argument("--seeds", type=int, default=10, help="(default: %(default)s)")
    parser.add_argument("--settings", type=Path, help="rows of another search, instead of a search")
    parser.add_argument("--table", action="store_true", help="only print the table")
    options = parser.parse_args()
    if options.settings and not options.settings.is_file():
        parser.error(f"There is no file {options.settings}.")
    if options.settings and (options.recipes or options.steps != STEPS):
        parser.error("--settings has its own recipes and steps: leave out --recipes and --steps.")
    rows = Rows(options.out / "rows.jsonl")
    if options.table:
        print_table(rows)
        return
    config = base_config(options.weights, options.crop)
    config.model.dtype = options.dtype
    photos = unpack(options.pack, config.data.resize)
    train, test = photos["train"], photos["test"]
    images = Images(train.pixels, test.pixels, train.labels, test.labels, train.num_classes)
    task = Task(config, images, rows)
    if options.settings:
        api, softmax = (
            best_settings(Rows(options.settings), cell) for cell in ("API-Net", "softmax")
        )
    else:
        api, softmax = (
            task.search(recipes(method, options.steps)[: options.recipes], CONFIRMED, FOLDS)
            for method in ("apinet", "softmax")
        )
    alike = {**api, "method": "softmax", "batch.sampler": "balanced"}
    cells = {"softmax": softmax, "API-Net": api, "softmax, balanced, recipe of API-Net": alike}
    if not options.settings:
        cells["softmax, balanced"] = {**softmax, "batch.sampler": "balanced"}
        cells["API-Net, random partners"] = {**api, "pairs.choice": "random"}
    for cell, settings in cells.items():
        task.test(cell, settings, options.seeds)
    print_table(rows)


if __name__ == "__main__":
    restart_with_allocator()
    main()
