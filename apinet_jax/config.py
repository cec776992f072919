"""The configuration: its defaults (the authors' code), the paper's preset, and its checks.

A field that is `None` is chosen by the program from the data and the device (`auto.py`).
"""

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

# What is asked of numbers: the demand in words, the demand, the fields.
BOUNDS: tuple[tuple[str, Callable[[Any], bool], tuple[str, ...]], ...] = (
    (
        "at least 1",
        lambda x: x >= 1,
        (
            "data.crop",
            "data.resize",
            "batch.classes",
            "batch.images",
            "model.hidden",
            "eval.batch_size",
            "checkpoint.keep",
            "train.microbatches",
        ),
    ),
    (
        "above 0",
        lambda x: x > 0,
        ("optim.epochs", "optim.lr", "optim.head_lr_factor", "checkpoint.every"),
    ),
    (
        "at least 0",
        lambda x: x >= 0,
        (
            "data.workers",
            "loss.rank_weight",
            "loss.rank_margin",
            "optim.weight_decay",
            "optim.frozen_epochs",
            "optim.warmup_epochs",
        ),
    ),
    ("above 0 and at most 1", lambda x: 0 < x <= 1, ("data.min_area",)),
    ("at least 0 and below 2**32", lambda x: 0 <= x < 2**32, ("seed",)),
    (
        "at least 0 and below 1",
        lambda x: 0 <= x < 1,
        (
            "data.val_fraction",
            "model.dropout",
            "optim.momentum",
            "optim.ema",
            "loss.label_smoothing",
        ),
    ),
)

# What is asked of the mean and the standard deviation of pixels in [0, 1], for each colour: the
# demand in words, the least value; the largest is 1.
STATISTICS = {"mean": ("from 0 to 1", 0.0), "std": ("above 0 and at most 1", 1e-9)}

# Fields that may differ between the runs that share a workdir: they change where things lie and
# how fast they come, not what is computed. The data and the weights themselves are compared by
# their hashes.
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

# Fields that came when there were records of runs already. Hashes of a configuration leave them out
# where they have their defaults, which compute what was computed without them.
LATER_FIELDS = ("model.remat", "train.microbatches")


def default_config(preset: str | None = None) -> ml_collections.ConfigDict:
    """The configuration that every file in `configs/` starts from.

    Args:
        preset: `code` (default) computes what the authors' program does, `paper` what the paper
            says where the two differ.

    Returns:
        A configuration without a data set.

    Raises:
        InputError: If the preset is unknown.
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
                "dir": config_dict.placeholder(str),  # `None`: TFDS's own folder
                "manual_dir": config_dict.placeholder(str),
                "val_fraction": 0.0,
                "skip_unreadable": False,
                "crop_to_box": False,
                "resize": _auto(int, 512),
                "crop": _auto(int, 448),
                "augmentation": "crop",
                "min_area": 0.25,  # of a random resized crop, as a part of the image
                "workers": 0,  # processes that decode; 0: threads of this process
                "cache": _auto(str, "off"),
            },
            "batch": {"classes": _auto(int, 30), "images": _auto(int, 4), "tail": "drop"},
            "model": {
                "trunk": _auto(str, "resnet101"),
                "pretrained": config_dict.placeholder(str),
                "mean": config_dict.placeholder(tuple),  # of pixels; `None`: as the weights expect
                "std": config_dict.placeholder(tuple),
                "dtype": _auto(str, "float32"),
                "batch_norm": "global",
                "remat": _auto(str, "none"),  # what a backward pass recomputes to save memory
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
                "ema": 0.0,  # share of the averaged parameters that a step keeps; 0: no average
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
    """A configuration that was saved with a run, as nested plain values.

    Fields that did not exist then have their defaults, which compute what was computed without.

    Raises:
        InputError: It is none: a name or a value is of another kind.
    """
    config = default_config().copy_and_resolve_references()
    try:
        flat = flatten(ml_collections.ConfigDict(saved))
        plain = {n: tuple(v) if isinstance(v, list | tuple) else v for n, v in flat.items()}
        config.update_from_flattened_dict(plain)
    except Exception as error:  # ml_collections has one for each way in which it is not like ours
        raise InputError(f"The configuration of the run is damaged ({error}).") from error
    return config


def _auto(kind: type, value: Any) -> config_dict.FieldReference:
    """A field that holds `value` and may be set to `None`, to be chosen by the program."""
    return config_dict.FieldReference(value, field_type=kind)


def flatten(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The fields by their dotted names."""
    flat = {}
    for name, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            flat.update({f"{name}.{key}": leaf for key, leaf in flatten(value).items()})
        else:
            flat[name] = value
    return flat


def check_config(config: ml_collections.ConfigDict) -> None:
    """Refuses values that cannot work whatever the data are.

    Raises:
        InputError: With one line for each field that is wrong.
    """
    _check_fields(config)
    values = flatten(config)
    wrong = [
        f"{name} = '{values[name]}': valid are {', '.join(valid)}"
        for name, valid in CHOICES.items()
        if values[name] is not None and values[name] not in valid
    ]
    wrong += [
        f"{name} = {values[name]}: must be {demand}"
        for demand, holds, names in BOUNDS
        for name in names
        if values[name] is not None and not holds(values[name])
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
            f"optim.warmup_epochs = {warmup:g} leaves nothing of optim.epochs = {epochs:g}: the "
            "rate would rise to the end; lower --config.optim.warmup_epochs"
        )
    if wrong:
        raise InputError("The configuration cannot work:\n" + "\n".join(f"  {w}" for w in wrong))


def are_pixel_statistics(values: Sequence[Any], least: float) -> bool:
    """Whether these are three numbers from `least` to 1, as statistics of pixels are."""
    return len(values) == 3 and all(isinstance(x, int | float) and least <= x <= 1 for x in values)


def _check_fields(config: ml_collections.ConfigDict) -> None:
    """Refuses a configuration that has not just the fields of the default one."""
    values, known = flatten(config), flatten(default_config())
    wrong = [f"{name}: there is no such field" for name in values if name not in known]
    wrong += [f"{name}: is missing" for name in known if name not in values]
    if wrong:
        raise InputError(
            "The configuration cannot work; let it begin with apinet_jax.config.default_config():\n"
            + "\n".join(f"  {w}" for w in wrong)
        )


def result_differences(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """The fields that change results and differ between two flat configurations.

    A field that one of them does not know yet has its default there, which computes what was
    computed before there was such a field.

    Returns:
        Name, old value and new value of each, in the order of their names.
    """
    default = flatten(default_config())
    old, new = {**default, **old}, {**default, **new}
    names = sorted((set(old) | set(new)) - set(FREE_FIELDS))

    def value(flat: dict[str, Any], name: str) -> Any:
        found = flat.get(name)
        return tuple(found) if isinstance(found, list) else found  # JSON has lists alone

    return [(n, value(old, n), value(new, n)) for n in names if value(old, n) != value(new, n)]
