"""Random access to the encoded images of a prepared data set.

Labels and file names come from the builder's metadata; records are read only when they are needed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from apinet_jax.data.decoding import decode
from apinet_jax.data.records.walk import quoted
from apinet_jax.data.transforms import Part, to_pixels
from apinet_jax.system.errors import RunError


@dataclass(frozen=True, eq=False)
class Source:
    """The images of one split, or of a part of it; pickles without its open files.

    Attributes:
        records: TFDS's random-access reader of the complete split; it opens its files lazily.
        rows: Record of each image.
        labels: Class of each image.
        file_names: File of each image.
        split: Name of the split that `records` reads.
        windows: The part of each record's picture to use, as x, y, width and height in pixels;
            `None` for complete pictures.
    """

    records: Any
    rows: Int[np.ndarray, " N"]
    labels: Int[np.ndarray, " N"]
    file_names: tuple[str, ...]
    split: str
    windows: Int[np.ndarray, "R 4"] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int) -> bytes:
        """Return the encoded file of one image, unchanged."""
        return self.read_record(int(self.rows[index]))

    def read_record(self, row: int) -> bytes:
        """Return the encoded file of a record of the complete split.

        Raises:
            RunError: The records are damaged or missing.
        """
        try:
            return self.records[row]["image"]
        except (OSError, RuntimeError) as error:  # array_record turns OSError into RuntimeError
            folder = self.records.dataset_info.data_dir
            raise RunError(
                f"Record {row} of {self.split} in {folder} cannot be read ({error}). Delete that "
                "folder; the next command prepares it again."
            ) from error

    def window(self, row: int) -> tuple[int, int, int, int] | None:
        """Return the part of a record's picture to use: x, y, width, height; `None` for all."""
        return None if self.windows is None else tuple(self.windows[row].tolist())

    def picture(self, row: int, least: int | None = None) -> Image.Image:
        """Decode a record of the complete split, cut to its window.

        Args:
            row: The record.
            least: See `decode`; of no effect with windows, which are in pixels of full size.

        Raises:
            ValueError: If it cannot be decoded.
        """
        if (window := self.window(row)) is None:
            return decode(self.read_record(row), least)
        x, y, width, height = window
        return decode(self.read_record(row)).crop((x, y, x + width, y + height))

    def pixels(
        self, row: int, size: int, part: Part | None = None, least: int | None = None
    ) -> UInt8[np.ndarray, "H W 3"]:
        """Return the resized pixels of a record of the complete split, or a part of them.

        Args:
            row: The record.
            size: Height and width after resizing.
            part: What to return; all of it by default.
            least: As for `picture`.

        Raises:
            ValueError: If it cannot be decoded.
        """
        window = self.window(row)
        image = decode(self.read_record(row), least if window is None else None)
        return to_pixels(image, window, size, part)

    def subset(self, indices: Int[np.ndarray, " M"]) -> "Source":
        """Return a view of some images, in the given order."""
        return replace(
            self,
            rows=self.rows[indices],
            labels=self.labels[indices],
            file_names=tuple(self.file_names[index] for index in indices),
        )


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set with its splits.

    Attributes:
        name: The name it was opened by.
        class_names: Name of each label.
        train: Training images.
        validation: Images for choosing a model; None until some are held out.
        test: Test images, if any exist.
        fingerprint: SHA-256 over split, file name, label and bytes of every record, and over the
            windows if there are any, so that copies of the same files agree. Drawn data sets name
            version, seed and counts.
        skipped: Unreadable files that were left out on request.
        changes: What distinguishes the files from those of the previous preparation: its
            `fingerprint`, and names that were `removed`, `added` and `changed`.
    """

    name: str
    class_names: tuple[str, ...]
    train: Source
    validation: Source | None
    test: Source | None
    fingerprint: str
    skipped: tuple[str, ...] = ()
    changes: Mapping[str, Any] | None = None

    @property
    def splits(self) -> dict[str, Source]:
        """The splits that exist, by name."""
        found = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: source for name, source in found.items() if source is not None}

    def changes_since(self, fingerprint: str) -> str:
        """Return which files changed since a fingerprint was taken; empty if that is unknown."""
        if self.changes is None or self.changes["fingerprint"] != fingerprint:
            return ""
        kinds = (kind for kind in ("removed", "added", "changed") if self.changes[kind])
        return "; ".join(
            f"{len(self.changes[kind]):,} {kind}: {quoted(self.changes[kind])}" for kind in kinds
        )
