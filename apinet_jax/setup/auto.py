"""Chooses the settings that a configuration leaves open, from the data and the device.

Each choice comes with a line that says why, and how to override it.
"""

import os
from collections.abc import Callable
from typing import Any

import ml_collections
import numpy as np
from jaxtyping import Int

from apinet_jax.config import default_config, flatten
from apinet_jax.method.durations import steps_per_epoch
from apinet_jax.models import SCRATCH_TRUNKS, check_trunk, trunk_spec
from apinet_jax.models.weights.hub import Pretrained, find_pretrained
from apinet_jax.models.weights.recognise import check_weights
from apinet_jax.setup.image_cache import choose_cache
from apinet_jax.setup.memory import format_bytes
from apinet_jax.setup.sizing import (
    PAPER_CLASSES,
    PAPER_IMAGES,
    SIZES,
    batch_shapes,
    largest,
    memory_savings,
    resize_for,
    step_bytes,
    usable_bytes,
)
from apinet_jax.setup.unused_settings import unused_settings
from apinet_jax.setup.weights import SCRATCH

_WARNING = (
    "WARNING: no pretrained weights: the trunk starts from random values, and a few thousand "
    "photos do not make up for that. On 50 bird species a small trunk from scratch reached 35 %, "
    "SqueezeNet with ImageNet weights 74 % (docs/results.md). With model.pretrained=auto the "
    "program fetches weights from the Hugging Face hub; a timm:NAME there or a .safetensors file "
    "with torchvision or timm names can be named instead."
)
_CHOSEN = "Chosen for this run; --config.FIELD=VALUE overrides:"
_SHORT_STEPS = 300  # steps of a head between two checkpoints
_NO_LIMIT = 2**62


def choose(
    config: ml_collections.ConfigDict,
    labels: Int[np.ndarray, " N"],
    num_images: int,
    platform: str,
    num_devices: int,
    device_bytes: int,
    recorded: dict[str, Any] | None = None,
) -> tuple[ml_collections.ConfigDict, list[str]]:
    """Fill every field that is `None` and may be chosen.

    Args:
        config: The configuration; not changed.
        labels: Class of each training image.
        num_images: Images of all splits, for the size of the cache.
        platform: `cpu`, `gpu` or `tpu`.
        num_devices: Devices of the run.
        device_bytes: Memory of one device, in bytes.
        recorded: Flat configuration of the run that is resumed. Its choices are kept, whatever the
            devices are now.

    Returns:
        The completed configuration, and a line for each choice, warning and setting without effect.

    Raises:
        InputError: If no batch suits the devices, or the weights cannot be used.
    """
    config = ml_collections.ConfigDict(config.to_dict(preserve_field_references=False))
    if config.model.pretrained:
        named = config.model.pretrained != SCRATCH
        config.model.pretrained = os.path.expanduser(config.model.pretrained) if named else None
    lines: list[str] = []

    def fill(field: str, value: Any, why: str) -> None:
        group, _, name = field.rpartition(".")
        if group and config[group][name] is None and value is not None:
            config[group][name] = value
            if not lines:
                lines.append(_CHOSEN)
            lines.append(f"  {field} = {value}: {why}")

    if recorded is not None:
        for field, default in flatten(default_config()).items():
            if default is not None or field in ("model.mean", "model.std"):
                fill(field, recorded.get(field, default), "as when this run began")
    on_cpu = platform == "cpu"
    cached = config.train.features == "cache"
    budget = usable_bytes(platform, device_bytes)
    pretrained = config.model.pretrained
    # A resumed run has what was read from its weights in its record.
    weights = find_pretrained(pretrained) if pretrained and recorded is None else None

    dtype = "float32" if on_cpu else "bfloat16"
    why = "CPUs gain nothing from less" if on_cpu else "the accelerator's fast type"
    fill("model.dtype", dtype, why)
    if config.model.trunk is None:  # finding it reads every tensor of the weights
        fill("model.trunk", *_trunk(weights, on_cpu, num_devices, budget))
        check_trunk(config.model.trunk, None, config.model.pool, config.model.drop_path)
    for name in ("mean", "std"):
        value = getattr(weights, name, None)
        fill(f"model.{name}", value, "of the images that model.pretrained was trained on")
    size = weights and weights.size
    limit = None if cached else budget
    _fill_sizes(config, fill, np.bincount(labels), size, platform, num_devices, limit)
    if config.eval.flip is None:
        config.eval.flip = bool(recorded and recorded.get("eval.flip"))
    batch_size = config.batch.classes * config.batch.images
    fill("eval.batch_size", batch_size, "as in training")

    counts = (len(labels), num_images)
    fill("data.cache", *choose_cache(config, *counts, platform, num_devices, budget))

    _fill_intervals(config, fill, len(labels))
    fill("optim.lr", *_rate(config))
    fill("optim.frozen_epochs", *_frozen_epochs(config))
    return config, lines + _warnings(config) + unused_settings(config)


