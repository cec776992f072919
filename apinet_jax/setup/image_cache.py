"""Where the resized images of a run are kept: nowhere, on the disk, or on the devices."""

import math

import ml_collections

from apinet_jax.method.device_images import layout_of
from apinet_jax.setup.memory import format_bytes
from apinet_jax.setup.sizing import step_bytes

_DISK_LIMIT = 4 * 2**30  # bytes that are written without being asked for


def choose_cache(
    config: ml_collections.ConfigDict,
    num_train: int,
    num_images: int,
    platform: str,
    num_devices: int,
    budget: int,
) -> tuple[str, str]:
    """Return a value of `data.cache`, and why.

    Args:
        config: The configuration, with its trunk, batch and image sizes.
        num_train: Training images.
        num_images: Images of all splits.
        platform: `cpu`, `gpu` or `tpu`.
        num_devices: Devices of the run.
        budget: Bytes of a device that may be used.
    """
    model, data = config.model, config.data
    on_disk = num_images * data.resize**2 * 3
    text = f"the resized images take {on_disk / 1e9:.1f} GB"
    if on_disk > _DISK_LIMIT:
        return "off", f"{text}, more than {_DISK_LIMIT / 1e9:.1f} GB"
    decoded_once = f"{text} and are then decoded once, not every epoch"
    cropped = data.augmentation == "crop" and config.train.features == "compute"
    if platform == "cpu" or not cropped:
        return "disk", decoded_once
    batch_size = config.batch.classes * config.batch.images // num_devices
    sizes = (model.trunk, data.crop, model.dtype, batch_size)
    room = budget - step_bytes(*sizes, platform, model.remat, config.train.microbatches)
    layout = layout_of(num_train, data.resize, data.crop, num_devices)
    each = math.prod(layout.shape) // (num_devices if layout.divided else 1)
    if each > room:
        return "disk", decoded_once
    return "device", f"{format_bytes(each)} of training images fit next to what a step needs"
