"""Predictions for people, and how many of them are right."""

import pytest

from apinet_jax.answers.prediction.naming import Answer, Naming
from apinet_jax.answers.prediction.rows import failed_row, make_row
from apinet_jax.answers.prediction.table import Tally, is_shown, table_lines

NAMES = ("Wren", "鷦鷯", "Robin\nred")


def row(photo, label, probability, true_label=None, **changes):
    best = ((label, probability), ((label + 1) % 3, 0.004), ((label + 2) % 3, 0.25))
    answer = Answer(NAMES[label], "class", probability, "", (label,), best)
    return make_row(photo, answer._replace(**changes), NAMES, true_label)


GROUP = {"name": "birds", "level": "family", "labels": (0, 1), "reason": "family reaches 0.90"}
UNKNOWN = {"name": "unknown", "level": "unknown", "labels": (), "reason": "too low"}


def test_table():
    rows = [row("a.jpg", 0, 0.734), row("b\t.jpg", 1, 0.5), failed_row("c.jpg", "empty file", None)]
    assert table_lines(rows) == [
        "photo    answer  p     also",
        "a.jpg    Wren    0.73  Robin\\nred 0.25",
        "b\\t.jpg  鷦鷯    0.50  Wren 0.25",  # characters of two columns
        "c.jpg    -             cannot be read: empty file",
    ]
    assert table_lines([]) == ["photo  answer  p  also"]


def test_table_of_class_folders_with_groups():
    rows = [row("a", 0, 0.9, 1, **GROUP), row("b", 0, 0.9, 2), row("c", 0, 0.3, 0, **UNKNOWN)]
    assert table_lines(rows) == [
        "photo  answer   p     level    true class          also",
        "a      birds    0.90  family   鷦鷯                family reaches 0.90",
        "b      Wren     0.90  class    Robin\\nred (wrong)  Robin\\nred 0.25",
        "c      unknown  0.30  unknown  Wren                too low",
    ]


def test_filters():
    failed = failed_row("x", "empty file", None)
    right, wrong = row("a", 0, 0.9, 0), row("b", 0, 0.7, 1)
    naming = Naming(NAMES)
    for show, kept in (("mistakes", [wrong]), ("unsure", [wrong]), (None, [right, wrong])):
        found = [one for one in (right, wrong, failed) if is_shown(one, show, naming)]
        assert found == [*kept, failed]
    # A coarser answer that covers the true class is no mistake, and neither is none.
    assert not is_shown(row("c", 0, 0.9, 1, **GROUP), "mistakes", naming)
    assert not is_shown(row("c", 0, 0.9, 1, **UNKNOWN), "mistakes", naming)
    assert is_shown(right, "unsure", naming._replace(confidence=0.95))


@pytest.fixture
def tally():
    return Tally()


def test_accuracy(tally):
    for number in range(10):
        tally.add(row("a", 0, 0.9, 0 if number < 8 else 1))
    tally.add(row("b", 0, 0.9))
    tally.add(failed_row("c", "empty file", "Wren"))
    assert (tally.photos, tally.unreadable) == (12, 1)
    # The interval of 8 in 10 is computed by hand in tests/method/test_statistics.py.
    assert tally.lines(["class"]) == [
        "accuracy  80.0 % (95 % interval 49.0 to 94.3): the best class of "
        "10 photos in class folders"
    ]


def test_accuracy_of_levels(tally):
    for number in range(10):
        tally.add(row("a", 0, 0.9, 1 if number < 8 else 2, **GROUP))
    tally.add(row("b", 0, 0.9, 0))
    tally.add(row("c", 0, 0.3, 0, **UNKNOWN))
    assert tally.lines(["class", "family"]) == [
        "accuracy  16.7 % (95 % interval 4.7 to 44.8): the best class of "
        "12 photos in class folders",
        "class     1 of 12 photos, right 100.0 % (95 % interval 20.7 to 100.0)",
        "family    10 of 12 photos, right 80.0 % (95 % interval 49.0 to 94.3)",
        "unknown   1 of 12 photos",
    ]


def test_nothing_to_count(tally):
    tally.add(row("a", 0, 0.9))
    assert tally.lines(["class"]) == []
