"""The figures of one run, gathered for its report."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from apinet_jax.answers.audits.audit import Audit
from apinet_jax.answers.bank import Bank
from apinet_jax.answers.report import figures
from apinet_jax.answers.trained_run import TrainedRun
from apinet_jax.data.decoding import stored_size
from apinet_jax.data.records.walk import escaped
from apinet_jax.data.source import Source
from apinet_jax.inference import Provenance
from apinet_jax.method.calibration import softmax
from apinet_jax.system.console import tracked
from apinet_jax.system.errors import InputError, RunError
from apinet_jax.system.paths import to_path
from apinet_jax.workdir.metrics_log import read_rows


class Slices(NamedTuple):
    """Accuracy of parts of the images; each part has its least and its greatest value.

    Attributes:
        size: By the pixels of an image, or of its window.
        training_images: By the training images of its class.
    """

    size: list[tuple[float, float, figures.Share]]
    training_images: list[tuple[float, float, figures.Share]]


class Report(NamedTuple):
    """What a run can and cannot do, on one split.

    Attributes:
        provenance: Where the answers come from.
        method: `API-Net` or `softmax`.
        trunk: Name of the trunk.
        data: Name of the data set, its fingerprint, and images per split.
        class_names: Names of the classes, exactly.
        bank: The reported split.
        probability: Calibrated probabilities of its images.
        loss: Negative log-probability of the true class of each image.
        headline: Accuracies.
        bins: Reliability at temperature 1, and at the run's.
        coverage: Accuracy of the surest images.
        classes: A row for each class.
        training_images: Training images of each class.
        pairs: Confused pairs, the most frequent first.
        slices: Accuracy of parts of the images.
        curves: Rows of `metrics.jsonl`; empty if the file is missing.
        audit: Suspicious images; `None` if it was left out.
    """

    provenance: Provenance
    method: str
    trunk: str
    data: dict[str, Any]
    class_names: tuple[str, ...]
    bank: Bank
    probability: Float[np.ndarray, "N C"]
    loss: Float[np.ndarray, " N"]
    headline: figures.Headline
    bins: tuple[list[figures.Bin], list[figures.Bin]]
    coverage: list[tuple[float, figures.Share]]
    classes: list[figures.ClassFigures]
    training_images: Int[np.ndarray, " C"]
    pairs: list[figures.ConfusedPair]
    slices: Slices
    curves: list[dict[str, Any]]
    audit: Audit | None


def make_report(run: TrainedRun, *, audit: bool = True) -> Report:
    """Compute the figures of a run on its test images, or on the held-out ones without any.

    Args:
        run: The run.
        audit: Whether to search all images for errors; it describes the training images too.

    Raises:
        InputError: If the photos cannot be opened, or there are no images to report on.
        RunError: If scores are not finite, or the device runs out of memory.
    """
    dataset = run.dataset
    split = "test" if dataset.test is not None else "validation"
    if split not in dataset.splits:
        raise InputError(
            f"The run {run.workdir} has neither test nor held-out images to report "
            "on. Train with data.val_fraction=0.1, or with photos in test/."
        )
    bank = run.bank(split)
    if not np.isfinite(bank.logits).all():
        raise RunError(
            f"The network gives scores that are not finite: {run.checkpoint} cannot be reported "
            "on. Name an earlier checkpoint with --checkpoint."
        )
    probability, labels = softmax(bank.logits, run.temperature), bank.labels
    correct = probability.argmax(axis=1) == labels
    training_images = np.bincount(dataset.train.labels, minlength=len(run.class_names))
    return Report(
        provenance=run.provenance,
        method="API-Net" if run.has_gates else "softmax",
        trunk=run.config.model.trunk,
        data={
            "name": _name(dataset.name, run.config.data.dir),
            "fingerprint": dataset.fingerprint,
            "images": {name: len(source) for name, source in dataset.splits.items()},
        },
        class_names=run.class_names,
        bank=bank,
        probability=probability,
        loss=figures.losses(probability, labels),
        headline=figures.headline(bank.logits, labels, run.temperature),
        bins=(
            figures.reliability(softmax(bank.logits), labels),
            figures.reliability(probability, labels),
        ),
        coverage=figures.coverage(probability, labels),
        classes=figures.class_table(probability, labels),
        training_images=training_images,
        pairs=figures.confused_pairs(probability, labels),
        slices=Slices(
            size=figures.by_terciles(_areas(bank.source), correct),
            training_images=figures.by_terciles(training_images[labels].astype(float), correct),
        ),
        curves=read_rows(run.workdir / "metrics.jsonl"),
        audit=run.audit() if audit else None,
    )


def _areas(source: Source) -> Float[np.ndarray, " N"]:
    """Return the pixels of each image, or of its window."""

    def area(index: int) -> int:
        window = source.window(int(source.rows[index]))
        width, height = stored_size(source.read(index)) if window is None else window[2:]
        return width * height

    indices = tracked(range(len(source)), "Reading sizes", len(source))
    return np.array([area(index) for index in indices], float)


def _name(name: str, folder: str | None) -> str:
    """Return the name of a data set; for photos of a user, their folder's name."""
    return escaped(to_path(folder).name) or name if name == "folder" and folder else name
