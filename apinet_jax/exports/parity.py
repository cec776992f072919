"""Does an exported file say what the run says? Both classify every test image."""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from apinet_jax.answers.trained_run import TrainedRun
from apinet_jax.data.decoding import least_side
from apinet_jax.data.records.walk import quoted
from apinet_jax.data.source import Source
from apinet_jax.exports.onnx import ONNX
from apinet_jax.exports.stablehlo import StableHLO
from apinet_jax.system.console import tracked
from apinet_jax.system.errors import InputError, RunError
from apinet_jax.system.paths import write_atomically

MARGIN = 1e-3  # in logits: images whose two best classes are closer may change their class
BATCHES = (1, 32)
_REPEATS = 5

KINDS: dict[str, type[StableHLO] | type[ONNX]] = {".stablehlo": StableHLO, ".onnx": ONNX}
"""The readers of exported files, by the ending of their names."""

Exported = StableHLO | ONNX


class Parity(NamedTuple):
    """How an exported file differs from its run.

    Attributes:
        split: `test`, or `validation` where there are no test images.
        images: Images of the split.
        top1_run: Accuracy of the run.
        top1_file: Accuracy of the file.
        logit_difference: Largest difference of a logit.
        largest_logit: Largest absolute logit of the run.
        same_class: Images with the same best class.
        close_calls: Images whose two best logits differ by less than `margin`.
        disagreements: Files of the other images whose best class differs. There should be none.
        margin: See `close_calls`.
        resized: Images that the file resized; the others were resized by Pillow.
        grey_difference: Largest difference of a grey level of what the network sees of those.
        grey_share: Share of their grey levels that differ.
        megabytes: Size of the file, in 10⁶ bytes.
        milliseconds: Median time to classify 1 and 32 photos of one size, from pixels to logits,
            by the file and by the run.
    """

    split: str
    images: int
    top1_run: float
    top1_file: float
    logit_difference: float
    largest_logit: float
    same_class: int
    close_calls: int
    disagreements: list[str]
    margin: float
    resized: int
    grey_difference: float
    grey_share: float
    megabytes: float
    milliseconds: dict[int, tuple[float, float]]


def open_exported(file: Path) -> Exported:
    """Open an exported file.

    Raises:
        InputError: If there is no such file, or it is of another kind.
    """
    if not file.is_file():
        raise InputError(f"There is no exported file {file}.")
    if file.suffix not in KINDS:
        raise InputError(f"{file} should end in {' or '.join(KINDS)}: nothing else can be run.")
    return KINDS[file.suffix](file)


def measure_parity(run: TrainedRun, file: Path) -> Parity:
    """Compare an exported file with its run on all test images, or on the held-out ones.

    Raises:
        InputError: If the file is of another checkpoint, or there are no images.
        RunError: If the device runs out of memory.
    """
    exported = open_exported(file)
    if exported.about["checkpoint"] != run.provenance.hash:
        raise InputError(
            f"{file} was exported from another checkpoint ({exported.about['checkpoint']}) than "
            f"{run.checkpoint} ({run.provenance.hash}). Name that one with --checkpoint, or export "
            "again."
        )
    found = [split for split in ("test", "validation") if split in run.dataset.splits]
    if not found:
        raise InputError("The run has neither test nor held-out images to compare on.")
    bank = run.bank(found[0])
    theirs, differences = _classify_all(run, exported, bank.source)
    ours, labels = bank.logits, bank.labels
    second, best = np.sort(ours, axis=1)[:, -2:].T
    close = best - second < MARGIN
    same = ours.argmax(axis=1) == theirs.argmax(axis=1)
    names = bank.source.file_names
    return Parity(
        split=found[0],
        images=len(labels),
        top1_run=float((ours.argmax(axis=1) == labels).mean()),
        top1_file=float((theirs.argmax(axis=1) == labels).mean()),
        logit_difference=float(np.abs(ours - theirs).max()),
        largest_logit=float(np.abs(ours).max()),
        same_class=int(same.sum()),
        close_calls=int(close.sum()),
        disagreements=[names[row] for row in np.flatnonzero(~same & ~close)],
        margin=MARGIN,
        resized=len(differences),
        grey_difference=max(largest for largest, _ in differences),
        grey_share=float(np.mean([share for _, share in differences])),
        megabytes=file.stat().st_size / 1e6,
        milliseconds=_latency(run, exported, bank.source),
    )