def _fill_sizes(
    config: ml_collections.ConfigDict,
    fill: Callable[[str, Any, str], None],
    counts: Int[np.ndarray, " C"],
    weights_size: int | None,
    platform: str,
    num_devices: int,
    budget: int | None,
) -> None:
    """Choose the settings that share a device's memory: image sizes, K, S, remat, microbatches."""
    data, batch, trunk = config.data, config.batch, config.model.trunk
    on_cpu, median = platform == "cpu", int(np.median(counts))
    given_parts = config.train.microbatches
    unit = num_devices * (given_parts or 1)
    shapes = batch_shapes(len(counts), median, unit, batch.classes, batch.images)
    savings = memory_savings(config.model.remat, given_parts)
    patch = trunk_spec(trunk).patch
    if data.crop is not None:
        crops = [data.crop]
    elif data.resize is not None:
        crops = [max(round(data.resize * 7 / 8) // patch, 1) * patch]
    else:
        spec = trunk_spec(trunk)
        best = spec.cpu_crop if on_cpu else spec.crop
        sizes = {crop for _, crop in SIZES} | {best} | ({weights_size} if weights_size else set())
        crops = sorted({crop // patch * patch for crop in sizes if crop <= best}, reverse=True)
    dtype = config.model.dtype
    limit = _NO_LIMIT if budget is None else budget
    chosen = largest(trunk, dtype, crops, shapes, savings, num_devices, limit, platform)
    fits = "a step of the head is small"
    if budget is not None:
        need = format_bytes(chosen.step_bytes)
        fits = f"a step then needs about {need} of {format_bytes(budget)} per device"
    shared = f"so that {num_devices} devices share the batch equally"

    given = data.resize is not None
    fill("data.crop", chosen.crop, fits if chosen.crop < crops[0] else _why_crop(crops[0], given))
    fill(
        "data.resize",
        resize_for(data.crop),
        "leaves the crop an eighth to move in, as in the paper",
    )

    few = f"the median class has only {median} images" if median < PAPER_IMAGES else shared
    fill("batch.images", chosen.images, "the paper's S" if chosen.images == PAPER_IMAGES else few)
    whole = {PAPER_CLASSES: "the paper's K", len(counts): f"all {len(counts)} classes"}
    why = fits if chosen[1:3] != shapes[0] else whole.get(chosen.classes, shared)
    fill("batch.classes", chosen.classes, why)

    fill("model.remat", chosen.remat, fits)
    each = batch.classes * batch.images // chosen.microbatches
    parts = (
        fits if chosen.microbatches == 1 else f"{fits}, and BatchNorm sees {each} images at once"
    )
    fill("train.microbatches", chosen.microbatches, parts)


def _fill_intervals(
    config: ml_collections.ConfigDict, fill: Callable[[str, Any, str], None], num_images: int
) -> None:
    """Choose how often a run is saved, and evaluated on held-out images: each epoch, usually."""
    if config.train.features == "cache":  # either would take longer than an epoch
        steps = steps_per_epoch(num_images, config.batch.classes * config.batch.images)
        for field in ("eval.every", "checkpoint.every"):
            fill(field, max(1.0, _SHORT_STEPS / steps), "the steps of a head are short")
    for group in (config.eval, config.checkpoint):
        if group.every is None:
            group.every = 1.0


def _frozen_epochs(config: ml_collections.ConfigDict) -> tuple[float, str]:
    """Epochs in which the trunk is frozen."""
    if config.train.features == "cache":
        return config.optim.epochs, "train.features=cache needs a fixed trunk"
    if not config.model.pretrained:
        return 0.0, "a trunk without pretrained weights has to learn"
    return float(round(0.08 * config.optim.epochs)), "the paper's share of the epochs"


def _why_crop(crop: int, resize_given: bool) -> str:
    if resize_given:
        return "seven eighths of data.resize, as in the paper"
    reasons = {
        448: "the paper's size",
        224: "half the paper's side, as a CPU is slow",
        128: "enough for a small trunk",
    }
    return reasons.get(crop, "the size that the trunk was made for")


def _trunk(
    weights: Pretrained | None, on_cpu: bool, num_devices: int, budget: int
) -> tuple[str, str]:
    """The trunk of the weights; without weights, one that the device can train."""
    if weights is not None:
        trunk = check_weights(weights.path, None)
        why = "its tensors are in model.pretrained"
        if weights.architecture not in (None, trunk):
            why += f", which calls itself {weights.architecture}"
        return trunk, why
    preferred, smaller, smallest = SCRATCH_TRUNKS
    if on_cpu:
        return smallest, "small enough to learn from scratch on a CPU"
    images = -(-PAPER_CLASSES * PAPER_IMAGES // num_devices)
    need = step_bytes(preferred, 224, "bfloat16", images, "gpu")
    memory = f"{format_bytes(need)} of {format_bytes(budget)} per device"
    why = f"{preferred} on the paper's batch at 224 px needs about {memory}"
    return preferred if need <= budget else smaller, why


def _rate(config: ml_collections.ConfigDict) -> tuple[float, str]:
    """The learning rate."""
    pretrained, spec = config.model.pretrained, trunk_spec(config.model.trunk)
    if config.train.features == "cache":
        if config.optim.rule == "adamw":
            return 1e-3, "the usual rate of AdamW"
        return 10 * spec.rate.value, "a head tolerates ten times the rate of its trunk"
    if config.optim.rule == "adamw":
        if pretrained:
            return 1e-4, "AdamW moves each weight by about the rate, and pretrained ones are near"
        return 1e-3, "the usual rate of AdamW"
    return spec.rate if pretrained else spec.scratch_rate


def _warnings(config: ml_collections.ConfigDict) -> list[str]:
    """One line for each setting that is allowed but rarely intended."""
    pretrained, optim, lines = config.model.pretrained, config.optim, []
    noise = not pretrained and config.data.name != "birds"  # drawn to be learnt from scratch
    if noise:
        lines.append(_WARNING)
    if config.train.features == "cache":
        if not pretrained:
            lines.append(
                "WARNING: train.features=cache never trains the trunk, and without "
                "model.pretrained its features are those of random weights."
            )
    elif optim.frozen_epochs >= optim.epochs:
        lines.append(
            f"WARNING: optim.frozen_epochs = {optim.frozen_epochs:g} of optim.epochs = "
            f"{optim.epochs:g}: the trunk is frozen for the entire run, and only the head learns; "
            "optim.frozen_epochs=0 lets the trunk learn from the start."
        )
    elif noise and optim.frozen_epochs:
        lines.append(
            f"WARNING: the random trunk is frozen for {optim.frozen_epochs:g} epochs; "
            "optim.frozen_epochs=0 lets it learn from the start."
        )
    if not pretrained and config.model.batch_norm == "fixed":
        lines.append(
            "WARNING: model.batch_norm=fixed uses the BatchNorm statistics of pretrained weights, "
            "and there are none; set model.batch_norm=global."
        )
    rate, why = _rate(config)
    if optim.rule == "adamw" and optim.lr > 10 * rate:
        lines.append(
            f"WARNING: optim.lr = {optim.lr:g} is far above the {rate:g} that would be chosen with "
            f"optim.rule = adamw: {why}; set optim.lr={rate:g}."
        )
    return lines
