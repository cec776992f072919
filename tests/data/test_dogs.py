"""A small Stanford Dogs in the exact layouts of the official archives."""

import shutil

import pytest
from small_archives import jpeg, make_small, mat, pack, put_files

from apinet_jax.data.catalog import open_dataset
from apinet_jax.data.official import base as official
from apinet_jax.data.official.dogs import Dogs
from apinet_jax.system.errors import InputError

BREEDS = ("n02085620-Chihuahua", "n02088094-Afghan_hound", "n02089078-black-and-tan_coonhound")
# Breed, number, whether it is for training.
IMAGES = ((0, 5927, 1), (0, 10074, 0), (1, 1003, 1), (1, 26, 0), (2, 4, 1), (2, 83, 1))


def path_of(breed, number):
    return f"{BREEDS[breed]}/{BREEDS[breed].split('-')[0]}_{number}.jpg"


def annotation(*boxes):
    """An annotation in the form of the official files, whose file name is %s."""
    objects = "".join(
        f"\t<object>\n\t\t<name>Chihuahua</name>\n\t\t<bndbox>\n\t\t\t<xmin>{x1}</xmin>\n"
        f"\t\t\t<ymin>{y1}</ymin>\n\t\t\t<xmax>{x2}</xmax>\n\t\t\t<ymax>{y2}</ymax>\n"
        "\t\t</bndbox>\n\t</object>\n"
        for x1, y1, x2, y2 in boxes
    )
    return f"<annotation>\n\t<filename>%s</filename>\n{objects}</annotation>\n".encode()


def lists(wanted):
    images = [(breed, number) for breed, number, train in IMAGES if train == wanted]
    return mat(
        file_list=[path_of(*image) for image in images],
        annotation_list=[path_of(*image)[:-4] for image in images],
        labels=[breed + 1 for breed, _ in images],
    )


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    make_small(monkeypatch, tmp_path / "root", Dogs, classes=3, train=4, test=2)


@pytest.fixture
def manual(tmp_path):
    """A folder into which all three archives were unpacked."""
    paths = [path_of(breed, number) for breed, number, _ in IMAGES]
    images = {f"Images/{path}": jpeg(number) for number, path in enumerate(paths)}
    annotations = {f"Annotation/{path[:-4]}": annotation((2, 1, 7, 6)) for path in paths}
    put_files(
        tmp_path / "manual",
        images | annotations | {"train_list.mat": lists(1), "test_list.mat": lists(0)},
    )
    return tmp_path / "manual"


def packed(manual):
    pack(manual / "images.tar", manual / "Images")
    pack(manual / "annotation.tar", manual / "Annotation")
    pack(manual / "lists.tar", manual / "train_list.mat", manual / "test_list.mat", prefix="./")
    return manual


def check(dataset):
    assert dataset.class_names == ("Chihuahua", "Afghan_hound", "black-and-tan_coonhound")
    assert dataset.train.labels.tolist() == [0, 1, 2, 2]
    assert dataset.test.labels.tolist() == [0, 1]
    assert dataset.test.file_names == (path_of(0, 10074), path_of(1, 26))
    assert [dataset.train.read(index) for index in range(4)] == [
        jpeg(number) for number in (0, 2, 4, 5)
    ]


def test_official_counts(monkeypatch):
    monkeypatch.undo()
    assert (Dogs.CLASSES, Dogs.TRAIN_IMAGES, Dogs.TEST_IMAGES) == (120, 12000, 8580)


def test_folders_and_archives(manual, tmp_path):
    folder = open_dataset("dogs", tmp_path / "first", manual)
    check(folder)
    archives = open_dataset("dogs", tmp_path / "second", packed(manual))
    check(archives)
    assert archives.fingerprint == folder.fingerprint
    assert sorted(path.name for path in manual.iterdir()) == [
        "annotation.tar",
        "images.tar",
        "lists.tar",
    ]


def test_lists_in_a_separate_folder(manual):
    (manual / "lists").mkdir()
    for name in ("train_list.mat", "test_list.mat"):
        shutil.move(manual / name, manual / "lists" / name)
    check(open_dataset("dogs", manual_dir=manual))


def test_incomplete_unpacked_lists_are_downloaded(manual, tmp_path, monkeypatch):
    (manual / "test_list.mat").rename(tmp_path / "test_list.mat")
    shutil.copy(manual / "train_list.mat", tmp_path)
    fetched = pack(tmp_path / "lists.tar", tmp_path / "train_list.mat", tmp_path / "test_list.mat")
    asked = []
    monkeypatch.setattr(
        official,
        "download",
        lambda archive, *_: asked.append(archive.name) or fetched,
        raising=False,
    )
    check(open_dataset("dogs", manual_dir=manual))
    assert asked == ["lists.tar"]


