"""K x S batches as pure functions of (seed, step)."""

from collections import Counter

import numpy as np
import pytest

from apinet_jax.data import sampler as sampler_module
from apinet_jax.data.sampler import BalancedSampler, ShuffledSampler
from apinet_jax.system.errors import InputError

# Ten classes: ordinary, exactly S, fewer than S, one image.
COUNTS = [7, 4, 3, 1, 30, 12, 9, 8, 5, 6]
LABELS = np.repeat(np.arange(10), COUNTS)


def sampler(labels=LABELS, classes=5, images=4, num_steps=400, seed=0, tail="drop"):
    return BalancedSampler(
        labels, classes=classes, images=images, num_steps=num_steps, seed=seed, tail=tail
    )


def draws_of(batches, label, images=4):
    """Return the images of one class, in the order of its draws."""
    rows = [b.reshape(-1, images) for b in batches]
    return [group for b in rows for group in b if LABELS[group[0]] == label]


@pytest.mark.parametrize("tail", ["drop", "carry"])
def test_batch_has_k_classes_of_s_images(tail):
    sample = sampler(tail=tail)
    for step in range(400):
        groups = sample(step).reshape(5, 4)
        labels = LABELS[groups]
        assert (labels == labels[:, :1]).all()
        assert len(set(labels[:, 0])) == 5
        for group, label in zip(groups, labels[:, 0], strict=True):
            assert len(set(group)) == min(4, COUNTS[label])


def test_steps_do_not_depend_on_previous_calls():
    one = sampler()
    walked = [one(step) for step in range(400)]
    for step in (399, 17, 0):
        assert np.array_equal(sampler()(step), walked[step])


def test_longer_run_starts_like_a_shorter_one():
    short, long = sampler(num_steps=50), sampler(num_steps=300)
    assert all(np.array_equal(short(t), long(t)) for t in range(50))


def test_seeds_differ():
    assert not np.array_equal(sampler(seed=0)(0), sampler(seed=1)(0))


def test_drop_leaves_the_tail_out():
    """30 images, S = 4: seven draws use 28 of them, then a new list starts; 2 are dropped."""
    sample = sampler()
    draws = draws_of([sample(t) for t in range(400)], 4)
    for lap in range(len(draws) // 7):
        used = np.concatenate(draws[7 * lap : 7 * lap + 7])
        assert len(set(used)) == 28


def test_carry_uses_the_tail_first():
    """In 30 draws of 4 images, a class of 30 uses every image exactly four times."""
    sample = sampler(tail="carry", num_steps=800)
    draws = draws_of([sample(t) for t in range(800)], 4)[:30]
    assert set(Counter(np.concatenate(draws).tolist()).values()) == {4}
    tail, first = set(draws[7][:2]), set(np.concatenate(draws[:7]))
    assert not tail & first
    assert tail | first == set(np.flatnonzero(LABELS == 4))


def test_classes_are_drawn_evenly():
    sample = sampler(num_steps=2000)
    drawn = Counter(np.concatenate([LABELS[sample(t)[::4]] for t in range(2000)]).tolist())
    assert min(drawn.values()) > 900  # 1000 expected, standard deviation 22
    assert max(drawn.values()) < 1100


def test_class_with_fewer_than_s_images():
    sample = sampler()
    draws = draws_of([sample(t) for t in range(100)], 2)
    assert all(len(set(draw)) == 3 for draw in draws)
    repeated = [Counter(draw.tolist()).most_common(1)[0][0] for draw in draws]
    assert len(set(repeated)) == 3  # not always the same one


def test_more_classes_than_exist():
    with pytest.raises(InputError, match=r"11 classes.*only 10.*batch\.classes=10"):
        sampler(classes=11)


@pytest.mark.parametrize("step", [-1, 400])
def test_steps_outside_the_run(step):
    with pytest.raises(IndexError):
        sampler()(step)


def test_the_stream_is_pinned():
    """These batches are part of recorded results: a change here changes every one of them."""
    assert sampler(classes=2)(0).tolist() == [3, 5, 2, 4, 11, 13, 12, 11]


def test_table_is_built_once(monkeypatch):
    """The first batch of a CUB-sized run builds the table; nothing is drawn after that."""
    labels = np.repeat(np.arange(200), 30)[:5994]
    walked, fresh = (sampler(labels, classes=30, num_steps=4900) for _ in range(2))
    batch = fresh(3000)
    walked(0)

    def drawn(*_):
        raise AssertionError("random words are drawn for a step of the table")

    monkeypatch.setattr(sampler_module, "_words", drawn)
    in_order = [walked(step) for step in range(4900)]
    assert np.array_equal(batch, in_order[3000])
    for step in (4899, 0, 3001, 17, 3000):
        assert np.array_equal(fresh(step), in_order[step])


def test_shuffled_epochs_have_every_image_once():
    sample = ShuffledSampler(85, batch_size=10, num_steps=24, seed=3)
    first, second = (
        np.concatenate([sample(t) for t in steps]) for steps in (range(8), range(8, 16))
    )
    assert len(set(first)) == len(set(second)) == 80
    assert not np.array_equal(first, second)


def test_shuffled_set_smaller_than_a_batch():
    assert set(ShuffledSampler(3, batch_size=8, num_steps=2, seed=0)(1)) == {0, 1, 2}
