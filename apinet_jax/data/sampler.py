"""The images of every step, as pure functions of (seed, step).

Randomness is NumPy's Philox generator read as raw 64-bit words. The algorithm fixes that stream,
so a seed gives the same batches with every version of NumPy, on every host.
"""

from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Int, UInt64

from apinet_jax.system.errors import InputError

Tail = Literal["drop", "carry"]

# The second word of the key distinguishes the streams of one seed.
_CLASSES, _ORDER, _EPOCH = 0, 1, 2


def _words(seed: int, stream: int, block: int, count: int) -> UInt64[np.ndarray, " count"]:
    """Return `count` random words that depend only on (seed, stream, block)."""
    key = np.array([seed, stream], dtype=np.uint64)
    counter = np.array([0, block, 0, 0], dtype=np.uint64)
    return np.random.Philox(key=key, counter=counter).random_raw(count)


def _permutation(seed: int, stream: int, block: int, count: int) -> Int[np.ndarray, " count"]:
    """Return a uniformly random order of `range(count)`."""
    return np.argsort(_words(seed, stream, block, count), kind="stable")


class BalancedSampler:
    """K classes of S images per step; each class walks its own shuffled list, S images at a time.

    The classes of a step are drawn without replacement from (seed, step). The images of a class
    depend on how often it was drawn before. A table of all steps is built once, so that any step
    is available without replaying the previous ones.

    A class with fewer than S images repeats some of them within a batch. Such copies have the
    same key, and pair mining never pairs them.

    Attributes:
        batch_size: Images of the global batch, `B = K S`.
        num_steps: Steps that the table covers.
    """

    def __init__(
        self,
        labels: Int[np.ndarray, " N"],
        *,
        classes: int,
        images: int,
        num_steps: int,
        seed: int,
        tail: Tail = "drop",
    ):
        """Draw the classes of every step.

        Args:
            labels: Class of each record; classes are numbered from 0 and none is empty.
            classes: Classes of a batch, `K`.
            images: Images of each class, `S`.
            num_steps: Steps of the run.
            seed: Seed of the sequence of batches.
            tail: Treatment of fewer than S images at the end of a class's list: `drop` leaves them
                out and shuffles again (the authors' code), `carry` uses them first.

        Raises:
            InputError: K is larger than the number of classes.
        """
        members = np.bincount(labels)
        if classes > len(members):
            raise InputError(
                f"batch.classes = {classes} asks for {classes} classes in a batch, but the "
                f"training images have only {len(members)}. Set batch.classes="
                f"{len(members)} or lower."
            )
        self.batch_size, self.num_steps = classes * images, num_steps
        self._images, self._seed, self._tail = images, seed, tail
        by_class = np.argsort(labels, kind="stable")
        self._members = np.split(by_class, np.cumsum(members)[:-1])
        self._classes = np.stack(
            [_permutation(seed, _CLASSES, t, len(members))[:classes] for t in range(num_steps)]
        )  # [num_steps K]

    @cached_property
    def _table(self) -> Int[np.ndarray, "num_steps B"]:
        """Records of every step."""
        drawn = self._classes.ravel()  # [num_steps*K], in order of time
        rows = np.empty((len(drawn), self._images), np.int32)
        for label, records in enumerate(self._members):
            draws = np.flatnonzero(drawn == label)
            rows[draws] = records[self._walk(label, len(records), len(draws))]
        return rows.reshape(self.num_steps, self.batch_size)

    def _walk(self, label: int, count: int, draws: int) -> Int[np.ndarray, "draws S"]:
        """Return the positions within a class of `count` images, for each of its draws."""
        laps, num_shown = [np.empty(0, np.int64)], 0
        carried = np.empty(0, np.int64)
        while num_shown < draws * self._images:
            order = _permutation(self._seed, _ORDER + (label << 8), len(laps), count)
            if count < self._images:
                order = np.resize(order, self._images)
            elif len(carried):
                # The carried images come first, so in this lap they move to its end: no draw
                # may hold an image twice.
                again = np.isin(order, carried)
                order = np.concatenate([carried, order[~again], order[again]])
            used = len(order) // self._images * self._images
            laps.append(order[:used])
            num_shown += used
            if self._tail == "carry":
                carried = order[used:]
        return np.concatenate(laps)[: draws * self._images].reshape(draws, self._images)

    def __call__(self, step: int) -> Int[np.ndarray, " B"]:
        """Return the records of a step; the S images of a class are consecutive.

        Raises:
            IndexError: The step is outside the run.
        """
        if not 0 <= step < self.num_steps:
            raise IndexError(f"step {step} is outside the run of {self.num_steps} steps")
        return self._table[step]


class ShuffledSampler:
    """Plain random batches: every epoch is a new order of all images, cut into full batches.

    Attributes:
        batch_size: Images of the global batch, `B`.
        num_steps: Steps of the run.
    """

    def __init__(self, num_images: int, *, batch_size: int, num_steps: int, seed: int):
        """Keep the arguments, which are those of `BalancedSampler`."""
        self.batch_size, self.num_steps = batch_size, num_steps
        self._num_images, self._seed = num_images, seed

    def __call__(self, step: int) -> Int[np.ndarray, " B"]:
        """Return the records of a step; a set smaller than a batch is repeated to fill it.

        Raises:
            IndexError: The step is outside the run.
        """
        if not 0 <= step < self.num_steps:
            raise IndexError(f"step {step} is outside the run of {self.num_steps} steps")
        epoch, index = divmod(step, max(1, self._num_images // self.batch_size))
        order = _permutation(self._seed, _EPOCH, epoch, self._num_images)
        order = np.resize(order, max(self._num_images, self.batch_size))
        return order[index * self.batch_size : (index + 1) * self.batch_size]


Sampler = BalancedSampler | ShuffledSampler
