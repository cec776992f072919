"""FGVC-Aircraft by variant: trained on its training and validation images together.

Every photograph ends in a banner of 20 pixels with the photographer's name, which the authors of
the data set ask to remove. The stored file keeps it; the window of each record leaves it out.
"""

from collections.abc import Mapping
from functools import partial

from apinet_jax.data.official.archive import Files, require
from apinet_jax.data.official.base import Official, manual_steps
from apinet_jax.data.official.download import Archive
from apinet_jax.data.official.lists import read_box, read_lines, read_table
from apinet_jax.data.records.scan import Box, Entry, Scan
from apinet_jax.system.errors import InputError

_PAGE = "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/"
_FOLDER = "fgvc-aircraft-2013b"
_VARIANTS = "data/variants.txt"
_BOXES = "data/images_box.txt"
_BANNER = 20
# Address: torchvision, datasets/fgvc_aircraft.py. MD5 sum: linked on the page, and quoted in
# mlverse/torchvision, R/dataset-fgvc.R. Size: as the server reports it.
_ARCHIVE = Archive(
    "fgvc-aircraft-2013b.tar.gz",
    _FOLDER,
    _PAGE,
    url=f"{_PAGE}archives/fgvc-aircraft-2013b.tar.gz",
    size=2_753_340_328,
    checksum="md5:d4acdd33327262359767eeaa97a4f732",
    marker=_VARIANTS,
)


class Aircraft(Official):
    """FGVC-Aircraft, photographs of 100 variants of aircraft."""

    TITLE = "FGVC-Aircraft"
    CLASSES = 100
    TRAIN_IMAGES = 6_667
    TEST_IMAGES = 3_333
    LAYOUTS = ((_ARCHIVE,),)
    STEPS = manual_steps(_ARCHIVE)

    @staticmethod
    def read(pieces: Mapping[str, Files]) -> Scan:
        """Read the official lists; image ids are the file names, which have seven digits."""
        files = pieces[_FOLDER]
        variants = tuple(line for line in read_lines(files, _VARIANTS) if line)
        label_of = {variant: label for label, variant in enumerate(variants)}
        box_of = read_table(files, _BOXES) if files.has(_BOXES) else None
        entries = []
        for split, official in (("train", "trainval"), ("test", "test")):
            name = f"data/images_variant_{official}.txt"
            variant_of = read_table(files, name)
            require(files, map(_path, variant_of), name)
            for image, variant in variant_of.items():
                if variant not in label_of:
                    raise InputError(
                        f"{name} in {files.place} calls image {image} {variant!r}, which is not in "
                        f"{_VARIANTS}. {files.repair_hint}"
                    )
                box = None
                if box_of is not None:
                    left, top, right, bottom = read_box(files, _BOXES, image, box_of.get(image))
                    box = Box.around(left - 1, top - 1, right, bottom)  # its first pixel is 1
                read = partial(files.read, _path(image))
                entries.append(Entry(split, f"{image}.jpg", label_of[variant], image, read, box))
        return Scan(files.place, variants, tuple(entries), banner=_BANNER)


def _path(image: str) -> str:
    return f"data/images/{image}.jpg"
