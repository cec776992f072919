"""Accuracies by hand, and the units of duration."""

import jax
import numpy as np
import pytest

from apinet_jax.method.durations import epochs_to_steps, steps_per_epoch
from apinet_jax.method.metrics import summarise

LOGITS = np.array(
    [
        [9.0, 1, 2, 3, 4, 5, 0],  # true 0: right
        [9.0, 8, 2, 3, 4, 5, 0],  # true 1: second
        [9.0, 8, 7, 3, 4, 5, 0],  # true 6: last of seven
        [0.0, 9, 2, 3, 4, 5, 1],  # true 1: right
    ],
    np.float32,
)
LABELS = np.array([0, 1, 6, 1])


def test_summary_by_hand():
    summary = summarise(LOGITS, LABELS)
    assert summary.images == 4
    assert summary.top1 == 2 / 4
    assert summary.top5 == 3 / 4
    assert summary.per_class == (1.0, 0.5, None, None, None, None, 0.0)
    assert summary.macro == pytest.approx(1.5 / 3)
    assert summary.confused == (0, 1, 1)
    nll = -jax.nn.log_softmax(LOGITS)[np.arange(4), LABELS]
    assert summary.nll == pytest.approx(float(nll.mean()), rel=1e-6)


def test_summary_of_many_ties_ranks_as_top_k():
    random = np.random.default_rng(0)
    logits = random.integers(0, 4, (500, 9)).astype(np.float32)
    labels = random.integers(0, 9, 500)
    _, best = jax.lax.top_k(logits, 5)
    summary = summarise(logits, labels)
    assert summary.top5 == np.mean((np.asarray(best) == labels[:, None]).any(axis=1))
    assert summary.top1 == np.mean(np.asarray(best)[:, 0] == labels)


def test_fewer_than_five_classes():
    assert summarise(LOGITS[:, :3], np.array([2, 2, 2, 2])).top5 == 1.0


def test_nan_is_wrong():
    summary = summarise(np.full((2, 7), np.nan, np.float32), np.array([3, 6]))
    assert (summary.top1, summary.top5) == (0.0, 0.0)
    assert np.isnan(summary.nll)
    assert np.isnan(summary.ece)


def test_confused_pair_counts_both_ways():
    logits = np.eye(3, dtype=np.float32)[[1, 0, 2, 0]]
    assert summarise(logits, np.array([0, 1, 2, 2])).confused == (0, 1, 2)


def test_nothing_evaluated():
    with pytest.raises(ValueError, match="no image"):
        summarise(np.zeros((0, 7), np.float32), np.zeros(0, int))


def test_durations():
    assert steps_per_epoch(5994, 120) == 49
    assert steps_per_epoch(240, 120) == 2  # one more than the authors' loop, which stops short
    assert steps_per_epoch(7, 120) == 1
    assert epochs_to_steps(100.0, 5994, 120) == 4900
    assert epochs_to_steps(0.5, 1000, 10) == 50
