"""What both sides compute: the cases, and the numbers of the head."""

from typing import NamedTuple

NUM_CLASSES, WIDTH, HIDDEN = 200, 2048, 512  # of CUB and of ResNets
RATE, MOMENTUM, DECAY = 0.01, 0.9, 5e-4
MARGIN = 0.05


class Case(NamedTuple):
    """A workload that is called again and again.

    Attributes:
        name: As in the table.
        kind: `train` for a training step of API-Net, `infer` for the logits of single images, or
            `head` for pair mining, interaction, loss and gradients on given features.
        trunk: Name of the trunk; none for `head`.
        classes: Classes of the batch, `K`.
        images: Images of each class, `S`.
        side: Of an image, in pixels.
    """

    name: str
    kind: str
    trunk: str
    classes: int
    images: int
    side: int = 224


def _networks(trunk: str, classes: int, images: int, side: int = 224) -> list[Case]:
    shape = f"{trunk}, {classes * images} x {side}"
    return [
        Case(f"{shape}, training step", "train", trunk, classes, images, side),
        Case(f"{shape}, inference", "infer", trunk, classes, images, side),
    ]


CASES = {
    case.name: case
    for case in (
        *_networks("resnet50", 2, 4),
        *_networks("resnet50", 2, 2, 448),
        *_networks("squeezenet1_1", 15, 4),
        *_networks("tf_efficientnet_lite0", 8, 4),
        *_networks("vit_small_patch14_dinov2", 2, 4),
        *(
            Case(f"mining and head, B = {4 * classes:,}", "head", "", classes, 4)
            for classes in (30, 120, 480, 1024)
        ),
    )
}
