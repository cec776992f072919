"""The configuration: its defaults (the authors' code), the paper's preset, and its checks.

A field that is `None` is chosen from the data and the device (`setup/auto.py`).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import ml_collections
from ml_collections import config_dict

from apinet_jax.system.errors import InputError

PRESETS = ("code", "paper")

CHOICES: dict[str, tuple[str, ...]] = {
    "method": ("apinet", "softmax"),
    "data.augmentation": ("crop", "random_resized"),
    "data.cache": ("off", "disk"),
    "batch.sampler": ("balanced", "shuffled"),
    "batch.tail": ("drop", "carry"),
    "model.dtype": ("float32", "bfloat16"),
    "model.mutual_activation": ("none", "relu"),
    "model.mutual": ("mlp", "sum", "product", "sq_difference", "own"),
    "model.gates": ("mutual", "alone"),
    "model.interaction": ("both", "self", "other"),
    "model.batch_norm": ("global", "per_device"),
    "pairs.distance": ("sq_euclidean", "euclidean"),
    "pairs.choice": ("similar", "dissimilar", "random"),
    "pairs.kinds": ("both", "intra", "inter"),
    "model.remat": ("none", "dots", "full"),
    "optim.rule": ("sgd", "adamw"),
    "loss.reduction": ("code", "paper"),
}

# Demands on numbers: in words, as a test, and the fields.
BOUNDS: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("above 0", lambda x: x > 0, "optim.lr optim.head_lr_factor"),
    ("above 0 and at most 1", lambda x: 0 < x <= 1, "data.min_area"),
    ("above 0 and at most 1e12", lambda x: 0 < x <= 1e12, "optim.epochs checkpoint.every"),
    (
        "at least 0",
        lambda x: x >= 0,
        "data.workers loss.rank_weight loss.rank_margin optim.weight_decay",
    ),
    (
        "at least 0 and below 1",
        lambda x: 0 <= x < 1,
        "data.val_fraction model.dropout optim.momentum optim.ema loss.label_smoothing",
    ),
    (
        "at least 0 and at most 1e12",
        lambda x: 0 <= x <= 1e12,
        "optim.frozen_epochs optim.warmup_epochs",
    ),
    ("at least 0 and below 2**32", lambda x: 0 <= x < 2**32, "seed"),
    (
        "at least 1",
        lambda x: x >= 1,
        "data.crop data.resize batch.classes batch.images model.hidden eval.batch_size"
        " checkpoint.keep train.microbatches",
    ),
)

# Demands on the mean and the standard deviation of each colour, for pixels from 0 to 1: in words,
# and the least value; the largest is 1.
STATISTICS = {"mean": ("from 0 to 1", 0.0), "std": ("above 0 and at most 1", 1e-9)}

# Fields that may differ between the sessions of a run: they change where files are stored and how
# fast they are read, not what is computed. Data and weights are compared by their hashes.
FREE_FIELDS = (
    "data.dir",
    "data.manual_dir",
    "data.skip_unreadable",
    "data.workers",
    "data.cache",
    "model.pretrained",
    "eval.batch_size",
    "checkpoint.every",
    "checkpoint.keep",
)

# Fields that were added when runs had already been recorded. Hashes of a configuration leave them
# out where they have their defaults, which compute what was computed before.
LATER_FIELDS = ("batch.sampler", "model.remat", "train.microbatches")

SAMPLERS = {"apinet": "balanced", "softmax": "shuffled"}
"""The `batch.sampler` of each method where it is `None`."""


def default_config(preset: str | None = None) -> ml_collections.ConfigDict:
    """Return the configuration that every file in `configs/` starts from, without a data set.

    Args:
        preset: `code` (default) computes what the authors' program does, `paper` what the paper
            says where the two differ.

    Raises:
        InputError: The preset is unknown.
    """
    if preset not in (None, "", *PRESETS):
        raise InputError(f"Unknown preset '{preset}': valid are {', '.join(PRESETS)}.")
    paper = preset == "paper"
    return ml_collections.ConfigDict(
        {
            "seed": 0,
            "method": "apinet",
            "data": {
                "name": "",
                "dir": config_dict.placeholder(str),  # `None`: the default of TFDS
                "manual_dir": config_dict.placeholder(str),
                "val_fraction": 0.0,
                "skip_unreadable": False,
                "crop_to_box": False,
                "resize": _auto(int, 512),
                "crop": _auto(int, 448),
                "augmentation": "crop",
                "min_area": 0.25,  # of a random resized crop, as a fraction of the image
                "workers": 0,  # processes that decode; 0: threads of this process
                "cache": _auto(str, "off"),
            },
            "batch": {
                "classes": _auto(int, 30),
                "images": _auto(int, 4),
                "sampler": config_dict.placeholder(str),  # `None`: see `SAMPLERS`
                "tail": "drop",
            },
            "model": {
                "trunk": _auto(str, "resnet101"),
                "pretrained": config_dict.placeholder(str),
                "mean": config_dict.placeholder(tuple),  # of pixels; `None`: as the weights expect
                "std": config_dict.placeholder(tuple),
                "dtype": _auto(str, "float32"),
                "batch_norm": "global",
                "remat": _auto(str, "none"),  # rematerialisation, which saves memory
                "hidden": 512,
                "dropout": 0.5,
                "mutual_activation": "relu" if paper else "none",
                "mutual": "mlp",
                "gates": "mutual",
                "interaction": "both",
            },
            "pairs": {
                "distance": "euclidean" if paper else "sq_euclidean",
                "choice": "similar",
                "kinds": "both",
            },
            "loss": {
                "reduction": "paper" if paper else "code",
                "rank_weight": 1.0,
                "rank_margin": 0.05,
                "label_smoothing": 0.0,
            },
            "optim": {
                "rule": "sgd",
                "lr": _auto(float, 0.01),
                "head_lr_factor": 1.0,
                "momentum": 0.9,
                "nesterov": False,
                "weight_decay": 5e-4,  # AdamW decouples it from the gradient: 0.05 is usual there
                "decay_bn_bias": True,
                "epochs": 100.0,
                "warmup_epochs": 0.0,
                "frozen_epochs": _auto(float, 8.0),
                "ema": 0.0,  # decay of the average of the parameters; 0: no average
            },
            "train": {"deterministic": True, "microbatches": _auto(int, 1)},
            "eval": {
                "batch_size": _auto(int, 64),
                "flip": config_dict.placeholder(bool),  # `None`: as when the run began, or off
            },
            "checkpoint": {"every": 1.0, "keep": 2},  # epochs; checkpoints
        }
    )


def recorded_config(saved: dict[str, Any]) -> ml_collections.ConfigDict:
    """Return the configuration that a run saved as nested plain values.

    Fields that did not exist at that time have their defaults, which compute what was computed
    before.

    Raises:
        InputError: It is not a configuration: a name or the type of a value is wrong.
    """
    config = default_config().copy_and_resolve_references()
    try:
        flat = flatten(ml_collections.ConfigDict(saved))
        plain = {n: tuple(v) if isinstance(v, list | tuple) else v for n, v in flat.items()}
        config.update_from_flattened_dict(plain)
    except Exception as error:  # ml_collections raises many types
        raise InputError(f"The configuration of the run is damaged ({error}).") from error
    return config


def _auto(kind: type, value: Any) -> config_dict.FieldReference:
    """Return a field that holds `value` and may be set to `None`."""
    return config_dict.FieldReference(value, field_type=kind)


def flatten(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Return the fields by their dotted names."""
    flat = {}
    for name, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            flat.update({f"{name}.{key}": leaf for key, leaf in flatten(value).items()})
        else:
            flat[name] = value
    return flat


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
            f"{resize}x{resize} first, then cropped; lower --config.data.crop"
        )
    warmup, epochs = values["optim.warmup_epochs"], values["optim.epochs"]
    if warmup >= epochs > 0:
        wrong.append(
            f"optim.warmup_epochs = {warmup:g} must be less than optim.epochs = {epochs:g}, "
            "or the rate only rises; lower --config.optim.warmup_epochs"
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


def result_differences(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return the fields that change results and differ between two flat configurations.

    A field that is missing from one of them has its default there.

    Returns:
        Name, old value and new value of each, sorted by name.
    """
    default = flatten(default_config())
    old, new = {**default, **old}, {**default, **new}
    names = sorted((set(old) | set(new)) - set(FREE_FIELDS))

    def value(flat: dict[str, Any], name: str) -> Any:
        found = flat.get(name)
        if name == "batch.sampler":
            return found or SAMPLERS.get(flat["method"])
        return tuple(found) if isinstance(found, list) else found  # JSON only has lists

    return [(n, value(old, n), value(new, n)) for n in names if value(old, n) != value(new, n)]
