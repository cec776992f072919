"""Which images make up step t: pure functions of (seed, step), answered from a table.

Randomness is NumPy's Philox generator read as raw 64-bit words. That stream is fixed by the
algorithm, so a seed names the same batches under every version of NumPy, on every host.
"""

from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Int, UInt64

from apinet_jax.system.errors import InputError

Tail = Literal["drop", "carry"]

# Streams that share a seed are told apart by the second word of the key.
_CLASSES, _ORDER, _EPOCH = 0, 1, 2


def _words(seed: int, stream: int, block: int, count: int) -> UInt64[np.ndarray, " count"]:
    """`count` random words that belong to (seed, stream, block) alone."""
    key = np.array([seed, stream], dtype=np.uint64)
    counter = np.array([0, block, 0, 0], dtype=np.uint64)
    return np.random.Philox(key=key, counter=counter).random_raw(count)


def _permutation(seed: int, stream: int, block: int, count: int) -> Int[np.ndarray, " count"]:
    """A uniformly random order of `range(count)`."""
    return np.argsort(_words(seed, stream, block, count), kind="stable")


class BalancedSampler:
    """K classes of S images a step; each class walks its own shuffled list, S images at a time.

    The classes of a step are drawn without replacement from (seed, step). What a class shows in a
    step depends on how often it was drawn before; those counts are a table built once, so any
    step is answered without replaying the ones before it.

    A class with fewer than S images shows some of them more than once in a batch. Such copies
    keep the same key, and pair mining never pairs them.

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
        """Draws the classes of every step.

        Args:
            labels: Class of each record; classes are numbered from 0 and none is empty.
            classes: Classes of a batch, `K`.
            images: Images of each class, `S`.
            num_steps: Steps of the run.
            seed: Names the sequence of batches.
            tail: What happens to fewer than S images at the end of a class's list: `drop` leaves
                them out and shuffles anew (the authors' code), `carry` shows them first.

        Raises:
            InputError: If K is larger than the number of classes.
        """
        members = np.bincount(labels)
        if classes > len(members):
            raise InputError(
                f"batch.classes = {classes} asks for {classes} classes in a batch, but the "
                f"training images have only {len(members)}. Set --config.batch.classes="
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
        """The records of every step."""
        drawn = self._classes.ravel()  # [num_steps*K], in order of time
        rows = np.empty((len(drawn), self._images), np.int32)
        for label, records in enumerate(self._members):
            draws = np.flatnonzero(drawn == label)
            rows[draws] = records[self._walk(label, len(records), len(draws))]
        return rows.reshape(self.num_steps, self.batch_size)

    def _walk(self, label: int, count: int, draws: int) -> Int[np.ndarray, "draws S"]:
        """Positions within a class of `count` images that its successive draws show."""
        laps, num_shown = [np.empty(0, np.int64)], 0
        carried = np.empty(0, np.int64)
        while num_shown < draws * self._images:
            order = _permutation(self._seed, _ORDER + (label << 8), len(laps), count)
            if count < self._images:
                order = np.resize(order, self._images)
            elif len(carried):
                # The carried images were just shown or are about to be: met again in this lap,
                # they move to its end, so that no draw holds an image twice.
                again = np.isin(order, carried)
                order = np.concatenate([carried, order[~again], order[again]])
            whole = len(order) // self._images * self._images
            laps.append(order[:whole])
            num_shown += whole
            if self._tail == "carry":
                carried = order[whole:]
        return np.concatenate(laps)[: draws * self._images].reshape(draws, self._images)

    def __call__(self, step: int) -> Int[np.ndarray, " B"]:
        """The records of a step, the S images of a class side by side.

        Raises:
            IndexError: If the step is outside the run.
        """
        if not 0 <= step < self.num_steps:
            raise IndexError(f"step {step} is outside the run of {self.num_steps} steps")
        return self._table[step]


class ShuffledSampler:
    """Plain random batches: every epoch is a new order of all images, cut into whole batches.

    Attributes:
        batch_size: Images of the global batch, `B`.
        num_steps: Steps of the run.
    """

    def __init__(self, num_images: int, *, batch_size: int, num_steps: int, seed: int):
        """Names the sequence; see `BalancedSampler` for the arguments."""
        self.batch_size, self.num_steps = batch_size, num_steps
        self._num_images, self._seed = num_images, seed

    def __call__(self, step: int) -> Int[np.ndarray, " B"]:
        """The records of a step; a set smaller than a batch is repeated to fill it.

        Raises:
            IndexError: If the step is outside the run.
        """
        if not 0 <= step < self.num_steps:
            raise IndexError(f"step {step} is outside the run of {self.num_steps} steps")
        epoch, index = divmod(step, max(1, self._num_images // self.batch_size))
        order = _permutation(self._seed, _EPOCH, epoch, self._num_images)
        order = np.resize(order, max(self._num_images, self.batch_size))
        return order[index * self.batch_size : (index + 1) * self.batch_size]


Sampler = BalancedSampler | ShuffledSampler
