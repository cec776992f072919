"""The command that prepares: its table, its contact sheet, and what it refuses."""

import re

import numpy as np
import pytest
from image_folder import encoded, put
from PIL import Image
from small_archives import CUB_COUNTS, cub_path, make_small, put_cub

from apinet_jax.__main__ import run_command
from apinet_jax.data.official.cub import Cub
from apinet_jax.data.survey import _font, _wrapped
from apinet_jax.system.errors import InputError


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    make_small(monkeypatch, tmp_path / "root", Cub, **CUB_COUNTS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table(capsys, *arguments):
    """The lines that the command prints by what they begin with; a list of those that do not."""
    run_command(["prepare", *map(str, arguments)])
    pairs = [re.split(r"  +", line, maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    indented = [what for name, what in pairs if not name]
    return {**{name: what for name, what in pairs if name}, "indented": indented}


def test_table_of_a_data_set(here, capsys):
    told = table(capsys, "cub", f"--manual-dir={put_cub(here / 'manual')}")
    fingerprint = told.pop("fingerprint")
    assert fingerprint == Cub(data_dir=here / "root").info.metadata["fingerprint"]
    assert told == {
        "data set": "cub",
        "images": "4 train, 3 test",
        "classes": "3",
        "smallest class": "1 in train (001.Black_footed_Albatross), "
        "1 in test (001.Black_footed_Albatross)",
        "sizes": "9 x 7 to 9 x 7, median 9 x 7",
        "unreadable": "0 left out",
        "duplicates": "0 across the splits",
        "contact sheet": str(here / "cub-sheet.png"),
        "indented": [],
    }


def test_table_of_a_folder_with_faults(here, capsys):
    photos = put(here / "photos", *(f"train/{name}.png" for name in ("a/1", "a/2", "b/3")))
    (photos / "train/b/large.jpg").write_bytes(encoded(3, "JPEG", size=(40, 20)))
    (photos / "train/a/broken.png").write_bytes(encoded()[:40])
    put(photos, "test/a/1.png", "test/b/2.png")  # as those of train
    (photos / "test/a/copy.png").write_bytes((photos / "test/a/1.png").read_bytes())
    with pytest.raises(InputError, match=r"broken\.png.*(.|\n)*--skip-unreadable"):
        table(capsys, "folder", photos)
    told = table(capsys, "folder", photos, "--skip-unreadable")
    assert told["data set"] == "photos"
    assert told["images"] == "4 train, 3 test"
    assert told["smallest class"] == "2 in train (a), 1 in test (b)"
    assert told["sizes"] == "8 x 6 to 40 x 20, median 8 x 6"
    assert told["unreadable"] == "1 left out"
    assert told["duplicates"] == "2 across the splits"
    assert told["indented"] == [
        "train: train/a/1.png = test: test/a/1.png = test: test/a/copy.png",
        "train: train/a/2.png = test: test/b/2.png",
    ]


def test_sizes_and_sheet_are_those_of_the_boxes(here, capsys):
    manual = put_cub(here / "manual")
    told = table(capsys, "cub", f"--manual-dir={manual}", "--crop-to-box")
    assert told["sizes"] == "6 x 4 to 6 x 4, median 6 x 4"


def test_records_go_where_they_are_told(here, capsys):
    manual = put_cub(here / "manual")
    table(capsys, "cub", f"--manual-dir={manual}", f"--data-dir={here / 'other'}")
    assert (here / "other/cub/1.0.0").is_dir()
    assert not (here / "root").exists()


def test_contact_sheet_shows_the_first_picture_of_each_class(here, capsys):
    table(capsys, "cub", f"--manual-dir={put_cub(here / 'manual')}", "--sheet=some.png")
    assert sorted(path.name for path in here.iterdir()) == ["manual", "root", "some.png"]
    sheet = np.asarray(Image.open(here / "some.png"))
    for place, number in enumerate((2, 3, 5)):
        x, y = 32 + place * (176 + 16) + 88, 32 + 52 + 88
        with Image.open(here / "manual/CUB_200_2011/images" / cub_path(number, place + 1)) as image:
            np.testing.assert_array_equal(sheet[y, x], np.asarray(image)[3, 4])
        caption = sheet[84 + 176 : 84 + 176 + 36, x - 88 : x + 88]
        assert (caption.min(axis=2) < 100).sum() > 50  # there is something written


def test_sheet_of_many_classes_shows_some(here, capsys):
    names = [f"train/{number:03d}/x.png" for number in range(100)]
    table(capsys, "folder", put(here / "many", *names), "--sheet=some.png")
    with Image.open(here / "some.png") as sheet:
        assert sheet.size == (2 * 32 + 8 * 192 - 16, 2 * 32 + 52 + 8 * 226 - 16)


def test_captions_fit_under_their_pictures():
    font = _font(13)
    assert _wrapped("Bobolink", font) == ["Bobolink"]
    name = "Ferrari 458 Italia Convertible 2012"
    first, second = _wrapped(name, font)
    assert f"{first} {second}" == name
    for text in ("W" * 100, "many words " * 20, "short " + "W" * 100):
        lines = _wrapped(text, font)
        assert len(lines) <= 2
        assert lines[-1].endswith("…")
        assert all(font.getlength(line) <= 176 for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nobirds"], r"invalid choice: 'nobirds'.*See python -m apinet_jax prepare --help"),
        (["folder"], r"Name the folder of photos: prepare folder PHOTOS"),
        (["cub", "photos"], r"cub takes no folder of photos.*--manual-dir"),
        (["birds", "photos"], r"birds takes no folder of photos: leave it out"),
        (["birds", "--manual-dir=x"], r"--manual-dir has no effect on the drawn birds"),
        (["birds", "--skip-unreadable"], r"--skip-unreadable has no effect on the drawn birds"),
        (["folder", ".", "--manual-dir=x"], r"--manual-dir has no effect on a folder of photos"),
        (["folder", ".", "--data-dir=x"], r"set that variable instead of --data-dir"),
        (["cub", "--sheet=nowhere/x.png"], r"no folder nowhere for the contact sheet"),
        (["cub", "--manual-dir=nowhere"], r"The folder nowhere does not exist.*--manual-dir"),
        (["folder", "nowhere"], r"image folder nowhere does not exist"),
    ],
)
def test_one_clear_error(arguments, message):
    with pytest.raises(InputError, match=message):
        run_command(["prepare", *arguments])


def test_help_says_what_it_does(capsys):
    with pytest.raises(SystemExit) as caught:
        run_command(["prepare", "--help"])
    assert caught.value.code == 0
    told = capsys.readouterr().out
    assert "python -m apinet_jax prepare cub" in told
    assert "birds, cub, aircraft, cars, dogs, nabirds, folder" in told
