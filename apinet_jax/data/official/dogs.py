"""Stanford Dogs: 120 breeds, a subset of ImageNet."""

import re
from collections.abc import Mapping
from functools import partial

from apinet_jax.data.official.archive import Files, read_list, require
from apinet_jax.data.official.base import Official
from apinet_jax.data.official.download import Archive
from apinet_jax.data.official.lists import check_folder
from apinet_jax.data.official.mat import convert, read_mat, to_integer
from apinet_jax.data.records.scan import Box, Entry, Scan
from apinet_jax.system.errors import InputError

_PAGE = "http://vision.stanford.edu/aditya86/ImageNetDogs/"
_TRAIN, _TEST = "train_list.mat", "test_list.mat"
_SIDES = (b"xmin", b"ymin", b"xmax", b"ymax")
# Addresses, sizes and checksums: tensorflow/datasets, datasets/stanford_dogs/checksums.tsv.
_IMAGES = Archive(
    "images.tar",
    "Images",
    _PAGE,
    url=f"{_PAGE}images.tar",
    size=793_579_520,
    checksum="sha256:a443fc2f9a851aa1a7b8e4fa4af94b8459fce2c9f5a2f4dd4669cf9673a4ec58",
)
_LISTS = Archive(
    "lists.tar",
    "lists",
    _PAGE,
    url=f"{_PAGE}lists.tar",
    size=481_280,
    checksum="sha256:34b47cacd9a98b5d150e084f24d29391c084c55272295ec65c85651bc35f4d6c",
)
_ANNOTATION = Archive(
    "annotation.tar",
    "Annotation",
    _PAGE,
    url=f"{_PAGE}annotation.tar",
    size=21_852_160,
    checksum="sha256:662ed36f707be6b195c2fda392d8e153e83af28cedc8e2134a649f198def30fd",
    needed="for boxes",
)
# lists.tar holds no folder: unpacked there, the lists are next to Images/. Only the checksum of the
# archive is published.
_UNPACKED_LISTS = (Archive(_TRAIN, _TRAIN, _PAGE), Archive(_TEST, _TEST, _PAGE))
# The annotations are XML of one form; an XML parser would accept, and expand, anything.
_BOX = re.compile(
    rb"<bndbox>"
    + b"".join(rb"\s*<%b>\s*(\d{1,9})\s*</%b>" % (side, side) for side in _SIDES)
    + rb"\s*</bndbox>"
)


class Dogs(Official):
    """Stanford Dogs, photographs of 120 breeds."""

    TITLE = "Stanford Dogs"
    CLASSES = 120
    TRAIN_IMAGES = 12_000
    TEST_IMAGES = 8_580
    LAYOUTS = ((_IMAGES, _LISTS, _ANNOTATION), (_IMAGES, *_UNPACKED_LISTS, _ANNOTATION))
    STEPS = (
        f"Download images.tar and lists.tar (for boxes also annotation.tar) from {_PAGE} and put "
        f"them, or Images/, {_TRAIN}, {_TEST} and Annotation/ unpacked from them, into {{folder}}."
    )

    @staticmethod
    def read(pieces: Mapping[str, Files]) -> Scan:
        """Read the official lists; an image id is the file name, as in ImageNet."""
        images, annotation = pieces[_IMAGES.holds], pieces.get(_ANNOTATION.holds)
        folders: dict[int, str] = {}
        entries = []
        for split, name in (("train", _TRAIN), ("test", _TEST)):
            lists = pieces.get(_LISTS.holds) or pieces[name]
            paths, labels = read_mat(lists, name, "file_list", "labels")
            paths, labels = list(map(str, paths)), convert(lists, name, labels, "label", to_integer)
            require(images, paths, name)
            if len(paths) != len(labels):
                raise InputError(
                    f"{name} in {lists.place} has {len(paths):,} images but {len(labels):,} "
                    f"labels. {lists.repair_hint}"
                )
            for path, number in zip(paths, labels, strict=True):
                folder, _, file_name = path.partition("/")
                if number not in range(1, Dogs.CLASSES + 1):
                    raise InputError(
                        f"{name} in {lists.place} puts {path} into class {number} of "
                        f"{Dogs.CLASSES}. {lists.repair_hint}"
                    )
                check_folder(lists, name, folders, number, path)
                stem = file_name.removesuffix(".jpg")
                box = _read_box(annotation, f"{folder}/{stem}") if annotation else None
                read = partial(images.read, path)
                entries.append(Entry(split, path, number - 1, stem, read, box))
        # n02085620-Chihuahua: ImageNet's id of the breed, and its name.
        names = tuple(folders[number].partition("-")[2] for number in sorted(folders))
        return Scan(images.place, names, tuple(entries))


def _read_box(files: Files, path: str) -> Box:
    """Return the smallest box around all dogs of a picture, so that none is cut off."""
    text = read_list(files, path) if files.has(path) else b""
    boxes = [tuple(map(int, sides)) for sides in _BOX.findall(text)]
    if not boxes:
        raise InputError(f"{path} in {files.place} is missing or has no box. {files.repair_hint}")
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return Box.around(min(lefts), min(tops), max(rights), max(bottoms))
