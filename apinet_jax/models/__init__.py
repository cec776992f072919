"""The trunks by name, each with what its pretrained weights expect."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from apinet_jax.errors import InputError
from apinet_jax.models.resnet import BasicBlock, Block, Bottleneck, ResNet
from apinet_jax.models.squeezenet import SqueezeNet

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class TrunkSpec:
    """What is known of a trunk before it is built.

    Attributes:
        build: Makes the module from `dtype` and `batch_norm_groups`.
        width: Channels of its feature map, `D`.
        classifier_prefixes: How the names of the tensors begin that belong to the classifier of
            the torchvision model and not to the trunk.
        mean: Mean of each channel of its training images, of pixels in [0, 1].
        std: Standard deviation of each channel.
    """

    build: Callable[..., nn.Module]
    width: int
    classifier_prefixes: tuple[str, ...]
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


def _resnet(block: type[Block], depths: Sequence[int], width: int = 64) -> TrunkSpec:
    return TrunkSpec(
        build=partial(ResNet, block, tuple(depths), width),
        width=width * 2 ** (len(depths) - 1) * block.expansion,
        classifier_prefixes=("fc.",),
    )


TRUNKS: dict[str, TrunkSpec] = {
    "resnet10_w16": _resnet(BasicBlock, (1, 1, 1, 1), width=16),  # for laptops and tests
    "resnet18": _resnet(BasicBlock, (2, 2, 2, 2)),
    "resnet34": _resnet(BasicBlock, (3, 4, 6, 3)),
    "resnet50": _resnet(Bottleneck, (3, 4, 6, 3)),
    "resnet101": _resnet(Bottleneck, (3, 4, 23, 3)),
    "resnet152": _resnet(Bottleneck, (3, 8, 36, 3)),
    "squeezenet1_1": TrunkSpec(SqueezeNet, width=512, classifier_prefixes=("classifier.",)),
}


def trunk_spec(name: str) -> TrunkSpec:
    """Looks a trunk up.

    Args:
        name: A key of `TRUNKS`.

    Returns:
        What is known of it.

    Raises:
        InputError: No trunk has that name.
    """
    if name not in TRUNKS:
        raise InputError(f"there is no trunk named {name!r}; choose one of {', '.join(TRUNKS)}")
    return TRUNKS[name]


def make_trunk(name: str, dtype: DTypeLike = jnp.float32, batch_norm_groups: int = 1) -> nn.Module:
    """Builds a trunk: `module(images [B H W 3], train) -> feature map [B h w D]`, not pooled.

    Args:
        name: A key of `TRUNKS`.
        dtype: Compute dtype; parameters and BatchNorm statistics stay float32.
        batch_norm_groups: Parts of the batch with BatchNorm statistics of their own.

    Returns:
        The linen module, without parameters.

    Raises:
        InputError: No trunk has that name.
    """
    return trunk_spec(name).build(dtype=dtype, batch_norm_groups=batch_norm_groups)
