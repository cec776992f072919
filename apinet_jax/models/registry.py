"""The table of the trunks, each with its default settings and what its weights expect."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from apinet_jax.models.convnext import ConvNeXt
from apinet_jax.models.densenet import DenseNet
from apinet_jax.models.efficientnet import HEAD, EfficientNetLite, first_cell
from apinet_jax.models.layers import Trunk
from apinet_jax.models.resnet import BasicBlock, Block, Bottleneck, ResNet
from apinet_jax.models.squeezenet import SqueezeNet
from apinet_jax.models.swin import Swin
from apinet_jax.models.tiny import Tiny
from apinet_jax.models.vit import VIT_BASE, VIT_LARGE, VIT_SMALL, Pool, ViT, ViTSize

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


class Rate(NamedTuple):
    """A learning rate for SGD with momentum, and why it suits the trunk."""

    value: float
    reason: str


_PRETRAINED_RATE = Rate(0.01, "the authors' rate")
_SCRATCH_RATE = Rate(
    0.1, "a trunk without weights has further to go than the authors' 0.01 takes it"
)
# Their authors' grid is 0.003 to 0.06.
_VIT_RATE = Rate(
    0.003, "the lowest that the authors of ViT fine-tune with, as no gradient is clipped"
)


@dataclass(frozen=True)
class TrunkSpec:
    """Facts about a trunk that are known before it is built.

    Attributes:
        build: Builds the module from `dtype`, `batch_norm_groups` and `remat`.
        width: Channels of its feature map, `D`.
        classifier_prefixes: First letters of the names of tensors that belong to the classifier of
            the torchvision or timm model, not to the trunk.
        mean: Mean of each channel of the images that its weights were trained on, from 0 to 1.
        std: Standard deviation of each channel.
        patch: Sides of images must be multiples of this.
        class_token: Whether it has a class token besides the feature map.
        first_cell: Pixel, counted from 0, at the centre of what the first cell of the feature map
            sees, vertically and horizontally. With strided, padded layers it may be at the edge. A
            function of the side of the image, in pixels, if the padding depends on it.
        cell_step: Pixels from one cell to the next.
        crop: Default side of the images on an accelerator, in pixels.
        cpu_crop: Default side of the images on a CPU.
        rate: Default learning rate with pretrained weights.
        scratch_rate: Default learning rate without.
        library: The library whose names its tensors have.
        drop_path: Whether its residuals can be dropped at random.
    """

    build: Callable[..., Trunk]
    width: int
    classifier_prefixes: tuple[str, ...]
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    patch: int = 1
    class_token: bool = False
    first_cell: float | Callable[[int], float] = 0.0
    cell_step: int = 32
    crop: int = 448
    cpu_crop: int = 224
    rate: Rate = _PRETRAINED_RATE
    scratch_rate: Rate = _SCRATCH_RATE
    library: str = "torchvision"
    drop_path: bool = False

    def first_centre(self, side: int) -> float:
        """Return `first_cell` in an image of `side` pixels."""
        return self.first_cell(side) if callable(self.first_cell) else self.first_cell

    def feature_width(self, pool: Pool = "map") -> int:
        """Return the channels of the pooled features."""
        return 2 * self.width if pool == "both" else self.width


def _resnet(
    block: type[Block], depths: Sequence[int], width: int = 64, **numbers: Any
) -> TrunkSpec:
    return TrunkSpec(
        build=partial(ResNet, block, tuple(depths), width),
        width=width * 2 ** (len(depths) - 1) * block.expansion,
        classifier_prefixes=("fc.",),
        **numbers,
    )


def _densenet(depths: Sequence[int], growth: int, width: int) -> TrunkSpec:
    features = width
    for block, depth in enumerate(depths):
        features = features // (2 if block else 1) + depth * growth
    build = partial(DenseNet, tuple(depths), growth, width)
    return TrunkSpec(build, features, classifier_prefixes=("classifier.",), first_cell=14.0)


def _squeezenet() -> TrunkSpec:
    rate = Rate(0.002, "without BatchNorm this trunk diverges at the authors' 0.01")
    cells = {"first_cell": 15.0, "cell_step": 16}
    return TrunkSpec(SqueezeNet, 512, ("classifier.",), **cells, rate=rate, scratch_rate=rate)


def _efficientnet_lite(width_factor: float, depth_factor: float, side: int) -> TrunkSpec:
    """EfficientNet-Lite as in timm, whose ImageNet images have `side` pixels."""
    build = partial(EfficientNetLite, width_factor, depth_factor)
    options = {"first_cell": first_cell, "cpu_crop": side, "library": "timm"}
    return TrunkSpec(build, HEAD, ("classifier.",), HALF, HALF, **options)


def _vit(
    size: ViTSize, patch: int, side: int | None, statistics: Sequence = (), **options: Any
) -> TrunkSpec:
    """A ViT as in timm, with position embeddings for images of `side` pixels, or rotary ones."""
    grid = side and side // patch
    build = partial(ViT, patch, grid, **size._asdict(), **options)
    return TrunkSpec(
        build,
        size.width,
        ("head.",),
        *statistics,
        patch=patch,
        class_token=True,
        first_cell=(patch - 1) / 2,
        cell_step=patch,
        rate=_VIT_RATE,
        scratch_rate=_VIT_RATE,
        library="timm",
        drop_path=True,
    )


_REGISTERS = {"registers": 4, "embed_prefix": False}
_dinov2 = partial(_vit, patch=14, side=518, layer_scale=("ls1.gamma", "ls2.gamma"))
_dinov3 = partial(
    _vit,
    patch=16,
    side=None,
    layer_scale=("gamma_1", "gamma_2"),
    qkv_bias=False,
    epsilon=1e-5,
    **_REGISTERS,
)


_PATCHES_RATE = Rate(0.003, "as for ViTs; its authors only give rates for AdamW (optim.rule)")
# The trunks that halve a grid of patches of 4 pixels three times.
_HIERARCHICAL = {
    "first_cell": 15.5,
    "rate": _PATCHES_RATE,
    "scratch_rate": _PATCHES_RATE,
    "library": "timm",
    "drop_path": True,
}


def _convnext(depths: Sequence[int], width: int) -> TrunkSpec:
    """ConvNeXt as in timm, with `width` channels at first."""
    build = partial(ConvNeXt, depths, tuple(width * 2**stage for stage in range(4)))
    return TrunkSpec(build, 8 * width, ("head.fc.",), **_HIERARCHICAL)


def _swin(
    depths: Sequence[int], width: int, heads: int, window: int = 7, **numbers: int
) -> TrunkSpec:
    """Swin as in timm, with `width` channels and `heads` at first."""
    build = partial(Swin, depths, tuple(heads * 2**stage for stage in range(4)), width, window)
    return TrunkSpec(build, 8 * width, ("head.",), **_HIERARCHICAL, **numbers)


TRUNKS: dict[str, TrunkSpec] = {
    # For laptops: small enough to learn from scratch on a CPU.
    "resnet10_w16": _resnet(BasicBlock, (1, 1, 1, 1), width=16, crop=128, cpu_crop=128),
    "resnet18": _resnet(BasicBlock, (2, 2, 2, 2)),
    "resnet34": _resnet(BasicBlock, (3, 4, 6, 3)),
    "resnet50": _resnet(Bottleneck, (3, 4, 6, 3)),
    "resnet101": _resnet(Bottleneck, (3, 4, 23, 3)),
    "resnet152": _resnet(Bottleneck, (3, 8, 36, 3)),
    "densenet121": _densenet((6, 12, 24, 16), growth=32, width=64),
    "densenet161": _densenet((6, 12, 36, 24), growth=48, width=96),
    "squeezenet1_1": _squeezenet(),
    "tf_efficientnet_lite0": _efficientnet_lite(1.0, 1.0, side=224),
    "tf_efficientnet_lite1": _efficientnet_lite(1.0, 1.1, side=240),
    "tf_efficientnet_lite2": _efficientnet_lite(1.1, 1.2, side=260),
    "tf_efficientnet_lite3": _efficientnet_lite(1.2, 1.4, side=300),
    "tf_efficientnet_lite4": _efficientnet_lite(1.4, 1.8, side=380),
    "vit_base_patch16_224": _vit(VIT_BASE, 16, 224, statistics=(HALF, HALF)),
    "vit_small_patch14_dinov2": _dinov2(VIT_SMALL),
    "vit_base_patch14_dinov2": _dinov2(VIT_BASE),
    "vit_large_patch14_dinov2": _dinov2(VIT_LARGE),
    "vit_small_patch14_reg4_dinov2": _dinov2(VIT_SMALL, **_REGISTERS),
    "vit_base_patch14_reg4_dinov2": _dinov2(VIT_BASE, **_REGISTERS),
    "vit_large_patch14_reg4_dinov2": _dinov2(VIT_LARGE, **_REGISTERS),
    "vit_small_patch16_dinov3": _dinov3(VIT_SMALL),
    "vit_base_patch16_dinov3": _dinov3(VIT_BASE),
    "convnext_tiny": _convnext((3, 3, 9, 3), 96),
    "convnext_small": _convnext((3, 3, 27, 3), 96),
    "convnext_base": _convnext((3, 3, 27, 3), 128),
    "convnext_large": _convnext((3, 3, 27, 3), 192),
    "swin_tiny_patch4_window7_224": _swin((2, 2, 6, 2), 96, 3),
    "swin_small_patch4_window7_224": _swin((2, 2, 18, 2), 96, 3),
    "swin_base_patch4_window7_224": _swin((2, 2, 18, 2), 128, 4),
    "swin_large_patch4_window7_224": _swin((2, 2, 18, 2), 192, 6),
    "swin_base_patch4_window12_384": _swin(
        (2, 2, 18, 2), 128, 4, window=12, crop=384, cpu_crop=384
    ),
    "swin_large_patch4_window12_384": _swin(
        (2, 2, 18, 2), 192, 6, window=12, crop=384, cpu_crop=384
    ),
    # Never offered:
    "test_tiny": TrunkSpec(Tiny, 16, ("fc.",), cell_step=4),
    "test_convnext": _convnext((1, 1, 2, 1), 8),
    "test_swin": _swin((2, 1, 1, 2), 8, 1),
    "test_vit": _vit(ViTSize(16, depth=1, heads=2), 8, 32, registers=1),
}

LISTED_TRUNKS = tuple(name for name in TRUNKS if not name.startswith("test_"))
"""The trunks that messages and commands offer; the others only serve tests."""

SCRATCH_TRUNKS = ("resnet50", "resnet18", "resnet10_w16")
"""Trunks to choose from without pretrained weights, the largest first; the last suits CPUs."""
