"""A small Stanford Cars in each of the layouts in which it circulates."""

import math
import shutil

import numpy as np
import pytest
from small_archives import jpeg, make_small, mat, pack, put_files

from apinet_jax.data.catalog import open_dataset
from apinet_jax.data.official.cars import Cars
from apinet_jax.system.errors import InputError

NAMES = ("AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Ram C/V Cargo Van Minivan 2012")
# Classes of the images, from 1.
TRAIN, TEST = (3, 1, 2, 1), (2, 3, 1)
TEST_LABELS = "cars_test_annos_withlabels.mat"


def annos(labels, **more):
    """Boxes from the pixel (2, 1) to the pixel (8, 5), counted from 1."""
    box = {"bbox_x1": 2, "bbox_y1": 1, "bbox_x2": 8, "bbox_y2": 5}
    return [
        {**box, "class": label, "fname": f"{number:05d}.jpg"}
        for number, label in enumerate(labels, 1)
    ]


def devkit(labelled=True):
    without = [{k: v for k, v in anno.items() if k != "class"} for anno in annos(TEST)]
    files = {
        "cars_meta.mat": mat(class_names=list(NAMES)),
        "cars_train_annos.mat": mat(annotations=annos(TRAIN)),
        "cars_test_annos.mat": mat(annotations=without),
    }
    return files | ({TEST_LABELS: mat(annotations=annos(TEST))} if labelled else {})


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    make_small(monkeypatch, tmp_path / "root", Cars, classes=3, train=4, test=3)


@pytest.fixture
def manual(tmp_path):
    """`cars_train/`, `cars_test/` and `devkit/`, and the labels of the test images next to them."""
    for split, labels in (("train", TRAIN), ("test", TEST)):
        for number, label in enumerate(labels, 1):
            name = f"cars_{split}/{number:05d}.jpg"
            put_files(tmp_path / "manual", {name: picture(split, number, label)})
    put_files(tmp_path / "manual/devkit", devkit(labelled=False))
    put_files(tmp_path / "manual", {TEST_LABELS: mat(annotations=annos(TEST))})
    return tmp_path / "manual"


@pytest.fixture
def one_list(tmp_path):
    """`car_ims/` and `cars_annos.mat`, test images among the training images."""
    images, records = {}, []
    images_of = [("test", *pair) for pair in enumerate(TEST, 1)]
    images_of[1:1] = [("train", *pair) for pair in enumerate(TRAIN, 1)]
    for number, (split, index, label) in enumerate(images_of, 1):
        path = f"car_ims/{number:06d}.jpg"
        images[path] = picture(split, index, label)
        (anno,) = annos([label])
        del anno["fname"]
        records.append({"relative_im_path": path, **anno, "test": int(split == "test")})
    lists = {"cars_annos.mat": mat(annotations=records, class_names=list(NAMES))}
    put_files(tmp_path / "one", images | lists)
    return tmp_path / "one"


def picture(split, index, label):
    return jpeg(label + 3 * index, size=(12, 9) if split == "test" else (9, 7))


def check(dataset, names=NAMES):
    assert dataset.class_names == names
    assert [label + 1 for label in dataset.train.labels] == list(TRAIN)
    assert [label + 1 for label in dataset.test.labels] == list(TEST)
    for split, source in (("train", dataset.train), ("test", dataset.test)):
        for index, label in enumerate(source.labels):
            assert source.read(index) == picture(split, index + 1, label + 1)


def test_official_counts(monkeypatch):
    monkeypatch.undo()
    assert (Cars.CLASSES, Cars.TRAIN_IMAGES, Cars.TEST_IMAGES) == (196, 8144, 8041)


def test_two_folders_and_their_archives(manual, tmp_path):
    folder = open_dataset("cars", tmp_path / "first", manual)
    check(folder)
    assert folder.train.file_names[0] == "cars_train/00001.jpg"
    pack(manual / "cars_train.tgz", manual / "cars_train")
    check(open_dataset("cars", tmp_path / "mixed", manual))
    pack(manual / "cars_test.tgz", manual / "cars_test")
    pack(manual / "car_devkit.tgz", manual / "devkit")
    archives = open_dataset("cars", tmp_path / "second", manual)
    check(archives)
    assert archives.fingerprint == folder.fingerprint


def test_labels_inside_the_devkit(manual):
    shutil.move(manual / TEST_LABELS, manual / "devkit" / TEST_LABELS)
    check(open_dataset("cars", manual_dir=manual))


def test_lists_next_to_doubly_unpacked_folders(manual):
    for path in (manual / "devkit").iterdir():
        shutil.move(path, manual / path.name)
    (manual / "devkit").rmdir()
    for name in ("cars_train", "cars_test"):
        shutil.move(manual / name, manual / "inner")
        shutil.move(manual / "inner", manual / name / name)
    check(open_dataset("cars", manual_dir=manual))


def test_one_folder_and_its_archive(one_list, tmp_path):
    folder = open_dataset("cars", tmp_path / "first", one_list)
    check(folder)
    assert folder.train.file_names[0] == "car_ims/000002.jpg"
    pack(one_list / "car_ims.tgz", one_list / "car_ims")
    archive = open_dataset("cars", tmp_path / "second", one_list)
    check(archive)
    assert archive.fingerprint == folder.fingerprint


