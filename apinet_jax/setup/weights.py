"""Chooses pretrained weights for `model.pretrained = auto`, before anything is fetched."""

from typing import NamedTuple

from apinet_jax.models.weights.catalogue import PUBLISHED
from apinet_jax.setup.memory import format_bytes
from apinet_jax.setup.sizing import PAPER_CLASSES, PAPER_IMAGES, step_bytes, usable_bytes

AUTO, SCRATCH = "auto", "none"
"""Values of `model.pretrained` that name no file: the program's choice, and random values."""

# The best first; each is more accurate on ImageNet than the next, and needs more memory.
_TRUNKS = {
    # A fine-tuned ConvNeXt is among the most accurate networks that are convolutions, whose images
    # may have any size.
    "gpu": ("convnext_base", "convnext_small", "convnext_tiny"),
    # Matrix products fill a TPU; depthwise convolutions do not.
    "tpu": ("vit_base_patch14_dinov2", "vit_small_patch14_dinov2"),
    # Few operations for its accuracy, and no layer that is slow on CPUs.
    "cpu": ("tf_efficientnet_lite0",),
}
_CACHED_ON_CPU = "tf_efficientnet_lite2"
_CROP = 224  # of the estimate: half the paper's side, at which every trunk here is still good


class Choice(NamedTuple):
    """Weights for a run.

    Attributes:
        trunk: Their trunk; `None` if nothing is known that suits the configuration.
        name: Their name, as for `find_pretrained`; `None` for random values.
        line: What was chosen, why, and how to choose something else.
    """

    trunk: str | None
    name: str | None
    line: str


def choose_weights(
    trunk: str | None, platform: str, num_devices: int, device_bytes: int, *, cached: bool = False
) -> Choice:
    """Choose pretrained weights for the devices.

    Args:
        trunk: The trunk, if the configuration names one; its weights are chosen then.
        platform: `cpu`, `gpu` or `tpu`.
        num_devices: Devices of the run.
        device_bytes: Memory of one device, in bytes.
        cached: Whether the trunk never moves, and its features are computed once.
    """
    if trunk is not None and trunk not in PUBLISHED:
        line = (
            f"WARNING: no pretrained weights are known for model.trunk = {trunk}, so it starts "
            f"from random values. Name a file with model.pretrained, or choose another trunk."
        )
        return Choice(trunk, None, line)
    why = f"the weights of model.trunk = {trunk}"
    if trunk is None and cached and platform == "cpu":
        trunk, why = _CACHED_ON_CPU, "whose features a CPU has to compute only once"
    elif trunk is None:
        trunk, why = _suited(platform, num_devices, usable_bytes(platform, device_bytes))
    found = PUBLISHED[trunk]
    line = (
        f"Pretrained weights: {found.name} ({found.licence} licence; {found.accuracy:g} % top-1 on "
        f"ImageNet), {why}. Others: any timm:NAME or file of a trunk in docs/trunks.md, with "
        f"--config.model.pretrained; none at all: --config.model.pretrained={SCRATCH}"
    )
    return Choice(trunk, found.name, line)


def _suited(platform: str, num_devices: int, budget: int) -> tuple[str, str]:
    """The first trunk with which a step on the paper's batch fits, and why."""
    trunks = _TRUNKS[platform]
    if len(trunks) == 1:
        return trunks[0], "small enough to train on a CPU"
    images = -(-PAPER_CLASSES * PAPER_IMAGES // num_devices)
    for trunk in trunks:
        need = step_bytes(trunk, _CROP, "bfloat16", images, platform)
        if need <= budget:
            break
    memory = f"{format_bytes(need)} of {format_bytes(budget)}"
    return trunk, f"a step on the paper's batch at {_CROP} px needs about {memory} per device"
