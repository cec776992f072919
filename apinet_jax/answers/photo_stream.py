"""Photos through the network: decoded in threads, ahead of the device."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import ml_collections
import numpy as np
from jaxtyping import Float, UInt8

from apinet_jax.data.decoding import least_side
from apinet_jax.data.photos import photo_pixels
from apinet_jax.inference import Classifier
from apinet_jax.system.console import say
from apinet_jax.system.errors import InputError, explain_out_of_memory
from apinet_jax.system.paths import explain_bucket_errors, is_remote, to_path

S, T = TypeVar("S"), TypeVar("T")

_AHEAD = 2  # batches that are decoded while one is on the device


class Described(NamedTuple):
    """Consecutive photos after the network.

    Attributes:
        logits: Scores of the readable ones.
        features: Their pooled features; `None` where they were not asked for.
        reasons: For every photo why it cannot be read, or `None` if it can.
    """

    logits: Float[np.ndarray, "N C"]
    features: Float[np.ndarray, "N D"] | None
    reasons: tuple[str | None, ...]


def warn_of_whole_photos(config: ml_collections.ConfigDict) -> None:
    """Print a warning if the run was trained on parts of photos, as named photos are used whole."""
    if config.data.crop_to_box:
        say("WARNING: the run was trained on boxes (data.crop_to_box); whole photos are used.")
    if config.data.name == "aircraft":
        say("WARNING: FGVC-Aircraft photos are used with their banner, which training cuts off.")


def describe_stream(
    classifier: Classifier,
    photos: Sequence[str],
    batch_size: int | None = None,
    *,
    features: bool = False,
    advice: str = "Set --batch-size lower.",
) -> Iterator[Described]:
    """Yield scores, and features if asked, of consecutive photos; unreadable ones do not stop it.

    Args:
        classifier: The network.
        photos: Files, or addresses in buckets.
        batch_size: Photos on the device at once; as in the run's evaluation by default.
        features: Whether features are wanted too.
        advice: What to do if the device runs out of memory.

    Raises:
        InputError: If scores are not finite: the run has diverged.
        RunError: If the device runs out of memory.
    """
    batch_size = batch_size or classifier.config.eval.batch_size
    # All batches have one size, so that one program is compiled; it is smaller for few photos.
    batch_size = min(batch_size, 1 << (len(photos) - 1).bit_length()) if photos else batch_size
    with explain_out_of_memory(advice):
        for pixels, reasons in _batches(classifier, photos, batch_size):
            padded = np.zeros((batch_size, *pixels.shape[1:]), np.uint8)
            padded[: len(pixels)] = pixels
            if features:
                found = classifier.describe_pixels(padded)
                logits, rows = found.logits[: len(pixels)], found.features[: len(pixels)]
            else:
                logits, rows = classifier.classify_pixels(padded)[: len(pixels)], None
            if not np.isfinite(logits).all():
                raise InputError(
                    f"The scores of {classifier.checkpoint} are not finite: the run has diverged. "
                    "Choose an earlier checkpoint."
                )
            yield Described(logits, rows, reasons)


def _batches(
    classifier: Classifier, photos: Sequence[str], batch_size: int
) -> Iterator[tuple[UInt8[np.ndarray, "N H W 3"], tuple[str | None, ...]]]:
    """Yield the pixels of up to `batch_size` readable photos, and what is wrong with the others."""
    data = classifier.config.data
    least = least_side(data.decode, data.resize)
    read = partial(_pixels_or_reason, resize=data.resize, crop=data.crop, least=least)
    with closing(_map_ahead(read, photos, _AHEAD * batch_size)) as results:
        while batch := list(islice(results, batch_size)):
            pixels = [result for result in batch if not isinstance(result, str)]
            reasons = (result if isinstance(result, str) else None for result in batch)
            # numpy cannot stack no arrays.
            empty = np.zeros((0, data.crop, data.crop, 3), np.uint8)
            yield np.stack(pixels) if pixels else empty, tuple(reasons)


def _map_ahead(function: Callable[[S], T], items: Iterable[S], ahead: int) -> Iterator[T]:
    """Yield the results of threads in order; at most `ahead` of them wait."""
    items = iter(items)
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        pending = deque(pool.submit(function, item) for item in islice(items, ahead))
        while pending:
            result = pending.popleft().result()
            pending.extend(pool.submit(function, item) for item in islice(items, 1))
            yield result
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _pixels_or_reason(
    photo: str, resize: int, crop: int, least: int | None
) -> UInt8[np.ndarray, "H W 3"] | str:
    try:
        return photo_pixels(_read(photo), None, resize, crop, least)
    except OSError as error:
        return error.strerror or str(error)
    except (ValueError, InputError) as error:
        return str(error)


def _read(photo: str) -> bytes:
    if not is_remote(photo):
        return Path(photo).read_bytes()
    with explain_bucket_errors(photo):
        try:
            return to_path(photo).read_bytes()
        except FileNotFoundError as error:
            raise InputError("there is no such object") from error