def test_one_folder_and_its_list_in_the_devkit(one_list):
    (one_list / "devkit").mkdir()
    shutil.move(one_list / "cars_annos.mat", one_list / "devkit/cars_annos.mat")
    check(open_dataset("cars", manual_dir=one_list))
    assert open_dataset("cars", manual_dir=one_list, crop_to_box=True).train.windows is not None


@pytest.mark.parametrize("above", ["", "car_data", "car_data/car_data"])
def test_one_folder_per_class(tmp_path, above):
    # Names circulate with a dash in place of the slash; classes keep their order.
    names = tuple(name.replace("/", "-") for name in NAMES)
    for split, labels in (("train", (1, 1, 2, 3)), ("test", (1, 2, 3))):
        for number, label in enumerate(labels, 1):
            name = f"{split}/{names[label - 1]}/{number:05d}.jpg"
            put_files(tmp_path / "manual" / above, {name: jpeg(number)})
    dataset = open_dataset("cars", manual_dir=tmp_path / "manual")
    assert dataset.class_names == names
    assert dataset.train.labels.tolist() == [0, 0, 1, 2]
    assert dataset.test.labels.tolist() == [0, 1, 2]
    ids = Cars(data_dir=tmp_path / "root").info.metadata["image_ids"]
    assert ids["test"][0] == f"test/{names[0]}/00001"
    with pytest.raises(InputError, match=r"has no boxes to crop to"):
        open_dataset("cars", manual_dir=tmp_path / "manual", crop_to_box=True)


def test_one_folder_per_class_too_deep(tmp_path):
    put_files(tmp_path / "manual", {f"train/train/{name}/1.jpg": jpeg(1) for name in ("a", "b")})
    message = r"only one class, 'train', .*set data\.manual_dir to .* holds train/<class>/"
    with pytest.raises(InputError, match=message):
        open_dataset("cars", manual_dir=tmp_path / "manual")


@pytest.mark.parametrize("layout", ["manual", "one_list"])
def test_boxes(layout, request):
    folder = request.getfixturevalue(layout)
    cropped = open_dataset("cars", manual_dir=folder, crop_to_box=True)
    assert cropped.train.windows.tolist() == [[1, 0, 7, 5]] * 4
    assert cropped.test.picture(0).size == (7, 5)


def test_missing_data_set_prints_the_steps(tmp_path):
    (tmp_path / "manual").mkdir()
    with pytest.raises(InputError) as caught:
        open_dataset("cars", manual_dir=tmp_path / "manual")
    for part in (
        f"Stanford Cars is not in {tmp_path / 'manual'}",
        "no longer works",
        "cars_train.tgz, cars_test.tgz, car_devkit.tgz and cars_test_annos_withlabels.mat",
        "car_ims.tgz, or car_ims/ unpacked from it, and cars_annos.mat",
        "train/CLASS/ and test/CLASS/",
    ):
        assert part in str(caught.value)


def test_missing_archive_is_named(manual):
    shutil.rmtree(manual / "cars_test")
    with pytest.raises(
        InputError, match=r"cars_train, devkit, .* found, but not cars_test\.tgz or"
    ):
        open_dataset("cars", manual_dir=manual)


def test_test_images_without_labels(manual):
    (manual / TEST_LABELS).unlink()
    with pytest.raises(
        InputError, match=r"labels of the test images.*cars_test_annos\.mat has none"
    ):
        open_dataset("cars", manual_dir=manual)


@pytest.mark.parametrize("label", [0, 4])
def test_label_out_of_range(manual, label):
    put_files(manual, {TEST_LABELS: mat(annotations=annos((1, label, 3)))})
    with pytest.raises(InputError, match=rf"withlabels\.mat .*00002\.jpg into class {label} of 3"):
        open_dataset("cars", manual_dir=manual)


@pytest.mark.parametrize("label", ["two", 1.7, math.nan, math.inf, np.array([1, 2])], ids=str)
def test_label_is_not_a_whole_number(manual, label):
    put_files(manual, {TEST_LABELS: mat(annotations=annos((1, label, 3)))})
    with pytest.raises(InputError, match=r"A class in cars_test_annos_withlabels\.mat .* wrong: "):
        open_dataset("cars", manual_dir=manual)


def test_infinite_box(manual):
    records = annos(TEST)
    records[1]["bbox_x2"] = math.inf
    put_files(manual, {TEST_LABELS: mat(annotations=records)})
    with pytest.raises(InputError, match=r"A bbox_x2 in .*withlabels\.mat .* wrong: .*infinity"):
        open_dataset("cars", manual_dir=manual)


def test_repeated_class_name(manual):
    put_files(manual / "devkit", {"cars_meta.mat": mat(class_names=[*NAMES[:2], NAMES[0]])})
    with pytest.raises(InputError, match=r"manual has more than one class 'AM General Hummer"):
        open_dataset("cars", manual_dir=manual)


def test_list_without_a_field(manual):
    records = [{"fname": anno["fname"]} for anno in annos(TEST)]
    put_files(manual, {TEST_LABELS: mat(annotations=records)})
    with pytest.raises(InputError, match=r"records of .*withlabels\.mat .* have no class"):
        open_dataset("cars", manual_dir=manual)
