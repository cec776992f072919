"""A small NABirds in the exact layout of the official archive: UUIDs, and numbers with gaps."""

import shutil

import pytest
from small_archives import edit, jpeg, make_small, pack, put_files

from apinet_jax.data.catalog import open_dataset
from apinet_jax.data.official.nabirds import Nabirds
from apinet_jax.system.errors import InputError

# The tree has knots that no image belongs to, and two leaves of one name.
CLASSES = {
    0: "Birds",
    81: "Ducks, Geese, and Swans",
    295: "Common Eider (Adult male)",
    817: "Oak Titmouse",
    1010: "Oak Titmouse",
}
# UUID, class, whether it is for training.
IMAGES = (
    ("0b9f-4c", 1010, 1),
    ("00c1-7a", 817, 1),
    ("9f00-12", 295, 1),
    ("3d41-00", 295, 0),
    ("11aa-bb", 1010, 0),
    ("55aa-bb", 817, 0),
)


def path_of(uuid, label):
    return f"{label:04d}/{uuid.replace('-', '')}.jpg"


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    make_small(monkeypatch, tmp_path / "root", Nabirds, classes=3, train=3, test=3)


@pytest.fixture
def manual(tmp_path):
    images = {
        f"images/{path_of(uuid, label)}": jpeg(number)
        for number, (uuid, label, _) in enumerate(IMAGES)
    }
    lists = {
        "classes.txt": [f"{number} {name}" for number, name in CLASSES.items()],
        "hierarchy.txt": ["81 0", "295 81", "817 0", "1010 0"],
        "images.txt": [f"{uuid} {path_of(uuid, label)}" for uuid, label, _ in IMAGES],
        "image_class_labels.txt": [f"{uuid} {label}" for uuid, label, _ in IMAGES],
        "train_test_split.txt": [f"{uuid} {train}" for uuid, _, train in IMAGES],
        "sizes.txt": [f"{uuid} 9 7" for uuid, _, _ in IMAGES],
        "bounding_boxes.txt": [f"{uuid} 2 1 6 5" for uuid, _, _ in IMAGES],
    }
    put_files(tmp_path / "manual" / "nabirds", images | lists)
    return tmp_path / "manual"


def check(dataset):
    # Labels follow the numbers that are used: 295, 817, 1010.
    assert dataset.class_names == (
        "Common Eider (Adult male)",
        "Oak Titmouse [817]",
        "Oak Titmouse [1010]",
    )
    assert dataset.train.labels.tolist() == [1, 2, 0]  # in the order of the UUIDs
    assert dataset.train.file_names == (
        "0817/00c17a.jpg",
        "1010/0b9f4c.jpg",
        "0295/9f0012.jpg",
    )
    assert [dataset.train.read(index) for index in range(3)] == [jpeg(1), jpeg(0), jpeg(2)]
    assert dataset.test.labels.tolist() == [2, 0, 1]


def test_official_counts(monkeypatch):
    monkeypatch.undo()
    assert (Nabirds.CLASSES, Nabirds.TRAIN_IMAGES, Nabirds.TEST_IMAGES) == (555, 23929, 24633)


def test_folder_and_archive(manual, tmp_path):
    folder = open_dataset("nabirds", tmp_path / "first", manual)
    check(folder)
    check(open_dataset("nabirds", tmp_path / "second", manual / "nabirds"))
    pack(manual / "nabirds.tar.gz", manual / "nabirds")
    archive = open_dataset("nabirds", tmp_path / "third", manual)
    check(archive)
    assert archive.fingerprint == folder.fingerprint


def test_ids_and_boxes_are_kept(manual, tmp_path):
    open_dataset("nabirds", manual_dir=manual)
    metadata = Nabirds(data_dir=tmp_path / "root").info.metadata
    assert metadata["image_ids"]["train"] == ["00c1-7a", "0b9f-4c", "9f00-12"]
    assert metadata["boxes"]["test"] == [[2, 1, 6, 5]] * 3


def test_missing_data_set_prints_the_steps(manual):
    shutil.rmtree(manual / "nabirds")
    with pytest.raises(InputError, match=r"NABirds is not in .*on request.*allaboutbirds\.org"):
        open_dataset("nabirds", manual_dir=manual)


def test_label_out_of_range(manual):
    edit(manual / "nabirds/image_class_labels.txt", "9f00-12 295", "9f00-12 296")
    with pytest.raises(InputError, match=r"Image 9f00-12 \(0295/9f0012\.jpg\) is in class 296"):
        open_dataset("nabirds", manual_dir=manual)


def test_label_contradicts_folder(manual):
    edit(manual / "nabirds/image_class_labels.txt", "9f00-12 295", "9f00-12 817")
    with pytest.raises(
        InputError, match=r"puts 0295/9f0012\.jpg into the class of 0817\. Download"
    ):
        open_dataset("nabirds", manual_dir=manual)
