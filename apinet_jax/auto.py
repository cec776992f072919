"""Chooses the settings that a configuration leaves open, from the data and the device.

Each choice comes with a line that says why, and how to override it.
"""

import contextlib
import os
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Int

from apinet_jax.config import flatten
from apinet_jax.errors import InputError
from apinet_jax.models import TRUNKS, make_trunk
from apinet_jax.models.pretrained import load_torch_tensors, read_safetensors

_GIB = 2**30
_WARNING = (
    "WARNING: no pretrained weights, so the trunk starts from noise, and a few thousand photos are "
    "not enough to make up for it: on 50 bird species this reached 35 % where SqueezeNet with its "
    "weights reached 74 % (docs/results.md). Give a .safetensors file with torchvision or timm "
    "names: --config.model.pretrained=PATH"
)
_CACHE_LIMIT = 4 * _GIB


def choose(
    config: ml_collections.ConfigDict,
    labels: Int[np.ndarray, " N"],
    num_images: int,
    platform: str,
    num_devices: int,
    device_bytes: int,
    recorded: dict[str, Any] | None = None,
) -> tuple[ml_collections.ConfigDict, list[str]]:
    """Fills every field that is `None` and may be chosen.

    Args:
        config: The configuration; not changed.
        labels: Class of each training image.
        num_images: Images of all splits, for the size of the cache.
        platform: What the run is computed on: `cpu`, `gpu` or `tpu`.
        num_devices: Devices of the run.
        device_bytes: Memory of one of them.
        recorded: Flat configuration of the run that is being resumed, whose choices stand
            whatever the device is now.

    Returns:
        The completed configuration, and one line for each choice.
    """
    config = ml_collections.ConfigDict(config.to_dict(preserve_field_references=False))
    if config.model.pretrained:
        config.model.pretrained = os.path.expanduser(config.model.pretrained)
    flat, lines = flatten(config), []
    recorded = recorded or {}

    def fill(field: str, value: Any, why: str) -> None:
        if flat[field] is not None:
            return
        if recorded.get(field) is not None:
            value, why = recorded[field], "as when this run began"
        group, name = field.split(".")
        config[group][name] = value
        lines.append(f"{field} = {value}: {why}; override with --config.{field}=...")

    on_cpu = platform == "cpu"
    memory = device_bytes * num_devices
    pretrained = config.model.pretrained

    if config.model.trunk is None:  # it costs a look at every tensor of the weights
        fill("model.trunk", *_trunk(pretrained, on_cpu, memory, "model.trunk" in recorded))
    size, why = _size(config.model.trunk, on_cpu or memory < 12 * _GIB)
    fill("data.resize", size[0], why)
    fill("data.crop", min(size[1], config.data.resize), why)
    fill(
        "model.dtype",
        "float32" if on_cpu else "bfloat16",
        "CPUs gain nothing from less" if on_cpu else "half the memory of float32",
    )

    counts = np.bincount(labels)
    median = int(np.median(counts))
    images = max(1, min(4, median))
    why = "the paper's S" if images == 4 else f"the median class has only {median} images"
    fill("batch.images", images, why)
    classes, why = _classes(len(counts), config.batch.images, num_devices)
    fill("batch.classes", classes, why)
    batch_size = config.batch.classes * config.batch.images
    fill("eval.batch_size", batch_size, "as in training")

    cache_bytes = num_images * config.data.resize**2 * 3
    size_text = f"the resized images take {cache_bytes / 1e9:.1f} GB"
    if cache_bytes <= _CACHE_LIMIT:
        fill("data.cache", "disk", f"{size_text} and are then decoded once, not every epoch")
    else:
        fill("data.cache", "off", f"{size_text}, more than {_CACHE_LIMIT / 1e9:.1f} GB")

    fill("optim.lr", *_rate(config.model.trunk, pretrained))
    share = 0.08 * config.optim.epochs
    fill(
        "optim.frozen_epochs",
        float(round(share)) if pretrained else 0.0,
        "the paper's share of the epochs" if pretrained else "a trunk without weights must learn",
    )
    if not pretrained and config.data.name != "birds":  # drawn to be learnt from scratch
        lines.append(_WARNING)
        if config.optim.frozen_epochs:
            lines.append(
                f"WARNING: that noise stands still for {config.optim.frozen_epochs:g} epochs; "
                "--config.optim.frozen_epochs=0 lets it learn from the start."
            )
    return config, lines


def _trunk(
    pretrained: str | None, on_cpu: bool, memory: int, already_recorded: bool
) -> tuple[str, str]:
    """The trunk that the weights are of; without weights, what the device can train."""
    if pretrained and not already_recorded:
        tensors = read_safetensors(pretrained)
        for name, spec in TRUNKS.items():
            trunk, image = make_trunk(name), jnp.zeros((1, 64, 64, 3))
            variables = jax.eval_shape(partial(trunk.init, train=False), jax.random.key(0), image)
            with contextlib.suppress(InputError):
                load_torch_tensors(tensors, variables, spec.classifier_prefixes)
                return name, "its tensors are in model.pretrained"
    if on_cpu:
        return "resnet10_w16", "small enough to learn from scratch on a CPU"
    if memory < 12 * _GIB:
        return "resnet18", f"the devices have {memory / _GIB:.0f} GiB in all"
    return "resnet50", f"the devices have {memory / _GIB:.0f} GiB in all"


def _size(trunk: str, small_device: bool) -> tuple[tuple[int, int], str]:
    """Sides after resizing and after cropping."""
    if trunk == "resnet10_w16":
        return (144, 128), "enough for this small trunk"
    if small_device:
        return (256, 224), "the largest that is bearable on this device"
    return (512, 448), "the paper's size, which this device can hold"


def _rate(trunk: str, pretrained: str | None) -> tuple[float, str]:
    """The learning rate."""
    if trunk == "squeezenet1_1":
        return 0.002, "without BatchNorm this trunk does not bear the authors' 0.01"
    if pretrained:
        return 0.01, "the authors' rate"
    return 0.1, "a trunk without weights has further to go than the authors' 0.01 takes it"


def _classes(num_classes: int, images: int, num_devices: int) -> tuple[int, str]:
    """The largest K up to 30 whose batch the devices can share."""
    wanted = min(30, num_classes)
    why = "the paper's K" if wanted == 30 else f"all {num_classes} classes"
    for classes in range(wanted, 0, -1):
        if classes * images % num_devices == 0:
            if classes < wanted:
                why = f"so that {num_devices} devices share the batch equally"
            return classes, why
    return wanted, why
