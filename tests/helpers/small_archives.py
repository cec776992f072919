"""Small copies of official archives: pictures, packing, MATLAB lists."""

import shutil
import tarfile
from io import BytesIO

import numpy as np
from PIL import Image
from scipy.io import savemat

from apinet_jax.data.official import base as official
from apinet_jax.data.official import mat as matlab
from apinet_jax.data.official import mat_process

CUB_CLASSES = ("001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross")
# Image number, class, whether it is for training; numbers as in the official lists, 1-based.
CUB_IMAGES = ((1, 1, 0), (2, 1, 1), (3, 2, 1), (4, 2, 0), (5, 3, 1), (6, 3, 1), (7, 3, 0))
CUB_COUNTS = {"classes": 3, "train": 4, "test": 3}


def make_small(monkeypatch, root, builder, classes, train, test):
    """Set the counts of a small data set and the root of its records; forbid downloads."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(root))
    monkeypatch.setattr(builder, "CLASSES", classes)
    monkeypatch.setattr(builder, "TRAIN_IMAGES", train)
    monkeypatch.setattr(builder, "TEST_IMAGES", test)
    monkeypatch.delattr(official, "download")
    monkeypatch.setattr(matlab, "_run", read_in_process)


def read_in_process(data, variables):
    """Read a MATLAB file that the test made itself without a separate process, which is slow."""
    try:
        return mat_process.to_json(data, variables)
    except Exception as error:
        raise ValueError(str(error)) from error


def jpeg(number, size=(9, 7)):
    """A different picture for each number."""
    stream = BytesIO()
    Image.new("RGB", size, (number * 30, 0, 0)).save(stream, "JPEG")
    return stream.getvalue()


def split_jpeg(box, size=(64, 48)):
    """A picture that is white in a box (x, y, width, height) and black elsewhere."""
    x, y, width, height = box
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[y : y + height, x : x + width] = 255
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=100, subsampling=0)
    return stream.getvalue()


def put_files(folder, files):
    """Write files by their paths: bytes, or the lines of a text."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, list):
            path.write_text("".join(f"{line}\n" for line in content))
        else:
            path.write_bytes(content)


def pack(archive, *tops, prefix=""):
    """Replace files and folders by an archive of them, in another order than that of the lists."""
    mode = "w" if archive.suffix == ".tar" else "w:gz"
    with tarfile.open(archive, mode) as tar:
        for top in tops:
            for path in sorted([top, *top.rglob("*")], reverse=True):
                tar.add(path, prefix + str(path.relative_to(archive.parent)), recursive=False)
    for top in tops:
        shutil.rmtree(top) if top.is_dir() else top.unlink()
    return archive


def put_cub(folder):
    """Write a small `CUB_200_2011/`, as unpacked from the official archive."""
    images = {f"images/{cub_path(number, label)}": jpeg(number) for number, label, _ in CUB_IMAGES}
    lists = {
        "classes.txt": [f"{number} {name}" for number, name in enumerate(CUB_CLASSES, 1)],
        "images.txt": [f"{number} {cub_path(number, label)}" for number, label, _ in CUB_IMAGES],
        "image_class_labels.txt": [f"{number} {label}" for number, label, _ in CUB_IMAGES],
        "train_test_split.txt": [f"{number} {train}" for number, _, train in CUB_IMAGES],
        "bounding_boxes.txt": [f"{number} 1.0 2.0 5.5 4.0" for number, _, _ in CUB_IMAGES],
    }
    put_files(folder / "CUB_200_2011", images | lists)
    return folder


def cub_path(number, label):
    return f"{CUB_CLASSES[label - 1]}/Bird_{number:04d}_{number * 111}.jpg"


def edit(path, old, new):
    """Replace a text that a list contains."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def mat(**variables):
    """A MATLAB file; lists of strings become cells, lists of dicts structs."""
    stream = BytesIO()
    savemat(
        stream,
        {name: matlab_values(value) for name, value in variables.items()},
        do_compression=True,
    )
    return stream.getvalue()


def matlab_values(value):
    if isinstance(value[0], str):
        cells = np.empty((len(value), 1), object)
        cells[:, 0] = value
        return cells
    if isinstance(value[0], dict):
        records = np.empty((1, len(value)), [(field, object) for field in value[0]])
        for index, fields in enumerate(value):
            records[0, index] = tuple(fields.values())
        return records
    return np.array(value, float)[:, None]
