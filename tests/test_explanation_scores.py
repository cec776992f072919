"""The scores of explanations in benchmarks/, by hand; and birds that differ in one part only."""

import numpy as np
import pytest

from apinet_jax.models import trunk_spec
from benchmarks import bird_interventions, explanation_scores
from benchmarks.explanations import Interval, bootstrap, pooled

PART = np.array([[[True, False, False, False], [False] * 4, [False] * 4, [False] * 4]])  # [1 4 4]


def peak_at(row, column):
    values = np.zeros((1, 4, 4))
    values[0, row, column] = 1
    return values


def test_pointing_counts_the_distance_to_the_part():
    away = explanation_scores.distances(PART)
    assert away[0, 0, 3] == 3
    assert explanation_scores.pointing(peak_at(0, 0), away, 0) == [1]
    assert explanation_scores.pointing(peak_at(0, 2), away, 1) == [0]
    assert explanation_scores.pointing(peak_at(0, 2), away, 2) == [1]


def test_pixels_of_a_part_go_to_the_nearest_cell():
    parts = np.zeros((1, 64, 64), bool)
    parts[0, 0, 0] = parts[0, 20, 40] = parts[0, 63, 10] = parts[0, 63, 9] = True
    # Cells of a ResNet are at pixels 0 and 32.
    assert pooled(parts, (2, 2), trunk_spec("resnet50")).tolist() == [[[1, 0], [2, 1]]]


def test_energy_ignores_negative_values():
    values = peak_at(0, 0) + 3 * peak_at(2, 2) - 5 * peak_at(1, 1)
    assert explanation_scores.energy_share(values, PART) == [0.25]
    assert explanation_scores.energy_share(-peak_at(0, 0), PART) == [0]


def test_largest_pixels_become_the_mean_colour(monkeypatch):
    monkeypatch.setattr(explanation_scores, "MASKED", 1 / 16)
    images = np.zeros((1, 4, 4, 3), np.uint8)
    images[0, 3, 3] = 160
    masked = explanation_scores.mask_largest(peak_at(3, 3), images)
    assert (masked[0, 3, 3] == 10).all()
    assert masked[0, 0, 0].sum() == 0


def test_relative_drop():
    before, after = np.array([[0.7, 0.2, 0.1]]), np.array([[0.4, 0.3, 0.3]])
    drop = explanation_scores.relative_drop(before, after, np.array([0]), np.array([1]))
    assert drop == pytest.approx([0.3 + 0.1])


def test_rank_correlation():
    a = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [5.0, 5.0, 5.0]])
    b = np.array([[10.0, 20.0, 90.0], [3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    np.testing.assert_allclose(explanation_scores.rank_correlation(a, b), [1, -1, 0])


def test_ranks_are_those_of_the_group():
    values, groups = np.array([10.0, 20.0, 300.0, 100.0]), np.array([0, 0, 1, 1])
    np.testing.assert_allclose(explanation_scores.rank_within(values, groups), [0.5, 1.0, 1.0, 0.5])


def test_bootstrap_of_a_constant_has_no_width():
    assert bootstrap(np.full((3, 5), 0.5)) == Interval(0.5, 0.5, 0.5)
    assert bootstrap(np.full((3, 5), 0.5), np.full((3, 5), 0.25)).mean == 0.25


def test_birds_differ_in_their_part(tmp_path):
    birds = bird_interventions.draw_birds(1, 144, 128, tmp_path)
    changed = bird_interventions.changed_pixels(birds.images, birds.swapped)
    shown = birds.parts.sum(axis=(1, 2)) > 50
    assert shown.sum() >= 6
    for part, change in zip(birds.parts[shown], changed[shown], strict=True):
        away = explanation_scores.distances(part[None])[0]
        assert change.any()
        assert away[change].max() <= 3  # blurred by the lens and the resize
    assert [bird_interventions.rival_of(species) for species in (0, 1, 2, 9)] == [1, 2, 0, 10]
