"""The configuration: its defaults (the authors' code) and the paper's preset.

A field that is `None` is chosen from the data and the device (`setup/auto.py`).
"""

from typing import Any

import ml_collections
from ml_collections import config_dict

from apinet_jax.system.errors import InputError

PRESETS = ("code", "paper")

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
LATER_FIELDS = (
    *("batch.sampler", "model.pool", "model.drop_path", "model.remat", "train.microbatches"),
    *("train.features", "train.views", "train.view_seed", "eval.every"),
    *("loss.ungated_weight", "loss.contrast_weight", "loss.dropout_samples"),
)

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
                "decode": "full",  # or `scaled`: large JPEGs at reduced size
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
                "pool": "map",  # or a ViT's class token
                "batch_norm": "global",
                "remat": _auto(str, "none"),  # rematerialisation, which saves memory
                "hidden": 512,
                "dropout": 0.5,
                "drop_path": 0.0,  # stochastic depth, for the trunks that have it
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
                "ungated_weight": 0.0,
                "contrast_weight": 0.0,
                "dropout_samples": 1,  # of ungated features
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
            "train": {
                "deterministic": True,
                "microbatches": _auto(int, 1),
                "features": "compute",  # or `cache`: once, by a trunk that never moves
                "views": 1,  # random crops of each training image, besides the central one
                "view_seed": 0,
            },
            "eval": {
                "batch_size": _auto(int, 64),
                "every": _auto(float, 1.0),  # epochs between evaluations on held-out images
                "flip": config_dict.placeholder(bool),  # `None`: as when the run began, or off
            },
            "checkpoint": {"every": _auto(float, 1.0), "keep": 2},  # epochs; checkpoints
        }
    )


def folder_config(
    folder: str | None = None, preset: str | None = None
) -> ml_collections.ConfigDict:
    """Return the configuration for a user's own photos, as in `configs/folder.py`.

    What depends on the photos, the weights and the device is `None`, and chosen before training:
    sizes, batch, trunk, precision, learning rate and frozen epochs. So are the pretrained weights
    (`auto`), which are fetched from the Hugging Face hub.

    Args:
        folder: The image folder, `train/<class>/*` or `<class>/*`.
        preset: See `default_config`.
    """
    config = default_config(preset)
    config.data.name, config.data.dir = "folder", folder
    config.data.resize = config.data.crop = config.data.cache = None
    config.batch.classes = config.batch.images = None
    config.model.pretrained = "auto"
    config.model.trunk = config.model.dtype = config.model.remat = None
    config.optim.lr = config.optim.frozen_epochs = None
    config.train.microbatches = config.eval.batch_size = None
    config.eval.every = config.checkpoint.every = None
    return config


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
