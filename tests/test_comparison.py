"""Figures of a comparison, by hand, and the table that tells them."""

import csv
import io
import math

import pytest
from PIL import Image

from apinet_jax.comparison import as_csv, as_markdown, draw, mean_and_sd, paired_difference

SCORES = {
    "API-Net": {0: 70.0, 1: 72.0, 2: 74.0},
    "softmax": {0: 69.0, 1: 70.0, 2: 71.0},
    "much better": {0: 80.0, 1: 82.1, 2: 84.0},
    "one seed": {1: 75.0},
}
CELLS = [*SCORES, "never run"]


def test_difference_by_hand():
    """Differences -1, -2, -3: mean -2, sd 1; t(0.975, 2) = 4.3027, over the root of 3."""
    difference = paired_difference(SCORES["softmax"], SCORES["API-Net"])
    assert difference.mean == -2
    half = 4.302653 / math.sqrt(3)
    assert difference.low == pytest.approx(-2 - half, abs=1e-5)
    assert difference.high == pytest.approx(-2 + half, abs=1e-5)
    assert difference.pairs == 3
    assert difference.verdict == "not resolved"


def test_verdicts():
    better = paired_difference(SCORES["much better"], SCORES["API-Net"])
    assert better.verdict == "better"
    assert paired_difference(SCORES["API-Net"], SCORES["much better"]).verdict == "worse"
    alone = paired_difference(SCORES["one seed"], SCORES["API-Net"])
    assert (alone.mean, alone.low, alone.pairs) == (3.0, -math.inf, 1)
    assert alone.verdict == "not resolved"
    two = paired_difference({0: 80.0, 1: 82.0}, SCORES["API-Net"])
    assert (two.low, two.high, two.verdict) == (10.0, 10.0, "not resolved")
    assert paired_difference({5: 1.0}, SCORES["API-Net"]) is None


def test_mean_and_spread():
    assert mean_and_sd(SCORES["API-Net"]) == "72.00 ± 2.00"
    assert mean_and_sd(SCORES["one seed"]) == "75.00"
    assert mean_and_sd({}) == "not run"


def test_tables_say_what_was_not_run():
    lines = as_markdown(CELLS, SCORES, "API-Net").splitlines()
    assert lines[2] == "| API-Net | 72.00 ± 2.00 | 3 |  |  | reference |"
    assert lines[3] == "| softmax | 70.00 ± 1.00 | 3 | -2.00 | -4.48 to +0.48 | not resolved |"
    assert lines[5] == "| one seed | 75.00 | 1 | +3.00 | one pair | not resolved |"
    assert lines[6] == "| never run | not run | 0 |  |  | not run |"
    assert (
        as_markdown(CELLS, SCORES, "never run").splitlines()[3].endswith("|  |  | no reference |")
    )
    rows = list(csv.reader(io.StringIO(as_csv(CELLS, SCORES, "API-Net"))))
    assert [row[0] for row in rows] == ["cell", *CELLS]
    assert rows[2][4] == "-4.48 to +0.48"


def test_plot(tmp_path):
    draw(CELLS, SCORES, "API-Net", tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as image:
        assert min(image.size) > 200
        assert len(image.convert("RGB").getcolors(100_000)) > 50
