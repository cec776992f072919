"""Random access to finished records."""

import hashlib
import json
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from apinet_jax.data.source import Dataset, Source


def open_records(name: str, builder: Any, windows_field: str = "windows") -> Dataset:
    """Open a prepared data set; `windows_field` names the windows in the metadata."""
    metadata = dict(builder.info.metadata.items())
    windows = metadata.get(windows_field)
    fingerprint = metadata["fingerprint"]
    if windows is not None:
        fingerprint += json.dumps(windows, sort_keys=True)
        fingerprint = hashlib.sha256(fingerprint.encode()).hexdigest()

    def split_source(split: str) -> Source | None:
        if split not in builder.info.splits:
            return None
        return open_splits(builder, [split], windows and windows[split])

    return Dataset(
        name=name,
        class_names=tuple(metadata["class_names"]),
        train=split_source("train"),
        validation=split_source("validation"),
        test=split_source("test"),
        fingerprint=fingerprint,
        skipped=tuple(file_name for file_name, _ in metadata.get("skipped", ())),
        changes=metadata.get("changes"),
    )


def open_splits(builder: Any, splits: list[str], windows: list[Any] | None = None) -> Source:
    """Open one or several splits as a single source."""
    metadata = builder.info.metadata
    split = "+".join(splits)
    labels = np.concatenate([np.array(metadata["labels"][one], np.int64) for one in splits])
    return Source(
        records=builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()}),
        rows=np.arange(len(labels)),
        labels=labels,
        file_names=tuple(name for one in splits for name in metadata["file_names"][one]),
        split=split,
        windows=None if windows is None else np.array(windows, np.int64),
    )
