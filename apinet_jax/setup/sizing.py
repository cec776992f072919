"""How large images and batches may be: estimated from shapes, before anything is compiled.

The estimate only chooses defaults. Before the first step the compiler's own figure decides
(`memory.py`).
"""

import math
from collections.abc import Sequence
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from apinet_jax.models import make_trunk

SIZES = ((512, 448), (256, 224), (144, 128))
"""Sides after resizing and after cropping, from the paper's down."""

PAPER_CLASSES, PAPER_IMAGES = 30, 4


class Shape(NamedTuple):
    """Size of a batch.

    Attributes:
        crop: Height and width of an image.
        classes: Classes, `K`.
        images: Images of each, `S`.
        step_bytes: What a step of that size needs on each device, about.
    """

    crop: int
    classes: int
    images: int
    step_bytes: int


@cache
def _trunk_bytes(trunk: str, crop: int, dtype: str) -> tuple[int, int]:
    """Bytes that a trunk takes whatever the batch, and bytes that every image adds.

    Parameters, momentum and gradient; and, of an image, the output of every layer, which the
    backward pass reads, with the largest counted five times: once more for its gradient and for
    what the compiler makes of it. Against the compiler's figures for CPUs this came to between 0.7
    and 1.15 of them in float32 (ResNet-18 and -50, DenseNet-121, SqueezeNet, ViT-B at 224), and to
    0.3 for ViT-B at 448, whose attention a CPU keeps; on a GPU to 1.45 of it for ResNet-101 at 448
    in bfloat16.
    """
    module = make_trunk(trunk, jnp.dtype(dtype))
    image = jax.ShapeDtypeStruct((2, crop, crop, 3), jnp.dtype(dtype))  # BatchNorm asks for two
    variables = jax.eval_shape(partial(module.init, train=False), jax.random.key(0), image)
    _, state = jax.eval_shape(
        partial(
            module.apply,
            train=True,
            mutable=["batch_stats", "intermediates"],
            capture_intermediates=True,
        ),
        variables,
        image,
    )
    outputs = [
        leaf.size * leaf.dtype.itemsize // 2 for leaf in jax.tree.leaves(state["intermediates"])
    ]
    params = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(variables["params"]))
    return 3 * params, sum(outputs) + 4 * max(outputs)


def step_bytes(trunk: str, crop: int, dtype: str, images: int) -> int:
    """What a training step needs on one device, about.

    Args:
        trunk: Name of the trunk.
        crop: Height and width of an image.
        dtype: Compute type.
        images: Images on the device.
    """
    fixed, each = _trunk_bytes(trunk, crop, dtype)
    return fixed + images * each


def batch_shapes(
    num_classes: int,
    median_images: int,
    num_devices: int,
    classes: int | None = None,
    images: int | None = None,
) -> list[tuple[int, int]]:
    """The K x S that the devices can share equally, the nearest to the paper's first.

    S may grow beyond the paper's where no K would do: a class then shows more of its images.

    Args:
        num_classes: Classes of the data set.
        median_images: Images of the median class.
        num_devices: Devices of the run.
        classes: K, where it is given.
        images: S, where it is given.
    """
    most = min(PAPER_CLASSES, num_classes)
    least = max(2, min(PAPER_IMAGES, median_images))  # a class of one image pairs with none

    def distance(shape: tuple[int, int]) -> float:
        return abs(math.log(shape[0] / most)) + abs(math.log(shape[1] / least))

    shapes = [
        (k, s)
        for k in ([classes] if classes else range(most, 1, -1))
        for s in ([images] if images else range(least, least + num_devices))
        if k * s % num_devices == 0
    ]
    return sorted(shapes, key=distance)


def largest(
    trunk: str,
    dtype: str,
    crops: Sequence[int],
    shapes: Sequence[tuple[int, int]],
    num_devices: int,
    budget: int,
) -> Shape:
    """The first crop at which a good batch fits, and the best batch that does.

    A smaller crop is taken where fewer than a third of the wanted classes would fit: pairs of
    similar classes are only found within a batch.

    Args:
        trunk: Name of the trunk.
        dtype: Compute type.
        crops: Heights and widths to try, the best first.
        shapes: K x S to try, the best first.
        num_devices: Devices of the run.
        budget: Bytes that a step may need on each of them.

    Returns:
        The choice; where nothing fits, the smallest there is.
    """

    def sized(crop: int, shape: tuple[int, int]) -> Shape:
        k, s = shape
        return Shape(crop, k, s, step_bytes(trunk, crop, dtype, -(-k * s // num_devices)))

    best = None
    for crop in crops:
        fits = (one for shape in shapes if (one := sized(crop, shape)).step_bytes <= budget)
        found = next(fits, None)
        best = found or best
        if found and 3 * found.classes >= shapes[0][0]:
            return found
    return best or sized(crops[-1], min(shapes, key=lambda shape: shape[0] * shape[1]))
