"""The prepare command: its table, its contact sheet, and what it refuses."""

import os
import re
import sys

import matplotlib
import numpy as np
import pytest
from image_folder import encoded, put
from matplotlib import font_manager
from PIL import Image
from small_archives import CUB_COUNTS, cub_path, make_small, put_cub

from apinet_jax.__main__ import run_command
from apinet_jax.commands import prepare
from apinet_jax.data.official.cub import Cub
from apinet_jax.data.survey import _wrapped
from apinet_jax.system.errors import InputError, RunError
from apinet_jax.system.fonts import printable


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    make_small(monkeypatch, tmp_path / "root", Cub, **CUB_COUNTS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table(capsys, *arguments):
    """Return the printed lines by their first word, and those that are indented as a list."""
    run_command(["prepare", *map(str, arguments)])
    pairs = [re.split(r"  +", line, maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    indented = [what for name, what in pairs if not name]
    return {**{name: what for name, what in pairs if name}, "indented": indented}


def test_table_of_a_data_set(here, capsys):
    lines = table(capsys, "cub", f"--manual-dir={put_cub(here / 'manual')}")
    fingerprint = lines.pop("fingerprint")
    assert fingerprint == Cub(data_dir=here / "root").info.metadata["fingerprint"]
    assert lines == {
        "data set": "cub",
        "images": "4 train, 3 test",
        "classes": "3",
        "smallest class": "1 in train (001.Black_footed_Albatross), "
        "1 in test (001.Black_footed_Albatross)",
        "sizes": "9 x 7 to 9 x 7, median 9 x 7",
        "unreadable": "0 left out",
        "duplicates": "0 across the splits, 0 across the classes",
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
    lines = table(capsys, "folder", photos, "--skip-unreadable")
    assert lines["data set"] == "photos"
    assert lines["images"] == "4 train, 3 test"
    assert lines["smallest class"] == "2 in train (a), 1 in test (b)"
    assert lines["sizes"] == "8 x 6 to 40 x 20, median 8 x 6"
    assert lines["unreadable"] == "1 left out"
    assert lines["duplicates"] == "2 across the splits, 1 across the classes"
    assert lines["indented"] == [
        "train: train/a/1.png = test: test/a/1.png = test: test/a/copy.png",
        "train: train/a/2.png = test: test/b/2.png",
    ]


def test_sizes_of_boxes(here, capsys):
    manual = put_cub(here / "manual")
    lines = table(capsys, "cub", f"--manual-dir={manual}", "--crop-to-box")
    assert lines["sizes"] == "6 x 4 to 6 x 4, median 6 x 4"


def test_data_dir_holds_the_records(here, capsys):
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
        assert (caption.min(axis=2) < 100).sum() > 50  # the caption


def test_sheet_of_many_classes_shows_some(here, capsys):
    names = [f"train/{number:03d}/x.png" for number in range(100)]
    table(capsys, "folder", put(here / "many", *names), "--sheet=some.png")
    with Image.open(here / "some.png") as sheet:
        assert sheet.size == (2 * 32 + 8 * 192 - 16, 2 * 32 + 52 + 8 * 226 - 16)


def test_captions_fit_under_their_pictures():
    font = printable("", 13)[1]
    assert _wrapped("Bobolink", font) == ["Bobolink"]
    name = "Ferrari 458 Italia Convertible 2012"
    first, second = _wrapped(name, font)
    assert f"{first} {second}" == name
    for text in ("W" * 100, "many words " * 20, "short " + "W" * 100):
        lines = _wrapped(text, font)
        assert len(lines) <= 2
        assert lines[-1].endswith("…")
        assert all(font.getlength(line) <= 176 for line in lines)


def test_captions_in_other_scripts(monkeypatch):
    fonts = f"{matplotlib.get_data_path()}/fonts/ttf"
    rare = "\u1d81"  # a letter that the default font lacks, and STIX has
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [f"{fonts}/STIXGeneral.ttf"])
    text, font = printable(f"a{rare}", 13)
    assert (text, font.getname()[0]) == (f"a{rare}", "STIXGeneral")
    text, font = printable("caf\u00e9 \u9d8f \U0001f426", 13)
    assert text == r"caf\u00e9 \u9d8f \U0001f426".replace(r"\u00e9", "\u00e9")
    assert font.getname()[0] == "DejaVu Sans"


def test_sheet_is_written_before_anything_is_printed(here, capsys, monkeypatch):
    monkeypatch.setattr(prepare, "print_result", lambda _: (here / "some.png").stat())
    photos = put(here / "photos", "a/1.png", "b/2.png")
    run_command(["prepare", "folder", str(photos), "--sheet=some.png"])


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS refuses such names")
def test_folder_whose_name_is_not_utf8(here, capsys):
    photos = put(here / os.fsdecode(b"caf\xe9"), "a/1.png", "b/2.png")
    assert table(capsys, "folder", photos)["data set"] == r"caf\xe9"


def test_table_is_printed_if_the_sheet_fails(here, capsys, monkeypatch):
    def full(_, part, *args):
        part.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    photos = put(here / "photos", "a/1.png", "b/2.png")
    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(RunError, match=r"Could not write folder-sheet\.png: No space left"):
        run_command(["prepare", "folder", str(photos)])
    printed = capsys.readouterr().out
    assert "classes         2" in printed
    assert "contact sheet" not in printed
    assert not list(here.glob("*.part"))


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


def test_help(capsys):
    with pytest.raises(SystemExit) as caught:
        run_command(["prepare", "--help"])
    assert caught.value.code == 0
    lines = capsys.readouterr().out
    assert "python -m apinet_jax prepare cub" in lines
    assert "birds, cub, aircraft, cars, dogs, nabirds, folder" in lines
