"""Roll-up to a coarser group, computed by hand, and the taxonomy's file."""

import numpy as np
import pytest

from apinet_jax.answers.prediction.taxonomy import only_classes, read_taxonomy, roll_up
from apinet_jax.system.errors import InputError

NAMES = ("Wren", "Robin", "Nightingale", "Mallard")
TABLE = """species,genus,family
Robin,Erithacus,Muscicapidae
Nightingale,Luscinia,Muscicapidae
Wren,Troglodytes,Troglodytidae
Mallard,Anas,
"""


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "taxonomy.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_levels(write):
    species, genus, family = read_taxonomy(write(TABLE), NAMES)
    assert (species.name, species.groups, species.group_of.tolist()) == (
        *("species", NAMES, [0, 1, 2, 3]),
    )
    assert genus.groups == ("Anas", "Erithacus", "Luscinia", "Troglodytes")
    assert genus.group_of.tolist() == [3, 1, 2, 0]
    assert family.groups == ("Muscicapidae", "Troglodytidae")
    assert family.group_of.tolist() == [1, 0, 0, -1]


@pytest.mark.parametrize(
    ("probability", "confidence", "name", "level", "reached", "labels"),
    [
        ([0.1, 0.8, 0.1, 0.0], 0.8, "Robin", "species", 0.8, (1,)),
        # Robin has 0.5; with Nightingale its family has 0.5 + 0.35.
        ([0.1, 0.5, 0.35, 0.05], 0.8, "Muscicapidae", "family", 0.85, (1, 2)),
        # The best class is Wren, but the two flycatchers together have more.
        ([0.4, 0.3, 0.25, 0.05], 0.5, "Muscicapidae", "family", 0.55, (1, 2)),
        # A class without a family counts for none: 0.5 is the most that a family has.
        ([0.0, 0.25, 0.25, 0.5], 0.6, "unknown", "unknown", 0.5, ()),
    ],
)
def test_roll_up(write, probability, confidence, name, level, reached, labels):
    found = roll_up(np.array(probability), read_taxonomy(write(TABLE), NAMES), confidence)
    assert found[:2] == (name, level)
    assert found.probability == pytest.approx(reached)
    assert found.labels == labels


def test_reason(write):
    levels = read_taxonomy(write(TABLE), NAMES)
    assert roll_up(np.array([0.1, 0.5, 0.35, 0.05]), levels, 0.8).reason == (
        "species only 0.50 (Robin), genus only 0.50 (Erithacus), family reaches 0.85"
    )
    assert roll_up(np.array([0.3, 0.3, 0.2, 0.2]), only_classes(NAMES), 0.8).reason == (
        "class only 0.30 (Wren)"
    )


def test_names_of_any_kind(write):
    names = ("Zu\u0308rich", 'a, "b"\nc', "#1")
    text = '\ufeffname,group\r\nZ\u00fcrich, x \r\n"a, ""b""\nc",x\r\n#1,y\r\n\r\n'
    assert read_taxonomy(write(text), names)[1].group_of.tolist() == [0, 0, 1]


def test_added_classes_need_no_row(write):
    species, genus, family = read_taxonomy(write(TABLE), NAMES[:3], ("Heron", "Mallard"))
    assert species.group_of.tolist() == [0, 1, 2, 3, 4]
    assert species.groups == (*NAMES[:3], "Heron", "Mallard")
    assert genus.group_of.tolist() == [3, 1, 2, -1, 0]
    assert family.group_of.tolist() == [1, 0, 0, -1, -1]


def test_rows_of_other_classes_are_reported(write, capsys):
    read_taxonomy(write(TABLE), NAMES[:3])
    assert "'Mallard'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TABLE.replace("Wren", "Wrens"), r"no row for 1 .*'Wren'.* Nearest to 'Wren': 'Wrens'"),
        (TABLE + "Robin,x,y\n", "line 6: 'Robin' has two rows"),
        (TABLE.replace(",Anas", ""), "line 5: 2 cells, and the first line has 3"),
        ("species\nWren\n", "no levels above the classes"),
        ("", "no levels above the classes"),
        ("a,a\nWren,x\n", "names of the levels must differ"),
        ('a,b\n"Wren,x\n', "line 2: unexpected end of data"),
        (b"a,b\nWr\xe9n,x\n", "is not UTF-8"),
    ],
)
def test_bad_files(write, text, message):
    with pytest.raises(InputError, match=message):
        read_taxonomy(write(text), NAMES)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_taxonomy(tmp_path / "missing.csv", NAMES)
