"""How large images and batches may be: estimated from shapes, before anything is compiled.

The estimate only chooses defaults. Before the first step the compiler's own figure decides
(`memory.py`).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp

from apinet_jax.models.footprint import footprint
from apinet_jax.system.errors import InputError

SIZES = ((512, 448), (256, 224), (144, 128))
"""Sides after resizing and after cropping, from the paper's down."""

PAPER_CLASSES, PAPER_IMAGES = 30, 4
MICROBATCHES = (1, 2, 4, 8)
_LEAST_PART = 8  # images of a microbatch, for its BatchNorm statistics


def usable_bytes(platform: str, device_bytes: int) -> int:
    """Return how much of a device's memory the estimate may fill; a CPU's is shared with others."""
    return int((0.8 if platform == "cpu" else 0.85) * device_bytes)


def resize_for(crop: int) -> int:
    """Return the side to resize to before a crop: an eighth is left to move in, as in the paper."""
    return {crop: resize for resize, crop in SIZES}.get(crop, round(crop * 8 / 7))


class Shape(NamedTuple):
    """Size of a batch, and how a step computes it.

    Attributes:
        crop: Height and width of an image.
        classes: Classes, `K`.
        images: Images of each, `S`.
        remat: Rematerialisation of the trunk.
        microbatches: Parts of the batch that the trunk sees one after the other.
        step_bytes: Estimated bytes that a step needs on each device.
    """

    crop: int
    classes: int
    images: int
    remat: str
    microbatches: int
    step_bytes: int


def step_bytes(
    trunk: str,
    crop: int,
    dtype: str,
    images: int,
    platform: str = "cpu",
    remat: str = "none",
    microbatches: int = 1,
) -> int:
    """Estimate the bytes that a training step needs on one device.

    Parameters, momentum, gradient, images, and the outputs of layers that the backward pass reads.
    Accelerators fuse a norm with what follows and keep about three quarters of the outputs. In
    bfloat16 with 120 images at 448 on a GPU the estimate is within 4 % of the compiler's figure:
    ResNet-101 28.4 (27.9 GiB), ResNet-50 19.1 (18.5), with `remat=full` 7.5 (7.4), in 4
    microbatches 5.2 (5.2). On TPUs it was 0.76 to 0.92 of it. CPUs keep all outputs, and copies of
    the largest; for eight trunks in float32 (8 to 48 images at 224) it was 0.8 to 1.8 of the
    compiler's figure without attention, 0.4 to 0.6 with it or with GELU, whose passes are not
    counted, and 0.8 to 1.7 with `remat=full`.

    Args:
        trunk: Name of the trunk.
        crop: Height and width of an image.
        dtype: Compute type.
        images: Images on the device.
        platform: `cpu`, `gpu` or `tpu`.
        remat: Rematerialisation of the trunk; `dots` is counted as `none`.
        microbatches: Parts of the batch.
    """
    found = footprint(trunk, crop, dtype)
    if platform == "cpu":
        each = (found.full if remat == "full" else found.outputs) + 4 * found.largest
    else:
        each = found.full if remat == "full" else 3 * found.outputs // 4
    copies = 3 if microbatches == 1 else 4  # the sum of the parts' gradients
    pixels = crop * crop * 3 * (1 + jnp.dtype(dtype).itemsize)
    return copies * found.params + images * pixels + -(-images // microbatches) * each


def batch_shapes(
    num_classes: int,
    median_images: int,
    num_devices: int,
    classes: int | None = None,
    images: int | None = None,
) -> list[tuple[int, int]]:
    """Return the K x S that the devices can share equally, the nearest to the paper's first.

    S may exceed the paper's where no K would do: a class then shows more of its images. So may K
    where S is given.

    Args:
        num_classes: Classes of the data set.
        median_images: Images of the median class.
        num_devices: Devices of the run, times its microbatches.
        classes: K, where it is given.
        images: S, where it is given.

    Raises:
        InputError: If S is given and no K suits the devices.
    """
    if classes and images:  # the caller refuses what devices cannot share, with both in its message
        return [(classes, images)]
    most = min(PAPER_CLASSES, num_classes)
    least = max(2, min(PAPER_IMAGES, median_images))  # a class of one image pairs with none

    def distance(shape: tuple[int, int]) -> float:
        return abs(math.log(shape[0] / most)) + abs(math.log(shape[1] / least))

    def shared(ks: Sequence[int]) -> list[tuple[int, int]]:
        sizes = [images] if images else range(least, least + num_devices)
        return [(k, s) for k in ks for s in sizes if k * s % num_devices == 0]

    shapes = shared([classes] if classes else range(2, most + 1))
    shapes = shapes or shared(range(most + 1, num_classes + 1))
    if not shapes:
        unit = num_devices // math.gcd(num_devices, images or 1)
        raise InputError(
            f"batch.images = {images}: {num_devices} devices (times microbatches) can share a "
            f"batch equally only if batch.classes is a multiple of {unit}, and the data have "
            f"{num_classes} classes. Leave batch.images to the program, or use fewer devices."
        )
    return sorted(shapes, key=distance)


def memory_savings(
    remat: str | None = None, microbatches: int | None = None
) -> list[tuple[str, int]]:
    """Return the ways to compute a step (remat, microbatches), from the fastest to the smallest.

    Args:
        remat: Its value, where it is given.
        microbatches: Likewise.
    """
    remats = [remat] if remat else ["none", "full"]
    parts = [microbatches] if microbatches else MICROBATCHES
    at_once = [(remat, parts[0]) for remat in remats]
    return at_once + [(remat, part) for remat in remats for part in parts[1:]]


def largest(
    trunk: str,
    dtype: str,
    crops: Sequence[int],
    shapes: Sequence[tuple[int, int]],
    savings: Sequence[tuple[str, int]],
    num_devices: int,
    budget: int,
    platform: str,
) -> Shape:
    """Return the first crop at which a good batch fits, with the best batch that does.

    A step that computes more comes before a smaller batch. A smaller crop is only taken where fewer
    than a third of the wanted classes would fit: similar classes are found within a batch.

    Args:
        trunk: Name of the trunk.
        dtype: Compute type.
        crops: Heights and widths to try, the best first.
        shapes: K x S to try, the best first.
        savings: Rematerialisation and microbatches to try, the fastest first.
        num_devices: Devices of the run.
        budget: Bytes that a step may need on each of them.
        platform: Theirs.

    Returns:
        The choice; the smallest if nothing fits.
    """

    def sized(crop: int, shape: tuple[int, int]) -> list[Shape]:
        k, s = shape
        images = -(-k * s // num_devices)
        return [
            Shape(
                *(crop, k, s, remat, parts),
                step_bytes(trunk, crop, dtype, images, platform, remat, parts),
            )
            for remat, parts in savings
            if (remat, parts) == savings[0]
            or (k * s % (num_devices * parts) == 0 and k * s // parts >= _LEAST_PART)
        ]

    best = None
    for crop in crops:
        fits = (one for shape in shapes for one in sized(crop, shape) if one.step_bytes <= budget)
        found = next(fits, None)
        best = found or best
        if found and 3 * found.classes >= shapes[0][0]:
            return found
    smallest = min(shapes, key=lambda shape: shape[0] * shape[1])
    return best or min(sized(crops[-1], smallest), key=lambda one: one.step_bytes)