def _classify_all(
    run: TrainedRun, exported: Exported, source: Source
) -> tuple[Float[np.ndarray, "N C"], list[tuple[float, float]]]:
    """Return the scores of all images, and how the grey levels differ of those it resizes."""
    logits, differences, sizes, data = [], [], set(), run.config.data
    least = least_side(data.decode, data.resize)  # as the run decodes them
    for index in tracked(range(len(source)), "Comparing with the run", len(source)):
        row = int(source.rows[index])
        photo = np.asarray(source.picture(row, least))
        if exported.most_sizes is None or len(sizes) < exported.most_sizes:
            sizes.add(photo.shape)
        if exported.most_sizes is None or photo.shape in sizes:
            difference = np.abs(exported.crops(photo) - run.pixels([photo]).astype(np.float32))
            differences.append((float(difference.max()), float((difference > 0).mean())))
        else:
            photo = source.pixels(row, data.resize, least=least)
        logits.append(exported.classify_one(photo))
    return np.concatenate(logits), differences


def _latency(run: TrainedRun, exported: Exported, source: Source) -> dict[int, tuple[float, float]]:
    """Return the times of the file and of the run for photos of one size."""
    photo = np.asarray(source.picture(int(source.rows[0])))

    def median(function: Callable[[Any], Any], count: int) -> float:
        photos: Any = np.stack([photo] * count)
        photos = list(photos) if function == run.logits else photos
        function(photos)  # compiles
        times = []
        for _ in range(_REPEATS):
            start = time.perf_counter()
            function(photos)
            times.append(time.perf_counter() - start)
        return 1000 * statistics.median(times)

    return {
        count: (median(exported.classify, count), median(run.logits, count)) for count in BATCHES
    }


def write_parity(parity: Parity, file: Path) -> Path:
    """Write the comparison next to an exported file, and return where it is.

    Raises:
        RunError: If it cannot be written.
    """
    path = file.with_name(f"{file.name}.parity.json")
    times = {str(count): list(pair) for count, pair in parity.milliseconds.items()}
    content = {**parity._asdict(), "milliseconds": times}
    write_atomically(path, json.dumps(content, indent=2) + "\n")
    return path


def parity_lines(parity: Parity) -> list[str]:
    """Return the comparison for a person."""
    lines = [
        f"  {parity.split} images           {parity.images:,}",
        f"  top-1                 {100 * parity.top1_file:.2f} % "
        f"(the run: {100 * parity.top1_run:.2f} %)",
        f"  same class            {parity.same_class:,} of {parity.images:,}; "
        f"{parity.close_calls:,} have a margin below {parity.margin:g}",
        f"  largest difference    {parity.logit_difference:.2g} of a logit "
        f"(logits up to {parity.largest_logit:.3g})",
        f"  resizing              {100 * parity.grey_share:.2g} % of the grey levels differ, by "
        f"{parity.grey_difference:g} at most ({parity.resized:,} images)",
        f"  size                  {parity.megabytes:.1f} MB",
    ]
    for count, (theirs, ours) in parity.milliseconds.items():
        lines.append(
            f"  {count:2} photo{'s' * (count > 1)}{' ' * (count == 1)}             "
            f"{theirs:.0f} ms (the run: {ours:.0f} ms)"
        )
    return lines


def check_parity(parity: Parity, file: Path) -> None:
    """Refuse a file that names photos differently, although the decision is not close.

    Raises:
        RunError: If so.
    """
    if parity.disagreements:
        raise RunError(
            f"{file} names {len(parity.disagreements)} images differently than the run, although "
            f"their margins are {parity.margin:g} or more: {quoted(parity.disagreements)}. Do not "
            "use it, and report this as a fault."
        )
