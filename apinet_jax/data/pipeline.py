"""The stream of batches: grain runs a pure function of the step, ahead of the training loop.

A batch depends on (seed, step) alone. Threads or worker processes, however many, only decide how
far ahead of time it is made, and a stream that starts at step t needs no state but t.
"""

import contextlib
import gc
import itertools
import multiprocessing
import os
import re
import signal
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import grain
import numpy as np
from absl import flags, logging
from jaxtyping import Int

from apinet_jax.data.batch import Batch
from apinet_jax.data.cache import ImageReader
from apinet_jax.data.sampler import Sampler
from apinet_jax.data.transforms import center_crop, random_crop_flip, random_resized_crop_flip
from apinet_jax.system.errors import RunError

# Workers see the CPU only; this process has read that variable long ago. Shared memory that an exit
# overtakes, before grain's background thread frees it, is freed by Python's tracker without a word.
_FOR_WORKERS = {
    "JAX_PLATFORMS": "cpu",
    "PYTHONWARNINGS": "ignore::UserWarning:multiprocessing.resource_tracker",
}
# Batches made ahead by each worker: enough to hide a slow image, few enough for memory.
_AHEAD = 2


@dataclass(frozen=True)
class TrainLoader:
    """Makes this host's rows of the training batch of a step.

    Attributes:
        reader: Resized images of the training split.
        sampler: The records of each step.
        crop: Height and width of a crop.
        seed: Seeds crop and flip, together with the step and the row.
        rows: This host's rows of the global batch.
        min_area: Least area of a random resized crop, as a part of the image; `None` for plain
            crops.
    """

    reader: ImageReader
    sampler: Sampler
    crop: int
    seed: int
    rows: Int[np.ndarray, " rows"]
    min_area: float | None = None

    def __call__(self, step: int) -> Batch:
        """The batch of a step, augmented."""
        augment = random_crop_flip
        if self.min_area is not None:
            augment = partial(random_resized_crop_flip, min_area=self.min_area)
        keys = self.sampler(step)
        images = [
            augment(self.reader(int(keys[slot])), self.crop, self.seed, step, slot)
            for slot in self.rows.tolist()
        ]
        mine = keys[self.rows].astype(np.int32)
        labels = self.reader.source.labels[mine].astype(np.int32)
        return Batch(np.stack(images), labels, mine, np.ones(len(mine), bool))


@dataclass(frozen=True)
class EvalLoader:
    """Makes this host's rows of an evaluation batch: every image once, padded at the end.

    Attributes:
        reader: Resized images of the split.
        crop: Height and width of the central crop.
        batch_size: Images of the global batch.
        rows: This host's rows of the global batch.
    """

    reader: ImageReader
    crop: int
    batch_size: int
    rows: Int[np.ndarray, " rows"]

    @property
    def num_batches(self) -> int:
        """Batches that cover the split."""
        return -(-len(self.reader.source) // self.batch_size)

    def __call__(self, index: int) -> Batch:
        """The batch that starts at image `index * batch_size`; padding repeats the last image."""
        first = index * self.batch_size
        wanted = np.arange(first, first + self.batch_size, dtype=np.int32)[self.rows]
        real = wanted < len(self.reader.source)
        keys = np.minimum(wanted, len(self.reader.source) - 1)
        crops = {key: center_crop(self.reader(key), self.crop) for key in set(keys.tolist())}
        labels = self.reader.source.labels[keys].astype(np.int32)
        return Batch(np.stack([crops[key] for key in keys.tolist()]), labels, keys, real)


@contextlib.contextmanager
def stream(
    loader: TrainLoader | EvalLoader, start: int, stop: int, workers: int = 0
) -> Iterator[Iterator[Batch]]:
    """Yields the batches `start` to `stop - 1` in order, made ahead in the background.

    Args:
        loader: What makes a batch.
        start: First step.
        stop: The step after the last.
        workers: Worker processes; 0 uses threads of this process, which suits decoders that
            release Python's lock, as ours do.
    """
    if not flags.FLAGS.is_parsed():  # grain reads its flags, which only `app.run` parses
        flags.FLAGS.mark_as_parsed()
    dataset = grain.MapDataset.range(start, stop).map(loader)
    workers = min(workers, stop - start)  # one without a batch to make takes seconds to begin
    threads = 1 if workers else max(1, min(16, (os.cpu_count() or 2) - 1))
    batches = dataset.to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(_AHEAD, threads))
    )
    if workers:
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=_AHEAD)
        batches = batches.mp_prefetch(options, _begin_worker)
    iterator = iter(batches)
    try:
        yield _from_workers(iterator, workers) if workers else iterator
    finally:
        iterator.close()
        gc.collect()  # frees what grain still shares, before the interpreter is half gone


def _from_workers(batches: Iterator[Batch], workers: int) -> Iterator[Batch]:
    """Copies batches out of shared memory.

    Grain begins its workers from threads, at the first `next`, and none anew if one fails; they
    take turns, so all have begun once there is a batch of each. The variables last that long.
    """
    copies = (Batch(*map(np.array, batch)) for batch in batches)
    with _lost_worker_explained():
        with _environment(**_FOR_WORKERS):
            first = deque(itertools.islice(copies, workers))
        while first:
            yield first.popleft()
        yield from copies


@contextlib.contextmanager
def _lost_worker_explained() -> Iterator[None]:
    """Lets a worker process that something ended end the run in one message; other errors pass."""
    try:
        yield
    except RuntimeError as error:
        if (
            code := re.search(r"Worker process was terminated .* exit code (-?\d+)", str(error))
        ) is None:
            raise
        raise RunError(
            f"A worker process that makes batches was ended from outside (exit code {code[1]}; -9 "
            "is what a system does that runs out of memory). The same command goes on; if it "
            "happens again, try a lower --config.data.workers."
        ) from error


def _begin_worker(_index: int, _count: int) -> None:
    """Prepares a worker process: quiet, there while its parent is, and no longer.

    A signal to the whole process group is for the parent to answer: it may need batches until its
    state is saved. A parent that is killed cannot end its workers, and grain's wait for a free
    buffer for good.
    """
    logging.set_verbosity(logging.ERROR)  # TFDS warns when it unpickles a builder
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def leave() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=leave, daemon=True).start()


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Sets variables for the processes that begin meanwhile."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
