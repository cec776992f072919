"""Pretrained weights on the Hugging Face hub, one set for each trunk."""

from typing import NamedTuple


class Published(NamedTuple):
    """Weights that can be fetched by name.

    Attributes:
        name: Name on the hub, as for `find_pretrained`.
        licence: Their licence, as timm states it.
        accuracy: Published top-1 accuracy on ImageNet, in percent: from timm's table
            `results-imagenet.csv`; for DINOv2, from its authors' linear probe.
    """

    name: str
    licence: str
    accuracy: float


_APACHE, _MIT, _BSD = "Apache-2.0", "MIT", "BSD-3-Clause"

PUBLISHED: dict[str, Published] = {
    "resnet18": Published("timm:resnet18.tv_in1k", _BSD, 69.8),
    "resnet34": Published("timm:resnet34.a1_in1k", _APACHE, 77.9),
    "resnet50": Published("timm:resnet50.tv_in1k", _BSD, 76.1),
    "resnet101": Published("timm:resnet101.tv_in1k", _BSD, 77.4),
    "resnet152": Published("timm:resnet152.tv_in1k", _BSD, 78.3),
    "densenet121": Published("timm:densenet121.tv_in1k", _APACHE, 74.8),
    "densenet161": Published("timm:densenet161.tv_in1k", _APACHE, 77.4),
    "tf_efficientnet_lite0": Published("timm:tf_efficientnet_lite0.in1k", _APACHE, 74.8),
    "tf_efficientnet_lite1": Published("timm:tf_efficientnet_lite1.in1k", _APACHE, 76.6),
    "tf_efficientnet_lite2": Published("timm:tf_efficientnet_lite2.in1k", _APACHE, 77.5),
    "tf_efficientnet_lite3": Published("timm:tf_efficientnet_lite3.in1k", _APACHE, 79.8),
    "tf_efficientnet_lite4": Published("timm:tf_efficientnet_lite4.in1k", _APACHE, 81.5),
    "convnext_tiny": Published("timm:convnext_tiny.in12k_ft_in1k", _APACHE, 84.5),
    "convnext_small": Published("timm:convnext_small.in12k_ft_in1k", _APACHE, 85.3),
    "convnext_base": Published("timm:convnext_base.fb_in22k_ft_in1k", _APACHE, 86.3),
    "convnext_large": Published("timm:convnext_large.fb_in22k_ft_in1k", _APACHE, 87.0),
    "swin_tiny_patch4_window7_224": Published(
        "timm:swin_tiny_patch4_window7_224.ms_in22k_ft_in1k", _MIT, 81.0
    ),
    "swin_small_patch4_window7_224": Published(
        "timm:swin_small_patch4_window7_224.ms_in22k_ft_in1k", _MIT, 83.3
    ),
    "swin_base_patch4_window7_224": Published(
        "timm:swin_base_patch4_window7_224.ms_in22k_ft_in1k", _MIT, 85.3
    ),
    "swin_large_patch4_window7_224": Published(
        "timm:swin_large_patch4_window7_224.ms_in22k_ft_in1k", _MIT, 86.3
    ),
    "swin_base_patch4_window12_384": Published(
        "timm:swin_base_patch4_window12_384.ms_in22k_ft_in1k", _MIT, 86.4
    ),
    "swin_large_patch4_window12_384": Published(
        "timm:swin_large_patch4_window12_384.ms_in22k_ft_in1k", _MIT, 87.1
    ),
    "vit_base_patch16_224": Published(
        "timm:vit_base_patch16_224.augreg2_in21k_ft_in1k", _APACHE, 85.1
    ),
    "vit_small_patch14_dinov2": Published("timm:vit_small_patch14_dinov2.lvd142m", _APACHE, 81.1),
    "vit_base_patch14_dinov2": Published("timm:vit_base_patch14_dinov2.lvd142m", _APACHE, 84.5),
    "vit_large_patch14_dinov2": Published("timm:vit_large_patch14_dinov2.lvd142m", _APACHE, 86.3),
    "vit_small_patch14_reg4_dinov2": Published(
        "timm:vit_small_patch14_reg4_dinov2.lvd142m", _APACHE, 80.9
    ),
    "vit_base_patch14_reg4_dinov2": Published(
        "timm:vit_base_patch14_reg4_dinov2.lvd142m", _APACHE, 84.6
    ),
    "vit_large_patch14_reg4_dinov2": Published(
        "timm:vit_large_patch14_reg4_dinov2.lvd142m", _APACHE, 86.7
    ),
}
