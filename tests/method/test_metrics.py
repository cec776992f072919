"""Evaluation sums by hand, and the units of duration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apinet_jax.method.durations import epochs_to_steps, steps_per_epoch
from apinet_jax.method.metrics import eval_sums, summarise

LOGITS = jnp.array(
    [
        [9.0, 1, 2, 3, 4, 5, 0],  # true 0: right
        [9.0, 8, 2, 3, 4, 5, 0],  # true 1: second
        [9.0, 8, 7, 3, 4, 5, 0],  # true 6: last of seven
        [0.0, 9, 2, 3, 4, 5, 1],  # true 1: right
        [0.0, 9, 2, 3, 4, 5, 1],  # padding
    ]
)
LABELS = jnp.array([0, 1, 6, 1, 0])
MASK = jnp.array([True, True, True, True, False])


@pytest.mark.usefixtures("strict_dtypes")
def test_sums_by_hand():
    sums = eval_sums(LOGITS, LABELS, MASK)
    summary = summarise(sums, np.asarray(LOGITS[:4]), np.asarray(LABELS[:4]))
    assert summary.images == 4
    assert summary.top1 == 2 / 4
    assert summary.top5 == 3 / 4
    assert summary.per_class == (1.0, 0.5, None, None, None, None, 0.0)
    assert summary.macro == pytest.approx(1.5 / 3)
    assert summary.confused == (0, 1, 1)
    nll = -jax.nn.log_softmax(LOGITS)[jnp.arange(4), LABELS[:4]]
    assert summary.nll == pytest.approx(float(nll.mean()), rel=1e-6)


@pytest.mark.usefixtures("strict_dtypes")
def test_sums_do_not_depend_on_how_images_are_batched():
    whole = eval_sums(LOGITS, LABELS, MASK)
    parts = [eval_sums(LOGITS[i : i + 1], LABELS[i : i + 1], MASK[i : i + 1]) for i in range(5)]
    joined = jax.tree.map(lambda *x: sum(x[1:], x[0]), *parts)
    assert np.array_equal(joined.confusion, whole.confusion)
    assert joined.top5 == whole.top5


def test_confused_pair_counts_both_ways():
    logits = jnp.eye(3)[jnp.array([1, 0, 2, 0])]
    labels = jnp.array([0, 1, 2, 2])
    sums = eval_sums(logits, labels, jnp.ones(4, bool))
    summary = summarise(sums, np.asarray(logits), np.asarray(labels))
    assert summary.confused == (0, 1, 2)


def test_nothing_evaluated():
    with pytest.raises(ValueError, match="no image"):
        summarise(eval_sums(LOGITS, LABELS, jnp.zeros(5, bool)), np.zeros((0, 7)), np.zeros(0, int))


def test_durations():
    assert steps_per_epoch(5994, 120) == 49
    assert steps_per_epoch(240, 120) == 2  # one more than the authors' loop, which stops short
    assert steps_per_epoch(7, 120) == 1
    assert epochs_to_steps(100.0, 5994, 120) == 4900
    assert epochs_to_steps(0.5, 1000, 10) == 50
