"""Figures of a comparison, by hand, and their table."""

import csv
import io
import math
import random
import statistics

import pytest
from PIL import Image
from scipy.stats import t

from apinet_jax.sweeps.comparison import as_csv, as_markdown, compare, draw, paired_difference

SCORES = {
    "API-Net": {0: 70.0, 1: 72.0, 2: 74.0},
    "softmax": {0: 69.0, 1: 70.0, 2: 71.0},
    "much better": {0: 80.0, 1: 82.1, 2: 84.0},
    "one seed": {1: 75.0},
    "one diverged": {0: 71.0, 1: 73.0, 2: math.nan},
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


def test_interval_against_its_formula():
    rng = random.Random(0)
    for count in (2, 3, 5, 20):
        scores, reference = (
            {seed: round(rng.gauss(70, 3), 4) for seed in range(count)} for _ in range(2)
        )
        differences = [scores[seed] - reference[seed] for seed in range(count)]
        half = t.ppf(0.975, count - 1) * statistics.stdev(differences) / math.sqrt(count)
        found = paired_difference(scores, reference)
        assert found.low == pytest.approx(statistics.mean(differences) - half, abs=1e-9)
        assert found.high == pytest.approx(statistics.mean(differences) + half, abs=1e-9)


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


def test_a_cell_by_hand():
    apinet, _, _, alone, diverged, never = compare(CELLS, SCORES, "API-Net")
    assert (apinet.mean, apinet.sd, apinet.diverged, apinet.verdict) == (72.0, 2.0, 0, "reference")
    assert (alone.mean, alone.sd, alone.difference.mean) == (75.0, None, 3.0)
    assert (diverged.mean, diverged.diverged, diverged.verdict) == (72.0, 1, "diverged")
    assert (diverged.difference.mean, diverged.difference.pairs) == (1.0, 2)
    assert (never.mean, never.difference, never.verdict) == (None, None, "not run")
    assert compare(CELLS, SCORES, "never run")[0].verdict == "no reference"


@pytest.mark.parametrize("reference", [{0: 70.0, 1: 72.0, 2: math.nan}, {0: math.nan}])
def test_diverged_reference_judges_nothing(reference):
    scores = {**SCORES, "API-Net": reference}
    lines = compare(CELLS, scores, "API-Net")
    verdicts = {line.cell: line.verdict for line in lines}
    assert verdicts.pop("API-Net") == "reference"
    assert verdicts.pop("one diverged") == "diverged"
    assert verdicts.pop("never run") == "not run"
    assert set(verdicts.values()) == {"reference diverged"}
    assert "run of the reference diverged, so there are no verdicts" in as_markdown(lines, "top-1")
    assert "no verdicts" not in as_markdown(compare(CELLS, SCORES, "API-Net"), "top-1")


def test_tables_say_what_was_not_run():
    table = compare(CELLS, SCORES, "API-Net")
    lines = as_markdown(table, "test top-1").splitlines()
    assert lines[0].startswith("| cell | test top-1, mean ± sd | n | pairs |")
    assert lines[2] == "| API-Net | 72.00 ± 2.00 | 3 |  |  |  | reference |"
    assert lines[3] == "| softmax | 70.00 ± 1.00 | 3 | 3 | -2.00 | -4.48 to +0.48 | not resolved |"
    assert lines[5] == "| one seed | 75.00 | 1 | 1 | +3.00 | one pair | not resolved |"
    assert lines[6].startswith("| one diverged | 72.00 ± 1.41 | 2, 1 diverged | 2 | +1.00 | +1.00")
    assert lines[7] == "| never run | not run | 0 |  |  |  | not run |"
    assert "noise between seeds, not" in " ".join(lines)


def test_csv_has_numbers():
    rows = list(csv.DictReader(io.StringIO(as_csv(compare(CELLS, SCORES, "API-Net")))))
    assert [row["cell"] for row in rows] == CELLS
    assert float(rows[1]["mean"]) == 70.0
    assert float(rows[1]["low"]) == pytest.approx(-2 - 4.302653 / math.sqrt(3), abs=1e-4)
    assert (rows[3]["sd"], rows[3]["low"], rows[3]["high"], rows[3]["pairs"]) == ("", "", "", "1")
    assert (rows[4]["diverged"], rows[5]["mean"], rows[5]["n"]) == ("1", "", "0")


def test_plot(tmp_path):
    draw(compare(CELLS, SCORES, "API-Net"), "test top-1", tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as image:
        assert min(image.size) > 200
        assert len(image.convert("RGB").getcolors(100_000)) > 50
