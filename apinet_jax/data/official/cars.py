"""Stanford Cars: 196 makes, models and years, in any form that still circulates."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from apinet_jax.data.official.archive import Files, require
from apinet_jax.data.official.base import Official
from apinet_jax.data.official.download import Archive
from apinet_jax.data.official.mat import column, read_mat, to_integer
from apinet_jax.data.records.layout import find_images
from apinet_jax.data.records.scan import Box, Entry, Scan
from apinet_jax.system.errors import InputError

# The official addresses no longer work: github.com/pytorch/vision/issues/7545.
_PAGE = "https://github.com/pytorch/vision/issues/7545 names copies"
_META, _TRAIN_ANNOS = "cars_meta.mat", "cars_train_annos.mat"
_TEST_ANNOS, _ANNOS = "cars_test_annos_withlabels.mat", "cars_annos.mat"
# Sizes and checksums of these four: tensorflow/datasets, url_checksums/cars196.txt.
_TRAIN = Archive(
    "cars_train.tgz",
    "cars_train",
    _PAGE,
    size=979_269_282,
    checksum="sha256:512b227b30e2f0a8aab9e09485786ab4479582073a144998da74d64b801fd288",
)
_TEST = Archive(
    "cars_test.tgz",
    "cars_test",
    _PAGE,
    size=977_350_468,
    checksum="sha256:bffea656d6f425cba3c91c6d83336e4c5f86c6cffd8975b0f375d3a10da8e243",
)
_DEVKIT = Archive(
    "car_devkit.tgz",
    "devkit",
    _PAGE,
    size=330_960,
    checksum="sha256:b97deb463af7d58b6bfaa18b2a4de9829f0f79e8ce663dfa9261bf7810e9accd",
    marker=_META,
)
_TEST_LABELS = Archive(
    _TEST_ANNOS,
    _TEST_ANNOS,
    _PAGE,
    size=185_758,
    checksum="sha256:790f75be8ea34eeded134cc559332baf23e30e91367e9ddca97d26ed9b895f05",
    needed="if there",  # it may be inside the devkit
)
# Checksums of these two: IMCCretrieval/NASA, cars196.py. Their sizes are not published.
_IMAGES = Archive("car_ims.tgz", "car_ims", _PAGE, checksum="md5:d5c8f0aa497503f355e17dc7886c3f14")
_LABELS = Archive(_ANNOS, _ANNOS, _PAGE, checksum="md5:b407c6086d669747186bd1d764ff9dbc")
_LABELS_IN_DEVKIT = _LABELS._replace(name=f"{_DEVKIT.holds}/{_ANNOS}")
# A folder for each class, as on Kaggle: no published checksum.
_BY_CLASS = Archive("", "car_data", _PAGE, marker="train")


class Cars(Official):
    """Stanford Cars, photographs of 196 makes, models and years of cars."""

    TITLE = "Stanford Cars"
    CLASSES = 196
    TRAIN_IMAGES = 8_144
    TEST_IMAGES = 8_041
    LAYOUTS = (
        (_TRAIN, _TEST, _DEVKIT, _TEST_LABELS),
        (_IMAGES, _LABELS),
        (_IMAGES, _LABELS_IN_DEVKIT),
        (_BY_CLASS,),
    )
    STEPS = (
        "Its official address no longer works; comments under "
        "https://github.com/pytorch/vision/issues/7545 name copies. Put one of these into "
        "{folder}:\n"
        f"  cars_train.tgz, cars_test.tgz, car_devkit.tgz and {_TEST_ANNOS}, or cars_train/, "
        f"cars_test/ and devkit/ unpacked from them, with {_TEST_ANNOS} in devkit/ or next to it;\n"
        f"  car_ims.tgz, or car_ims/ unpacked from it, and {_ANNOS}, in devkit/ or next to it;\n"
        "  folders train/CLASS/ and test/CLASS/ (no boxes)."
    )

    @staticmethod
    def read(pieces: Mapping[str, Files]) -> Scan:
        """Read the lists of any layout; an image id is its path."""
        if _BY_CLASS.holds in pieces:
            return _read_classes(pieces[_BY_CLASS.holds])
        if _LABELS.holds in pieces:
            return _read_one_list(pieces[_IMAGES.holds], pieces[_LABELS.holds])
        return _read_two_lists(pieces)


def _read_two_lists(pieces: Mapping[str, Files]) -> Scan:
    train, test, devkit = (pieces[archive.holds] for archive in (_TRAIN, _TEST, _DEVKIT))
    labels = pieces.get(_TEST_LABELS.holds, devkit)
    if not labels.has(_TEST_ANNOS):
        raise InputError(
            f"The labels of the test images, {_TEST_ANNOS}, are neither in {devkit.place} nor "
            f"next to it; cars_test_annos.mat has none. {labels.repair_hint}"
        )
    names = _class_names(devkit, _META)
    entries = []
    for split, images, folder, lists, annos in (
        ("train", train, _TRAIN.holds, devkit, _TRAIN_ANNOS),
        ("test", test, _TEST.holds, labels, _TEST_ANNOS),
    ):
        (records,) = read_mat(lists, annos, "annotations")
        paths = column(lists, annos, records, "fname", str)
        found = _entries(images, folder, paths, lists, annos, records, len(names))
        entries += [entry._replace(split=split) for entry in found]
    return Scan(train.place.parent, names, tuple(entries))


def _read_one_list(images: Files, lists: Files) -> Scan:
    names = _class_names(lists, _ANNOS)
    (records,) = read_mat(lists, _ANNOS, "annotations")
    paths = [
        path.removeprefix(f"{_IMAGES.holds}/")
        for path in column(lists, _ANNOS, records, "relative_im_path", str)
    ]
    found = _entries(images, _IMAGES.holds, paths, lists, _ANNOS, records, len(names))
    entries = [
        entry._replace(split="test" if is_test else "train")
        for entry, is_test in zip(
            found, column(lists, _ANNOS, records, "test", to_integer), strict=True
        )
    ]
    # Records are written split by split; entries have the order of their records.
    entries.sort(key=lambda entry: entry.split != "train")
    return Scan(images.place.parent, names, tuple(entries))


def _read_classes(files: Files) -> Scan:
    scan = find_images(files.place, "data.manual_dir")
    entries = (entry._replace(image_id=_id(entry.file_name)) for entry in scan.entries)
    return scan._replace(entries=tuple(entries))


def _class_names(files: Files, name: str) -> tuple[str, ...]:
    (names,) = read_mat(files, name, "class_names")
    return tuple(map(str, names))


def _entries(
    images: Files,
    folder: str,
    paths: list[str],
    lists: Files,
    annos: str,
    records: list[dict[str, Any]],
    classes: int,
) -> list[Entry]:
    """Return the images of an annotation file; their splits are filled in later."""
    require(images, paths, annos)
    fields = ("class", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")
    columns = (column(lists, annos, records, field, to_integer) for field in fields)
    entries = []
    for path, number, left, top, right, bottom in zip(paths, *columns, strict=True):
        if not 1 <= number <= classes:
            raise InputError(
                f"{annos} in {lists.place} puts {path} into class {number} of {classes}. "
                f"{lists.repair_hint}"
            )
        box = Box.around(left - 1, top - 1, right, bottom)  # MATLAB's first pixel is 1
        name = f"{folder}/{path}"
        entries.append(Entry("", name, number - 1, _id(name), partial(images.read, path), box))
    return entries


def _id(file_name: str) -> str:
    """Return the path: numbers repeat between the folders of the splits."""
    return file_name.rpartition(".")[0]
