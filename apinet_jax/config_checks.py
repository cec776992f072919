"""Checks of a configuration that need no data and no device."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import ml_collections

from apinet_jax.config import default_config, flatten
from apinet_jax.system.errors import InputError

CHOICES: dict[str, tuple[str, ...]] = {
    "method": ("apinet", "softmax"),
    "data.augmentation": ("crop", "random_resized"),
    "data.cache": ("off", "disk", "device"),
    "batch.sampler": ("balanced", "shuffled"),
    "batch.tail": ("drop", "carry"),
    "model.dtype": ("float32", "bfloat16"),
    "model.mutual_activation": ("none", "relu"),
    "model.mutual": ("mlp", "sum", "product", "sq_difference", "own"),
    "model.gates": ("mutual", "alone"),
    "model.interaction": ("both", "self", "other"),
    "model.pool": ("map", "token", "both"),
    "model.batch_norm": ("global", "per_device", "fixed"),
    "pairs.distance": ("sq_euclidean", "euclidean"),
    "pairs.choice": ("similar", "dissimilar", "random", "confused"),
    "pairs.kinds": ("both", "intra", "inter"),
    "model.remat": ("none", "dots", "full"),
    "optim.rule": ("sgd", "adamw"),
    "loss.reduction": ("code", "paper"),
    "train.features": ("compute", "cache"),
    "data.decode": ("full", "scaled"),
}

# Demands on numbers: in words, as a test, and the fields.
BOUNDS: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("above 0", lambda x: x > 0, "optim.lr optim.head_lr_factor"),
    ("above 0 and at most 1", lambda x: 0 < x <= 1, "data.min_area"),
    (
        "above 0 and at most 1e12",
        lambda x: 0 < x <= 1e12,
        "optim.epochs checkpoint.every eval.every",
    ),
    (
        "at least 0",
        lambda x: x >= 0,
        "data.workers train.views loss.rank_weight loss.rank_margin loss.ungated_weight"
        " loss.contrast_weight optim.weight_decay",
    ),
    (
        "at least 0 and below 1",
        lambda x: 0 <= x < 1,
        "data.val_fraction model.dropout model.drop_path optim.momentum optim.ema"
        " loss.label_smoothing",
    ),
    (
        "at least 0 and at most 1e12",
        lambda x: 0 <= x <= 1e12,
        "optim.frozen_epochs optim.warmup_epochs",
    ),
    ("at least 0 and below 2**32", lambda x: 0 <= x < 2**32, "seed train.view_seed"),
    (
        "at least 1",
        lambda x: x >= 1,
        "data.crop data.resize batch.classes batch.images model.hidden eval.batch_size"
        " checkpoint.keep train.microbatches loss.dropout_samples",
    ),
)

# Demands on the mean and the standard deviation of each colour, for pixels from 0 to 1: in words,
# and the least value; the largest is 1.
STATISTICS = {"mean": ("from 0 to 1", 0.0), "std": ("above 0 and at most 1", 1e-9)}


def check_config(config: ml_collections.ConfigDict) -> None:
    """Refuse values that cannot work with any data.

    Raises:
        InputError: With one line for each wrong field.
    """
    _check_fields(config)
    values = flatten(config)
    wrong = [
        f"{name} = '{values[name]}': valid are {', '.join(valid)}"
        for name, valid in CHOICES.items()
        if values[name] is not None and values[name] not in valid
    ]
    endless = [name for name, x in values.items() if isinstance(x, float) and not math.isfinite(x)]
    wrong += [f"{name} = {values[name]}: must be a finite number" for name in endless]
    wrong += [
        f"{name} = {values[name]}: must be {demand}"
        for demand, holds, names in BOUNDS
        for name in names.split()
        if values[name] is not None and name not in endless and not holds(values[name])
    ]
    wrong += [
        f"model.{name} = {given}: must be three numbers {demand}, of pixels divided by 255, as in "
        "(0.485, 0.456, 0.406)"
        for name, (demand, least) in STATISTICS.items()
        if (given := values[f"model.{name}"]) is not None and not are_pixel_statistics(given, least)
    ]
    crop, resize = values["data.crop"], values["data.resize"]
    if crop is not None and resize is not None and crop > resize:
        wrong.append(
            f"data.crop = {crop} is larger than data.resize = {resize}: an image is resized to "
            f"{resize}x{resize} first, then cropped; lower data.crop"
        )
    if values["data.cache"] == "device" and values["data.augmentation"] == "random_resized":
        wrong.append(
            "data.cache = 'device' only cuts crops of one size, and data.augmentation = "
            "'random_resized' resizes them; set data.cache=disk"
        )
    warmup, epochs = values["optim.warmup_epochs"], values["optim.epochs"]
    if warmup >= epochs > 0:
        wrong.append(
            f"optim.warmup_epochs = {warmup:g} must be less than optim.epochs = {epochs:g}, "
            "or the rate only rises; lower optim.warmup_epochs"
        )
    if wrong:
        raise InputError("The configuration cannot work:\n" + "\n".join(f"  {w}" for w in wrong))


def are_pixel_statistics(values: Sequence[Any], least: float) -> bool:
    """Return whether these are three numbers from `least` to 1."""
    return len(values) == 3 and all(isinstance(x, int | float) and least <= x <= 1 for x in values)


def _check_fields(config: ml_collections.ConfigDict) -> None:
    """Refuse a configuration whose fields are not exactly those of the default one."""
    values, known = flatten(config), flatten(default_config())
    wrong = [f"{name}: there is no such field" for name in values if name not in known]
    wrong += [f"{name}: is missing" for name in known if name not in values]
    if wrong:
        raise InputError(
            "The configuration cannot work; start from apinet_jax.config.default_config():\n"
            + "\n".join(f"  {w}" for w in wrong)
        )
