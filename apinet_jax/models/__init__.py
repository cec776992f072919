"""The trunks by name, each with what its pretrained weights expect."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from apinet_jax.models.densenet import DenseNet
from apinet_jax.models.layers import Remat
from apinet_jax.models.resnet import BasicBlock, Block, Bottleneck, ResNet
from apinet_jax.models.squeezenet import SqueezeNet
from apinet_jax.models.tiny import Tiny
from apinet_jax.models.vit import ViT, check_sides
from apinet_jax.system.errors import InputError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class TrunkSpec:
    """What is known of a trunk before it is built.

    Attributes:
        build: Makes the module from `dtype`, `batch_norm_groups` and `remat`.
        width: Channels of its feature map, `D`.
        classifier_prefixes: How the names of the tensors begin that belong to the classifier of
            the torchvision or timm model and not to the trunk.
        mean: Mean of each channel of its training images, of pixels in [0, 1].
        std: Standard deviation of each channel.
        patch: What the sides of its images must be multiples of.
    """

    build: Callable[..., nn.Module]
    width: int
    classifier_prefixes: tuple[str, ...]
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    patch: int = 1


def _resnet(block: type[Block], depths: Sequence[int], width: int = 64) -> TrunkSpec:
    return TrunkSpec(
        build=partial(ResNet, block, tuple(depths), width),
        width=width * 2 ** (len(depths) - 1) * block.expansion,
        classifier_prefixes=("fc.",),
    )


def _densenet(depths: Sequence[int], growth: int, width: int) -> TrunkSpec:
    features = width
    for block, depth in enumerate(depths):
        features = features // (2 if block else 1) + depth * growth
    build = partial(DenseNet, tuple(depths), growth, width)
    return TrunkSpec(build, features, classifier_prefixes=("classifier.",))


def _vit_base(patch: int, side: int, statistics: Sequence = (), **options: Any) -> TrunkSpec:
    """ViT-B of timm, with position embeddings for images of `side` pixels."""
    build = partial(ViT, patch, side // patch, **options)
    return TrunkSpec(build, 768, ("head.",), *statistics, patch=patch)


TRUNKS: dict[str, TrunkSpec] = {
    "resnet10_w16": _resnet(BasicBlock, (1, 1, 1, 1), width=16),  # for laptops and tests
    "resnet18": _resnet(BasicBlock, (2, 2, 2, 2)),
    "resnet34": _resnet(BasicBlock, (3, 4, 6, 3)),
    "resnet50": _resnet(Bottleneck, (3, 4, 6, 3)),
    "resnet101": _resnet(Bottleneck, (3, 4, 23, 3)),
    "resnet152": _resnet(Bottleneck, (3, 8, 36, 3)),
    "densenet121": _densenet((6, 12, 24, 16), growth=32, width=64),
    "densenet161": _densenet((6, 12, 36, 24), growth=48, width=96),
    "squeezenet1_1": TrunkSpec(SqueezeNet, width=512, classifier_prefixes=("classifier.",)),
    "vit_base_patch16_224": _vit_base(16, 224, statistics=(HALF, HALF)),
    "vit_base_patch14_dinov2": _vit_base(14, 518, layer_scale=True),
    "vit_base_patch14_reg4_dinov2": _vit_base(
        14, 518, layer_scale=True, registers=4, embed_prefix=False
    ),
    "test_tiny": TrunkSpec(Tiny, width=16, classifier_prefixes=("fc.",)),  # never offered
}

LISTED_TRUNKS = tuple(name for name in TRUNKS if not name.startswith("test_"))
"""The trunks that messages and commands offer; the others only serve tests."""


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
        listed = ", ".join(LISTED_TRUNKS)
        raise InputError(f"there is no trunk named {name!r}; choose one of {listed}")
    return TRUNKS[name]


def check_trunk(name: str | None, crop: int | None) -> None:
    """Refuses a trunk that is not there, and images that its patches do not fill.

    Args:
        name: Its name; `None` where it is not known yet.
        crop: Side of the images; likewise.

    Raises:
        InputError: With the trunks that there are, or with a side that would do.
    """
    patch = 1 if name is None else trunk_spec(name).patch
    if crop is not None:
        check_sides(patch, crop, crop)


def make_trunk(
    name: str,
    dtype: DTypeLike = jnp.float32,
    batch_norm_groups: int = 1,
    remat: Remat = "none",
) -> nn.Module:
    """Builds a trunk: `module(images [B H W 3], train) -> feature map [B h w D]`, not pooled.

    Args:
        name: A key of `TRUNKS`.
        dtype: Compute dtype; parameters and BatchNorm statistics stay float32.
        batch_norm_groups: Parts of the batch with BatchNorm statistics of their own.
        remat: What a block keeps for its backward pass.

    Returns:
        The linen module, without parameters.

    Raises:
        InputError: No trunk has that name.
    """
    return trunk_spec(name).build(dtype=dtype, batch_norm_groups=batch_norm_groups, remat=remat)


def variable_shapes(name: str, dtype: DTypeLike = jnp.float32) -> dict[str, Any]:
    """Shapes and dtypes of a trunk's variables, without the work of initialising them.

    Args:
        name: A key of `TRUNKS`.
        dtype: Compute dtype.

    Raises:
        InputError: No trunk has that name.
    """
    trunk, side = make_trunk(name, dtype), 32 * trunk_spec(name).patch
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.dtype(dtype))
    return jax.eval_shape(partial(trunk.init, train=False), jax.random.key(0), image)