def test_ids_are_those_of_imagenet(manual, tmp_path):
    open_dataset("dogs", manual_dir=manual)
    ids = Dogs(data_dir=tmp_path / "root").info.metadata["image_ids"]
    assert ids["test"] == ["n02085620_10074", "n02088094_26"]


def test_box_around_all_dogs_of_a_picture(manual):
    path = manual / "Annotation" / path_of(1, 1003)[:-4]
    path.write_bytes(annotation((4, 1, 6, 3), (2, 2, 5, 7)))
    packed(manual)
    windows = open_dataset("dogs", manual_dir=manual, crop_to_box=True).train.windows
    assert windows.tolist() == [[2, 1, 5, 5], [2, 1, 4, 6], [2, 1, 5, 5], [2, 1, 5, 5]]


def test_annotations_are_required_only_for_boxes(manual, tmp_path, monkeypatch):
    shutil.move(manual / "Annotation", tmp_path / "elsewhere")
    uncropped = open_dataset("dogs", manual_dir=manual)
    check(uncropped)
    assert uncropped.train.windows is None
    # If they are needed, records without them are out of date.
    shutil.move(tmp_path / "elsewhere", manual / "Annotation")
    cropped = open_dataset("dogs", manual_dir=manual, crop_to_box=True)
    assert cropped.train.windows.tolist() == [[2, 1, 5, 5]] * 4
    assert cropped.fingerprint != uncropped.fingerprint
    assert open_dataset("dogs", manual_dir=manual).fingerprint == uncropped.fingerprint


@pytest.mark.parametrize("boxes", [(), [(2, 1, "9" * 5000, 6)]], ids=["none", "endless"])
def test_annotation_without_a_box(manual, boxes):
    (manual / "Annotation" / path_of(0, 5927)[:-4]).write_bytes(annotation(*boxes))
    with pytest.raises(
        InputError, match=r"n02085620_5927 in .*Annotation is missing or has no box"
    ):
        open_dataset("dogs", manual_dir=manual)


@pytest.mark.parametrize(
    ("labels", "message"),
    [([1, 1.5], r"1\.5 is not a whole number"), ([[1, 2], [2, 2]], "2 numbers in place")],
    ids=["fraction", "cells"],
)
def test_label_is_not_a_whole_number(manual, labels, message):
    (manual / "test_list.mat").write_bytes(
        mat(file_list=[path_of(0, 10074), path_of(1, 26)], labels=labels)
    )
    with pytest.raises(InputError, match=rf"A label in test_list\.mat of .* is wrong: {message}"):
        open_dataset("dogs", manual_dir=manual)


@pytest.mark.parametrize("label", [0, 4])
def test_label_out_of_range(manual, label):
    (manual / "test_list.mat").write_bytes(
        mat(file_list=[path_of(0, 10074), path_of(1, 26)], labels=[1, label])
    )
    with pytest.raises(
        InputError, match=rf"test_list\.mat in .*_26\.jpg into class {label}.* of 3"
    ):
        open_dataset("dogs", manual_dir=manual)


def test_breed_in_two_classes(manual):
    (manual / "test_list.mat").write_bytes(
        mat(file_list=[path_of(0, 10074), path_of(1, 26)], labels=[1, 3])
    )
    with pytest.raises(InputError, match=r"_26\.jpg into the class of n02089078-black-and-tan"):
        open_dataset("dogs", manual_dir=manual)


def test_more_images_than_labels(manual):
    (manual / "test_list.mat").write_bytes(
        mat(file_list=[path_of(0, 10074), path_of(1, 26)], labels=[1])
    )
    with pytest.raises(InputError, match=r"test_list\.mat .* has 2 images but 1 labels"):
        open_dataset("dogs", manual_dir=manual)


def test_missing_image_is_named(manual):
    (manual / "Images" / path_of(2, 83)).unlink()
    with pytest.raises(InputError, match=r"1 image.*train_list\.mat are missing(.|\n)*_83\.jpg"):
        open_dataset("dogs", manual_dir=manual)


def test_half_an_archive(manual):
    packed(manual)
    archive = manual / "images.tar"
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 3])
    with pytest.raises(InputError, match=r"images\.tar is damaged.*Download images\.tar again"):
        open_dataset("dogs", manual_dir=manual)
