"""What both sides compute: the cases, and the numbers of the head."""

import atexit
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

NUM_CLASSES, WIDTH, HIDDEN = 200, 2048, 512  # of CUB and of ResNets
RATE, MOMENTUM, DECAY = 0.01, 0.9, 5e-4
MARGIN = 0.05
BATCHES = 6  # that an `input` case loads


class Case(NamedTuple):
    """A workload that is called again and again.

    Attributes:
        name: As in the table.
        kind: `train` for a training step of API-Net, `infer` for the logits of single images,
            `head` for pair mining, interaction, loss and gradients on given features, or `input`
            for the crops of a batch from photos on the disk.
        trunk: Name of the trunk; for `input` our `data.cache`.
        classes: Classes of the batch, `K`.
        images: Images of each class, `S`.
        side: Of an image, in pixels.
        photo: Width and height of the photos of `input`.
    """

    name: str
    kind: str
    trunk: str
    classes: int
    images: int
    side: int = 224
    photo: tuple[int, int] = (500, 375)


def _networks(trunk: str, classes: int, images: int, side: int = 224) -> list[Case]:
    shape = f"{trunk}, {classes * images} x {side}"
    return [
        Case(f"{shape}, training step", "train", trunk, classes, images, side),
        Case(f"{shape}, inference", "infer", trunk, classes, images, side),
    ]


PHOTOS = {500: 240, 4000: 60}
"""Photos of an `input` case, by their width."""


def draw_photos(case: Case) -> Path:
    """Write photos of smooth noise into a photo folder, which is deleted when the process ends."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    random, (width, height) = np.random.default_rng(0), case.photo
    for number in range(PHOTOS[width]):
        place = folder / "train" / f"class{number % 4}"
        place.mkdir(parents=True, exist_ok=True)
        coarse = random.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
        photo = Image.fromarray(coarse).resize(case.photo, Image.Resampling.BICUBIC)
        photo.save(place / f"{number}.jpg", quality=90)
    return folder


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
        *(
            Case(f"input, {name}, cache {cache}", "input", cache, 30, 2, 448, photo)
            for name, photo in {"500 x 375": (500, 375), "4000 x 3000": (4000, 3000)}.items()
            for cache in ("off", "disk", "device")
            if cache == "off" or photo[0] == 500  # a cache does not depend on the photo
        ),
    )
}
