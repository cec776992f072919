"""Features and logits of every image of a split, computed once for each checkpoint."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from apinet_jax.answers.cache import FOLDER, cached, run_key, write_cache
from apinet_jax.data.pipeline import stream_split
from apinet_jax.data.source import Dataset, Source
from apinet_jax.inference import Classifier
from apinet_jax.setup.loaders import make_eval_loader
from apinet_jax.system.console import Bar
from apinet_jax.system.errors import explain_out_of_memory
from apinet_jax.system.mesh import make_mesh


class Bank(NamedTuple):
    """A split as the network sees it.

    Attributes:
        split: `train`, `validation` or `test`.
        features: Pooled features of each image.
        logits: Scores of each image, as evaluation computes them.
        source: The images, in the same order, with `labels` and `file_names`.
    """

    split: str
    features: Float[np.ndarray, "N D"]
    logits: Float[np.ndarray, "N C"]
    source: Source

    @property
    def labels(self) -> Int[np.ndarray, " N"]:
        """True class of each image."""
        return self.source.labels


def read_bank(classifier: Classifier, dataset: Dataset, split: str) -> Bank:
    """Return the bank of a split, from the run's folder `answers/` where it was computed before.

    Raises:
        RunError: If the device runs out of memory.
    """
    source = dataset.splits[split]
    path = classifier.workdir / FOLDER / f"{classifier.step}-{split}.npz"
    key = run_key(classifier, source.rows.tolist())
    if (stored := cached(path, key)) is not None:
        return Bank(split, stored["features"], stored["logits"], source)
    bank = _compute(classifier, dataset, split)
    arrays = {"features": bank.features, "logits": bank.logits}
    write_cache(path, key, arrays, f"The features of the {split} images")
    return bank


def _compute(classifier: Classifier, dataset: Dataset, split: str) -> Bank:
    source, config = dataset.splits[split], classifier.config
    loader = make_eval_loader(config, source, dataset.fingerprint, make_mesh([classifier.device]))
    parts = []
    with (
        explain_out_of_memory("Try a lower eval.batch_size."),
        stream_split(loader, config.data.workers) as batches,
        Bar(f"Describing {split} images", loader.num_batches) as bar,
    ):
        for batch in batches:
            parts.append(classifier.describe_pixels(batch.image))
            bar.advance()
    features, logits = (np.concatenate(some)[: len(source)] for some in zip(*parts, strict=True))
    return Bank(split, features, logits, source)


def split_pixels(
    classifier: Classifier, source: Source, indices: Int[np.ndarray, " M"]
) -> UInt8[np.ndarray, "M H W 3"]:
    """Return what the network sees of some images of a split."""
    rows = source.rows[indices].tolist()
    windows = None if source.windows is None else [source.window(row) for row in rows]
    return classifier.pixels([source.read_record(row) for row in rows], windows=windows)
