r"""Recipes for API-Net and for softmax, drawn alike, chosen on held-out training images only.

python -m apinet_jax sweep configs/sweeps/search.py --folder=runs/search \
    --set data.dir=$CUB50 --set model.pretrained=$WEIGHTS

Both methods get the same number of recipes, the same ones wherever they have the setting, so that
neither is tuned harder. A fifth of the training images of each class is held out; the test images
are not looked at. The best recipe of each then runs over new seeds, on the test images, once.
"""

import random

from apinet_jax.sweep_file import Sweep

RECIPES = 8
RANGES = {
    "optim.epochs": (8.0, 12.0),
    "optim.lr": (0.0005, 0.001, 0.002, 0.004),
    "optim.head_lr_factor": (1.0, 4.0),
    "optim.weight_decay": (5e-4, 2e-3),
    "model.dropout": (0.2, 0.5),
    "loss.label_smoothing": (0.0, 0.1),
    "data.augmentation": ("crop", "random_resized"),
    "data.min_area": (0.4, 0.6),
}
# What only pairs have.
PAIRED = {
    "batch": ((15, 4), (30, 2), (10, 6)),
    "loss.reduction": ("code", "paper"),
    "loss.rank_weight": (0.0, 0.5, 1.0),
    "loss.rank_margin": (0.05, 0.2),
}


DEFAULT = {"optim.epochs": 8.0, "optim.lr": 0.002}


def recipes(ranges: dict, seed: int) -> list[dict]:
    """Draws settings so that every value of a field comes up equally often, or nearly so."""
    drawn, columns = random.Random(seed), {}
    for field, values in ranges.items():
        columns[field] = [values[number % len(values)] for number in range(RECIPES)]
        drawn.shuffle(columns[field])
    return [
        {field: column[number] for field, column in columns.items()} for number in range(RECIPES)
    ]


def get_sweep() -> Sweep:
    cells = {"API-Net default": DEFAULT, "softmax default": {**DEFAULT, "method": "softmax"}}
    common = recipes(RANGES, seed=0)
    for number, (recipe, paired) in enumerate(zip(common, recipes(PAIRED, seed=1), strict=True)):
        classes, images = paired.pop("batch")
        batch = {"batch.classes": classes, "batch.images": images}
        cells[f"API-Net {number}"] = {**recipe, **paired, **batch}
        cells[f"softmax {number}"] = {**recipe, "method": "softmax"}
    return Sweep(
        base="configs/folder.py",
        settings={
            "model.trunk": "squeezenet1_1",
            "data.resize": 256,
            "data.crop": 224,
            "data.val_fraction": 0.2,
            "batch.classes": 15,
            "batch.images": 4,
            "optim.frozen_epochs": 1.0,
        },
        cells=cells,
        reference="softmax default",
        seeds=(100,),  # none of those that are reported
        metric="validation",
    )
