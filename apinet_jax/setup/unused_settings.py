"""Settings that have no effect in combination with the others."""

import ml_collections

from apinet_jax.config import PRESETS, SAMPLERS, default_config, flatten
from apinet_jax.models import variable_shapes


def unused_settings(config: ml_collections.ConfigDict) -> list[str]:
    """Return a line, with the reason, for each setting that has no effect on training.

    Values of a preset are left out, as the user may not have set them. Fields with no other values,
    such as `pairs.distance`, are therefore not checked.

    Args:
        config: The completed configuration.
    """
    flat = flatten(config)
    presets = [flatten(default_config(preset)) for preset in PRESETS]
    ranking = ("loss.rank_weight", "loss.rank_margin")
    pairs = ("pairs.choice", "pairs.kinds", "loss.ungated_weight", "loss.contrast_weight")
    model = ("model.mutual", "model.gates", "model.interaction", "model.hidden")
    softmax, alone = flat["method"] == "softmax", flat["model.gates"] == "alone"
    both = flat["model.interaction"] == "both"
    shuffled = (flat["batch.sampler"] or SAMPLERS[flat["method"]]) == "shuffled"
    cached = flat["train.features"] == "cache"
    groups: list[tuple[bool, tuple[str, ...], str]] = [
        (softmax, (*model, *ranking, *pairs), "softmax has no pairs"),
        (shuffled, ("batch.tail",), "shuffled batches take no account of classes"),
        (
            not softmax and alone,
            ("model.mutual", "model.hidden"),
            "these gates need no mutual vector",
        ),
        (
            not softmax and not alone and flat["model.mutual"] != "mlp",
            ("model.hidden",),
            "the mutual vector does not come from the MLP",
        ),
        (
            not softmax and not both,
            ranking,
            "the ranking compares the self features with the others, and one of them is left out",
        ),
        (
            not softmax and both and flat["loss.rank_weight"] == 0,
            ("loss.rank_margin",),
            "the ranking has no weight",
        ),
        (
            not softmax and flat["pairs.kinds"] == "intra",
            ("loss.contrast_weight",),
            "pairs within a class have no second class",
        ),
        (
            not softmax and flat["loss.ungated_weight"] == 0,
            ("loss.dropout_samples",),
            "no ungated features are classified",
        ),
        (flat["model.dropout"] == 0, ("loss.dropout_samples",), "there is no dropout"),
        (
            not softmax and flat["pairs.kinds"] == "intra" and flat["pairs.choice"] == "confused",
            ("pairs.choice",),
            "it chooses partners of other classes",
        ),
        (
            flat["data.crop_to_box"] or flat["data.name"] == "aircraft",
            ("data.decode",),
            "boxes and banners are cut from photos of full size",
        ),
        (flat["data.augmentation"] == "crop", ("data.min_area",), "these crops have one size"),
        (
            flat["optim.rule"] == "sgd" and flat["optim.momentum"] == 0,
            ("optim.nesterov",),
            "there is no momentum",
        ),
        (
            cached and flat["optim.frozen_epochs"] < flat["optim.epochs"],
            ("optim.frozen_epochs",),
            "with train.features=cache the trunk is always frozen",
        ),
        (
            cached,
            ("model.batch_norm", "model.drop_path", "model.remat", "train.microbatches"),
            "with train.features=cache no step runs the trunk",
        ),
        (
            not cached,
            ("train.views", "train.view_seed"),
            "the crops of each step are new without train.features=cache",
        ),
        (
            cached or flat["optim.frozen_epochs"] >= flat["optim.epochs"],
            ("model.drop_path",),
            "a frozen trunk drops nothing",
        ),
        (flat["optim.weight_decay"] == 0, ("optim.decay_bn_bias",), "there is no decay"),
    ]
    if flat["model.batch_norm"] != "global":
        none = "batch_stats" not in variable_shapes(flat["model.trunk"])
        groups.append((none, ("model.batch_norm",), "the trunk has no BatchNorm"))
    return [
        f"{field} = {flat[field]} has no effect: {why}"
        for holds, fields, why in groups
        for field in fields
        if holds and all(flat[field] != preset[field] for preset in presets)
    ]
