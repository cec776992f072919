"""Features and logits of every image of a split, computed once for each checkpoint."""

import io
import json
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from apinet_jax.data.pipeline import stream
from apinet_jax.data.source import Dataset, Source
from apinet_jax.inference import Classifier
from apinet_jax.setup.build import make_eval_loader
from apinet_jax.system.console import Bar, say
from apinet_jax.system.errors import RunError, explain_out_of_memory
from apinet_jax.system.mesh import make_mesh
from apinet_jax.system.paths import AnyPath, write_atomically

FOLDER = "answers"


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
    path = classifier.checkpoint.parents[1] / FOLDER / f"{classifier.step}-{split}.npz"
    key = json.dumps(
        [
            classifier.provenance.hash,
            dataset.fingerprint,
            bool(classifier.config.eval.flip),
            source.rows.tolist(),
        ]
    )
    if (stored := _stored(path, key)) is not None:
        return Bank(split, *stored, source)
    bank = _compute(classifier, dataset, split)
    _store(path, key, bank)
    return bank


def _compute(classifier: Classifier, dataset: Dataset, split: str) -> Bank:
    source, config = dataset.splits[split], classifier.config
    loader = make_eval_loader(config, source, dataset.fingerprint, make_mesh([classifier.device]))
    parts = []
    with (
        explain_out_of_memory("Try a lower eval.batch_size."),
        stream(loader, 0, loader.num_batches, config.data.workers) as batches,
        Bar(f"Describing {split} images", loader.num_batches) as bar,
    ):
        for batch in batches:
            parts.append(classifier.describe_pixels(batch.image))
            bar.advance()
    features, logits = (np.concatenate(some)[: len(source)] for some in zip(*parts, strict=True))
    return Bank(split, features, logits, source)


def _stored(
    path: AnyPath, key: str
) -> tuple[Float[np.ndarray, "N D"], Float[np.ndarray, "N C"]] | None:
    """Return stored features and logits; `None` if there are none of these images and weights."""
    if not path.exists():
        return None
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            if str(arrays["key"]) != key:
                return None
            return arrays["features"], arrays["logits"]
    except Exception as error:  # zipfile and numpy raise many kinds
        say(f"WARNING: {path} cannot be read ({error}); it is computed again.")
        return None


def _store(path: AnyPath, key: str, bank: Bank) -> None:
    """Write a bank; where the folder cannot be written, say that it is computed each time."""
    content = io.BytesIO()
    np.savez(content, key=key, features=bank.features, logits=bank.logits)
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{path.parent} cannot be created: {error.strerror}.") from error
        write_atomically(path, content.getvalue())
    except RunError as error:
        say(f"WARNING: {error} The features of the {bank.split} images are computed each time.")
