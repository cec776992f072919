"""The configuration: its defaults (the authors' code), the paper's preset, and its checks.

A field that is `None` is chosen by the program from the data and the device (`auto.py`).
"""

from collections.abc import Callable
from typing import Any

import ml_collections
from ml_collections import config_dict

from apinet_jax.errors import InputError

PRESETS = ("code", "paper")

CHOICES: dict[str, tuple[str, ...]] = {
    "method": ("apinet", "softmax"),
    "data.cache": ("off", "disk"),
    "batch.tail": ("drop", "carry"),
    "model.dtype": ("float32", "bfloat16"),
    "model.mutual_activation": ("none", "relu"),
    "model.batch_norm": ("global", "per_device"),
    "pairs.distance": ("sq_euclidean", "euclidean"),
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
        ),
    ),
    ("above 0", lambda x: x > 0, ("optim.epochs", "optim.lr", "checkpoint.every")),
    (
        "at least 0",
        lambda x: x >= 0,
        (
            "data.workers",
            "loss.rank_weight",
            "loss.rank_margin",
            "optim.weight_decay",
            "optim.frozen_epochs",
        ),
    ),
    ("at least 0 and below 2**32", lambda x: 0 <= x < 2**32, ("seed",)),
    (
        "at least 0 and below 1",
        lambda x: 0 <= x < 1,
        ("data.val_fraction", "model.dropout", "optim.momentum"),
    ),
)

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
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.method = "apinet"

    config.data = data = ml_collections.ConfigDict()
    data.name = ""
    data.dir = config_dict.placeholder(str)  # `None`: TFDS's own folder
    data.manual_dir = config_dict.placeholder(str)
    data.val_fraction = 0.0
    data.skip_unreadable = False
    data.resize = _auto(int, 512)
    data.crop = _auto(int, 448)
    data.workers = 0  # processes that decode; 0: threads of this process
    data.cache = _auto(str, "off")

    config.batch = batch = ml_collections.ConfigDict()
    batch.classes = _auto(int, 30)
    batch.images = _auto(int, 4)
    batch.tail = "drop"

    config.model = model = ml_collections.ConfigDict()
    model.trunk = _auto(str, "resnet101")
    model.pretrained = config_dict.placeholder(str)
    model.dtype = _auto(str, "float32")
    model.batch_norm = "global"
    model.hidden = 512
    model.dropout = 0.5
    model.mutual_activation = "relu" if paper else "none"

    config.pairs = ml_collections.ConfigDict()
    config.pairs.distance = "euclidean" if paper else "sq_euclidean"

    config.loss = loss = ml_collections.ConfigDict()
    loss.reduction = "paper" if paper else "code"
    loss.rank_weight = 1.0
    loss.rank_margin = 0.05

    config.optim = optim = ml_collections.ConfigDict()
    optim.lr = _auto(float, 0.01)
    optim.momentum = 0.9
    optim.weight_decay = 5e-4
    optim.decay_bn_bias = True
    optim.epochs = 100.0
    optim.frozen_epochs = _auto(float, 8.0)

    config.train = ml_collections.ConfigDict()
    config.train.deterministic = True

    config.eval = ml_collections.ConfigDict()
    config.eval.batch_size = _auto(int, 64)

    config.checkpoint = checkpoint = ml_collections.ConfigDict()
    checkpoint.every = 1.0  # epochs
    checkpoint.keep = 2
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
    crop, resize = values["data.crop"], values["data.resize"]
    if crop is not None and resize is not None and crop > resize:
        wrong.append(
            f"data.crop = {crop} is larger than data.resize = {resize}: an image is resized to "
            f"{resize}x{resize} first, then cropped; lower --config.data.crop"
        )
    if wrong:
        raise InputError("The configuration cannot work:\n" + "\n".join(f"  {w}" for w in wrong))


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

    Returns:
        Name, old value and new value of each, in the order of their names.
    """
    names = sorted((set(old) | set(new)) - set(FREE_FIELDS))
    return [(n, old.get(n), new.get(n)) for n in names if old.get(n) != new.get(n)]
