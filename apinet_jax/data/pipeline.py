"""The stream of batches: grain evaluates a pure function of the step ahead of the training loop.

A batch depends only on (seed, step). The number of threads or worker processes only decides how
far ahead of time it is computed, and a stream that starts at step t needs no state except t.
"""

import contextlib
import gc
import itertools
import multiprocessing
import os
import re
import shutil
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from absl import flags, logging
from jaxtyping import Int

from apinet_jax.data.batch import Batch
from apinet_jax.data.sampler import Sampler
from apinet_jax.system.errors import RunError

# Workers see only the CPU; this process has read that variable already. If the process exits before
# grain's background thread frees shared memory, Python's tracker frees it without a warning.
_FOR_WORKERS = {
    "JAX_PLATFORMS": "cpu",
    "PYTHONWARNINGS": "ignore::UserWarning:multiprocessing.resource_tracker",
}
# Batches that each worker computes ahead: enough to hide a slow image, few enough for memory.
_AHEAD = 2
# Batches of an evaluation for which a worker is worth the seconds that it takes to start.
_WORTH_A_WORKER = 8
_SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class TrainLoader:
    """Loader of this host's rows of a training batch.

    Attributes:
        image: Returns a random crop of an image, or one of its cached features, from its index, the
            step and the row of the batch.
        labels: Class of each image.
        sampler: The images of each step.
        rows: This host's rows of the global batch.
    """

    image: Callable[[int, int, int], np.ndarray]
    labels: Int[np.ndarray, " N"]
    sampler: Sampler
    rows: Int[np.ndarray, " rows"]

    def __call__(self, step: int) -> Batch:
        """Return the augmented batch of a step."""
        keys = self.sampler(step)
        images = [self.image(int(keys[slot]), step, slot) for slot in self.rows.tolist()]
        mine = keys[self.rows].astype(np.int32)
        labels = self.labels[mine].astype(np.int32)
        return Batch(np.stack(images), labels, mine, np.ones(len(mine), bool))


@dataclass(frozen=True)
class EvalLoader:
    """Loader of this host's rows of an evaluation batch: every image once, padded at the end.

    Attributes:
        image: Returns the central crop of an image, or its cached features.
        labels: Class of each image.
        batch_size: Images of the global batch.
        rows: This host's rows of the global batch.
    """

    image: Callable[[int], np.ndarray]
    labels: Int[np.ndarray, " N"]
    batch_size: int
    rows: Int[np.ndarray, " rows"]

    @property
    def num_batches(self) -> int:
        """Number of batches that cover the split."""
        return -(-len(self.labels) // self.batch_size)

    def __call__(self, index: int) -> Batch:
        """Return the batch from image `index * batch_size` on; padding repeats the last image."""
        first = index * self.batch_size
        wanted = np.arange(first, first + self.batch_size, dtype=np.int32)[self.rows]
        real = wanted < len(self.labels)
        keys = np.minimum(wanted, len(self.labels) - 1)
        images = {key: self.image(key) for key in set(keys.tolist())}
        labels = self.labels[keys].astype(np.int32)
        return Batch(np.stack([images[key] for key in keys.tolist()]), labels, keys, real)


@contextlib.contextmanager
def stream(
    loader: TrainLoader | EvalLoader, start: int, stop: int, workers: int = 0
) -> Iterator[Iterator[Batch]]:
    """Stream the batches `start` to `stop - 1` in order, computed ahead in the background.

    Args:
        loader: Returns the batch of a step.
        start: First step.
        stop: The step after the last.
        workers: Worker processes; 0 uses threads of this process, because the decoders release
            Python's global lock.
    """
    import grain  # takes longer than naming a photo, which streams nothing

    if not flags.FLAGS.is_parsed():  # grain reads its flags, which only `app.run` parses
        flags.FLAGS.mark_as_parsed()
    dataset = grain.MapDataset.range(start, stop).map(loader)
    workers = min(workers, stop - start)  # an idle worker takes seconds to start
    threads = 1 if workers else min(16, os.cpu_count() or 1)
    batches = dataset.to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(_AHEAD, threads))
    )
    if workers:
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=_AHEAD)
        batches = batches.mp_prefetch(options, _start_worker)
    iterator = iter(batches)
    try:
        yield _from_workers(iterator, workers) if workers else iterator
    finally:
        iterator.close()
        gc.collect()  # frees grain's shared memory before the interpreter shuts down


def stream_split(
    loader: EvalLoader, workers: int = 0
) -> contextlib.AbstractContextManager[Iterator[Batch]]:
    """Stream every batch of a split, with fewer worker processes if there are few batches."""
    workers = min(workers, loader.num_batches // _WORTH_A_WORKER)
    return stream(loader, 0, loader.num_batches, workers)


def _from_workers(batches: Iterator[Batch], workers: int) -> Iterator[Batch]:
    """Copy batches out of shared memory.

    Grain starts its workers from threads at the first `next` and never restarts one. They take
    turns, so all have started after one batch of each; the variables are set until then.
    """
    copies = (Batch(*map(np.array, batch)) for batch in batches)
    with _explain_lost_worker():
        with _environment(**_FOR_WORKERS):
            first = deque(itertools.islice(copies, workers))
        while first:
            yield first.popleft()
        yield from copies


@contextlib.contextmanager
def _explain_lost_worker() -> Iterator[None]:
    """Turn the end of a worker process into one message; other errors pass."""
    try:
        yield
    except RuntimeError as error:
        found = re.search(r"Worker process was terminated .* exit code (-?\d+)", str(error))
        if found is None:
            raise
        code = int(found[1])
        cause = "-9 is usually the system running out of memory"
        advice = "try a lower data.workers"
        if code == -signal.SIGBUS and _SHARED_MEMORY.is_dir():
            size = shutil.disk_usage(_SHARED_MEMORY).total / 1e6
            cause = f"{_SHARED_MEMORY}, which has {size:,.0f} MB, was too small for the batches"
            advice = "enlarge it (docker run --shm-size=8g), or set data.workers=0"
        raise RunError(
            f"A worker process that loads batches was killed (exit code {code}; {cause}). The same "
            f"command resumes the run; if it happens again, {advice}."
        ) from error


def _start_worker(_index: int, _count: int) -> None:
    """Make a worker process quiet, deaf to signals, and end with its parent.

    The parent answers signals to the process group: it may need batches until its state is saved.
    A parent that is killed cannot end its workers, which would wait for a free buffer forever.
    """
    logging.set_verbosity(logging.ERROR)  # TFDS warns when it unpickles a builder
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Set variables for the processes that start meanwhile."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
