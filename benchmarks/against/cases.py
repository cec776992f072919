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
PHOTO_CLASSES = 20
PROCESSES = ("start", "photo")  # kinds of which each call is a new process


class Case(NamedTuple):
    """A workload that is called again and again.

    Attributes:
        name: As in the table.
        kind: What one call is. `train`: a training step of API-Net on given images; `infer`: the
            logits of given images; `head`: pair mining, interaction, loss and gradients on given
            features. The others begin with photos on the disk. `input`: `batches` batches of
            crops; `epoch`: the same with the training step; `photos`: the classes of all photos;
            `start`: a new process until its first training step; `photo`: one until it has named
            one photo.
        trunk: Name of the trunk.
        classes: Classes of a batch, `K`.
        images: Images of each class, `S`.
        side: Of an image, in pixels.
        photo: Width and height of the photos.
        photos: How many there are.
        batches: Batches of a call; its time is that of one of them.
        cache: Our `data.cache`; for `start`, `empty` where nothing is kept between calls.
        decode: Our `data.decode`.
        dtype: Compute type; torch uses autocast for `bfloat16`.
    """

    name: str
    kind: str
    trunk: str = ""
    classes: int = 15
    images: int = 4
    side: int = 224
    photo: tuple[int, int] = (500, 375)
    photos: int = 240
    batches: int = 6
    cache: str = "off"
    decode: str = "full"
    dtype: str = "float32"


def _networks(trunk: str, classes: int, images: int, side: int = 224) -> list[Case]:
    shape = f"{trunk}, {classes * images} x {side}"
    return [
        Case(f"{shape}, training step", "train", trunk, classes, images, side),
        Case(f"{shape}, inference", "infer", trunk, classes, images, side),
    ]


def _inputs() -> list[Case]:
    batch = {"classes": 30, "images": 2, "side": 448}
    small = [
        Case(f"input, 500 x 375, cache {cache}", "input", cache=cache, **batch)
        for cache in ("off", "disk", "device")
    ]
    large = {"photo": (4000, 3000), "photos": 60}  # a cache does not depend on their size
    large |= {"kind": "input", **batch}
    return [
        *small,
        Case("input, 4000 x 3000, cache off", **large),
        Case("input, 4000 x 3000, data.decode=scaled", decode="scaled", **large),
    ]


def draw_photos(case: Case) -> Path:
    """Write photos of smooth noise into a photo folder, which is deleted when the process ends."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    random, (width, height) = np.random.default_rng(0), case.photo
    for number in range(case.photos):
        coarse = random.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
        photo = Image.fromarray(coarse).resize(case.photo, Image.Resampling.BICUBIC)
        for split in ("train", "test")[: 2 if number < PHOTO_CLASSES else 1]:
            place = folder / split / f"class{number % PHOTO_CLASSES:02}"
            place.mkdir(parents=True, exist_ok=True)
            photo.save(place / f"{number}.jpg", quality=90)
    return folder


_TRUNK = "squeezenet1_1"
CASES = {
    case.name: case
    for case in (
        *_networks("resnet50", 2, 4),
        *_networks("resnet50", 2, 2, 448),
        *_networks(_TRUNK, 15, 4),
        *_networks("tf_efficientnet_lite0", 8, 4),
        *_networks("vit_small_patch14_dinov2", 2, 4),
        *(
            Case(f"mining and head, B = {4 * classes:,}", "head", classes=classes)
            for classes in (30, 120, 480, 1024)
        ),
        *_inputs(),
        Case("epoch of 1,500 photos, a step", "epoch", _TRUNK, photos=1500, batches=25),
        Case("shell to first step, nothing cached", "start", _TRUNK, cache="empty"),
        Case("shell to first step, again", "start", _TRUNK),
        Case("shell to one photo's classes", "photo", _TRUNK),
        Case("1,000 photos' classes", "photos", _TRUNK, photos=1000),
    )
}


def _gpu(trunk: str, side: int) -> list[Case]:
    return [
        case._replace(name=f"{case.name}, bfloat16", dtype="bfloat16")
        for case in _networks(trunk, 30, 4, side)
    ]


GPU_CASES = {case.name: case for case in _gpu("resnet50", 448)}
"""For a GPU; those above take long enough on a CPU."""

ALL_CASES = CASES | GPU_CASES
