"""The drawn birds as a folder of photos."""

import pytest

from apinet_jax.__main__ import run_command
from apinet_jax.data.birds.builder import Sighting, draw_record
from apinet_jax.system.errors import InputError, RunError


def draw(*arguments):
    run_command(["draw", *map(str, arguments)])


def files_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_folder_has_the_birds_of_the_demo(tmp_path, capsys):
    names = "Twin-barred Fenwarbler, Slate-billed Bramblefinch"
    draw(tmp_path / "birds", "--only", names, "--train=2", "--test=1")
    expected = {
        "train/Slate-billed Bramblefinch/slate_billed_bramblefinch_000.jpg": ("train", 2, 0),
        "train/Slate-billed Bramblefinch/slate_billed_bramblefinch_001.jpg": ("train", 2, 1),
        "train/Twin-barred Fenwarbler/twin_barred_fenwarbler_000.jpg": ("train", 5, 0),
        "train/Twin-barred Fenwarbler/twin_barred_fenwarbler_001.jpg": ("train", 5, 1),
        "test/Slate-billed Bramblefinch/slate_billed_bramblefinch_000.jpg": ("test", 2, 0),
        "test/Twin-barred Fenwarbler/twin_barred_fenwarbler_000.jpg": ("test", 5, 0),
    }
    assert files_of(tmp_path / "birds") == {
        name: draw_record(0, Sighting(*which))["image"] for name, which in expected.items()
    }
    printed = capsys.readouterr().out
    assert printed == f"{tmp_path / 'birds'}: 4 train, 2 test photos of 2 species\n"


def test_seed_and_all_species(tmp_path):
    draw(tmp_path, "--train=0", "--test=1", "--seed=3")
    files = files_of(tmp_path)
    assert len(files) == 12
    name = "test/Band-tailed Strandpiper/band_tailed_strandpiper_000.jpg"
    assert files[name] == draw_record(3, Sighting("test", 8, 0))["image"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only=Wren"], r"No drawn bird is called 'Wren'\. The species are: Horn-billed Bram"),
        (["--only=Twin-bared Fenwarbler"], r"Nearest to .*: 'Twin-barred Fenwarbler'"),
        (["--train=-1"], r"at least 0"),
        (["--train=0", "--test=0"], r"at least one photo"),
    ],
)
def test_one_clear_error(arguments, message, tmp_path):
    with pytest.raises(InputError, match=message):
        draw(tmp_path / "birds", *arguments)
    assert not (tmp_path / "birds").exists()


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "mine.jpg").write_bytes(b"a photo")
    with pytest.raises(InputError, match=r"is not empty\. Name a new folder"):
        draw(tmp_path)
    with pytest.raises(InputError, match=r"mine\.jpg is a file\. Name a new folder"):
        draw(tmp_path / "mine.jpg")
    with pytest.raises(RunError, match=r"Could not write .*: Not a directory"):
        draw(tmp_path / "mine.jpg/birds", "--train=1", "--test=0")
    assert files_of(tmp_path) == {"mine.jpg": b"a photo"}
