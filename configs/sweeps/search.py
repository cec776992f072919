r"""Recipes for API-Net and for softmax, the same for both, chosen on held-out training images only.

python -m apinet_jax sweep configs/sweeps/search.py --folder=runs/search \
    --set data.dir=$CUB50 --set model.pretrained=$WEIGHTS

Each method gets its default and the same eight recipes, so that neither is tuned harder. The
settings that only pairs have are spread over them so that every learning rate occurs with both
reductions. A fifth of the training images of each class is held out. Nothing is chosen by the test
images, although each run prints their figures at its end. configs/sweeps/final.py then runs the
best recipe of each method over new seeds.
"""

from apinet_jax.sweeps.spec import Sweep

CROP, RESIZED = "crop", "random_resized"
# Each column is one recipe.
BOTH = {
    "optim.lr": (0.001, 0.0005, 0.0005, 0.001, 0.004, 0.002, 0.004, 0.002),
    "optim.head_lr_factor": (4.0, 1.0, 4.0, 1.0, 1.0, 4.0, 4.0, 1.0),
    "optim.epochs": (8.0, 12.0, 12.0, 8.0, 8.0, 12.0, 12.0, 8.0),
    "optim.weight_decay": (0.002, 0.002, 0.002, 0.0005, 0.0005, 0.002, 0.0005, 0.0005),
    "model.dropout": (0.2, 0.2, 0.5, 0.5, 0.2, 0.2, 0.5, 0.5),
    "loss.label_smoothing": (0.1, 0.1, 0.1, 0.0, 0.0, 0.0, 0.0, 0.1),
    "data.augmentation": (CROP, CROP, RESIZED, CROP, CROP, RESIZED, RESIZED, RESIZED),
    "data.min_area": (0.6, 0.4, 0.4, 0.4, 0.6, 0.4, 0.6, 0.6),
}
PAIRS = {
    "batch.classes": (15, 30, 10, 30, 10, 30, 15, 15),
    "batch.images": (4, 2, 6, 2, 6, 2, 4, 4),
    "loss.reduction": ("code", "code", "paper", "paper", "code", "code", "paper", "paper"),
    "loss.rank_weight": (1.0, 0.5, 1.0, 0.0, 0.0, 1.0, 0.5, 1.0),
    "loss.rank_margin": (0.2, 0.05, 0.05, 0.05, 0.2, 0.05, 0.2, 0.2),
}
DEFAULT = {"optim.epochs": 8.0, "optim.lr": 0.002}


def recipes(columns: dict[str, tuple]) -> list[dict]:
    """Return one dictionary of settings per recipe."""
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def get_sweep() -> Sweep:
    cells = {"API-Net default": DEFAULT, "softmax default": {**DEFAULT, "method": "softmax"}}
    for number, (both, pairs) in enumerate(zip(recipes(BOTH), recipes(PAIRS), strict=True)):
        apinet = {**both, **pairs}
        if pairs["loss.reduction"] == "paper":  # which counts the cross-entropy four times
            apinet["optim.lr"] /= 4
        cells[f"API-Net {number}"] = apinet
        cells[f"softmax {number}"] = {**both, "method": "softmax"}
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
        seeds=(100,),  # not among the reported seeds
        metric="validation",
    )
