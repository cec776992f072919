"""Preparation of records: checked images are written into array_record through TFDS, once.

Records are prepared in a separate folder and moved into place by an atomic rename. A preparation
that is killed leaves only an `incomplete.*` folder, safe to delete, and the previous records stay
until the new ones are complete.
"""

import hashlib
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from absl import logging

from apinet_jax.data.records.scan import (
    Checked,
    Entry,
    Scan,
    check_images,
    fingerprint,
    unreadable_error,
    warn_of_copies,
)
from apinet_jax.data.records.walk import escaped
from apinet_jax.system.console import say, tracked
from apinet_jax.system.errors import InputError, RunError

_RECORDS_PER_FILE = 8192
_DIGEST_DIGITS = 16  # hexadecimal digits of a file's SHA-256 that the metadata keep


class LocalInfo(tfds.core.DatasetInfo):
    """TFDS's description of a data set that no server knows."""

    def initialize_from_bucket(self) -> None:
        """Do nothing, where TFDS would leave an empty temporary folder behind each time."""


class EncodedImages(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """TFDS builder whose records are files as they were found: no pixel is ever re-encoded.

    `info.metadata` holds `class_names`, `labels`, `file_names`, `image_ids`, `digests`, `boxes`
    and `windows` (lists for each split, in record order; the last two `null` if the data set has
    none), `fingerprint`, `listing`, `skipped`, `need_boxes`, `place` and `changes` (since the
    records that these replaced, `null` for the first).
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, checked: Checked | None = None, listing: str = "", **options: Any):
        self._checked = checked
        self._listing = listing
        self.changes: dict[str, Any] | None = None
        super().__init__(file_format="array_record", **options)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(),
            "file_name": tfds.features.Text(),
        }
        return LocalInfo(
            builder=self,
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        checked = self._checked
        splits = defaultdict(list)
        for entry, sha in zip(checked.entries, checked.digests, strict=True):
            splits[entry.split].append((entry, sha))

        def column(field: str) -> dict[str, list[Any]]:
            return {
                split: [getattr(entry, field) for entry, _ in rows]
                for split, rows in splits.items()
            }

        def all_have(field: str) -> bool:
            return all(getattr(entry, field) is not None for entry in checked.entries)

        self.info.features["label"].names = checked.class_names
        self.info.metadata.update(
            class_names=checked.class_names,
            labels=column("label"),
            file_names=column("file_name"),
            image_ids=column("image_id"),
            digests={
                split: [sha[:_DIGEST_DIGITS] for _, sha in rows] for split, rows in splits.items()
            },
            boxes=column("box") if all_have("box") else None,
            windows=column("window") if all_have("window") else None,
            fingerprint=fingerprint(checked),
            listing=self._listing,
            skipped=checked.skipped,
            need_boxes=checked.need_boxes,
            place=str(checked.place),
            changes=self.changes,
        )
        return {split: self._generate_examples(split, rows) for split, rows in splits.items()}

    def _generate_examples(
        self, split: str, rows: list[tuple[Entry, str]]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        writing = tracked(rows, f"Writing {split} images", len(rows))
        for index, (entry, sha) in enumerate(writing):
            data = entry.read()
            if hashlib.sha256(data).hexdigest() != sha:
                raise InputError(
                    f"{entry.file_name} changed while it was being prepared. Run the command "
                    "again when nothing writes to the data set."
                )
            yield index, {"image": data, "label": entry.label, "file_name": entry.file_name}

    def write(self) -> None:
        """Write all records into `data_dir`, one after the other.

        `download_and_prepare` would sort them first, through temporary files that TFDS writes with
        TensorFlow as soon as a split exceeds 1 GB. They are sorted already.
        """
        Path(self.data_dir).mkdir(parents=True)
        writer = tfds.core.SequentialWriter(
            self.info, max_examples_per_shard=_RECORDS_PER_FILE, file_format="array_record"
        )
        splits = self._split_generators(None)
        writer.initialize_splits(list(splits))
        for split, examples in splits.items():
            writer.add_examples({split: (example for _, example in examples)})
        writer.close_all()


def ensure_prepared(
    builder_class: type[EncodedImages],
    root: Path,
    listing: Callable[[], str | None],
    scan: Callable[[], AbstractContextManager[Scan]],
    skip_unreadable: bool,
    need_boxes: bool = False,
    **options: Any,
) -> EncodedImages:
    """Return a builder whose records are complete and up to date.

    Args:
        builder_class: Builder of the data set.
        root: TFDS's root folder.
        listing: Returns the digest of the files on disk; None accepts any finished preparation.
        scan: Opens the files of the data set; called only when records have to be written. It may
            download them first.
        skip_unreadable: Leave unreadable images out instead of raising.
        need_boxes: Replace existing records that have no boxes.
        **options: Further arguments of the builder.

    Raises:
        InputError: Images are unreadable, or `root` has a name that array_record cannot open.
        RunError: The records cannot be written.
    """
    if (name := escaped(str(root))) != str(root):
        raise InputError(
            f"Records cannot be stored in {name}, whose name is not UTF-8. Set TFDS_DATA_DIR to "
            "another folder."
        )
    make = partial(_construct, builder_class, **options)
    builder = _current(make, root, listing(), need_boxes)
    if builder is None:
        with explain_failed_preparation(root):
            root.mkdir(parents=True, exist_ok=True)
            with scan() as found:
                checked = check_images(found, skip_unreadable)
                warn_of_copies(checked)
                _write(make, root, checked, found.listing, need_boxes)
        builder = make(data_dir=root)
    skipped = builder.info.metadata["skipped"]
    if skipped and not skip_unreadable:
        raise unreadable_error(Path(builder.info.metadata["place"]), map(tuple, skipped))
    if skipped:
        say(
            f"Left out {len(skipped)} unreadable image file(s); "
            f"{builder.data_dir}/metadata.json lists them."
        )
    return builder


def _construct(builder_class: type[EncodedImages], **options: Any) -> EncodedImages:
    """Build without TFDS's warning that it does not ship this configuration."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        return builder_class(**options)
    finally:
        logging.set_verbosity(verbosity)


def _current(
    make: Callable[..., EncodedImages],
    root: Path,
    listing: str | None,
    need_boxes: bool,
    report: Callable[[str], None] = say,
) -> EncodedImages | None:
    """Open existing records; return `None` if they are missing, damaged or out of date."""
    try:
        builder = make(data_dir=root)
        # TFDS warns when it is asked about a folder that does not exist.
        if not (builder.data_path.exists() and builder.is_prepared()):
            return None
        metadata = builder.info.metadata
        prepared_from = metadata["listing"]
        shards = [Path(path) for split in builder.info.splits.values() for path in split.filepaths]
    except Exception as error:  # TFDS fails in almost any way on a damaged file
        report(f"The records under {root} cannot be read ({error}); they are prepared again.")
        return None
    if not all(path.exists() and path.stat().st_size for path in shards):
        report(f"Records are missing in {builder.data_dir}; they are prepared again.")
        return None
    if need_boxes and metadata.get("boxes") is None:
        return None
    # Some may have been left out only because of their box.
    if metadata.get("need_boxes") and metadata["skipped"] and not need_boxes:
        return None
    return builder if listing in (None, prepared_from) else None


def _write(
    make: Callable[..., EncodedImages],
    root: Path,
    checked: Checked,
    listing: str | None,
    need_boxes: bool,
) -> None:
    """Prepare in a separate folder, then move the finished records into place."""
    with tempfile.TemporaryDirectory(prefix="incomplete.", dir=root) as staging:
        staged = make(checked=checked, listing=listing or "", data_dir=staging)
        finished = Path(staged.data_dir)
        final = root / finished.relative_to(staging)
        staged.changes = _changes(final / "metadata.json", checked)
        staged.write()
        final.parent.mkdir(parents=True, exist_ok=True)
        try:
            finished.rename(final)
        except OSError:  # records exist: out of date, or another process was faster
            if _current(make, root, listing, need_boxes, report=logging.debug) is None:
                final.rename(Path(staging) / "replaced")
                finished.rename(final)


def _changes(path: Path, checked: Checked) -> dict[str, Any] | None:
    """Compare the images with the metadata of the records that they replace."""
    try:
        before = json.loads(path.read_text())
        old = {
            name: digest
            for split, names in before["file_names"].items()
            for name, digest in zip(names, before["digests"][split], strict=True)
        }
        if before["fingerprint"] == fingerprint(checked):
            return before["changes"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None  # there are none, or they are damaged or of an earlier version
    new = {
        entry.file_name: sha[:_DIGEST_DIGITS]
        for entry, sha in zip(checked.entries, checked.digests, strict=True)
    }
    return {
        "fingerprint": before["fingerprint"],
        "removed": sorted(old.keys() - new.keys()),
        "added": sorted(new.keys() - old.keys()),
        "changed": sorted(name for name in old.keys() & new.keys() if old[name] != new[name]),
    }


@contextmanager
def explain_failed_preparation(root: Path) -> Iterator[None]:
    """Turn a write that the disk refused into one message.

    Raises:
        RunError: For an `OSError`, or the `RuntimeError` that array_record makes of it.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise RunError(
            f"Could not prepare the data set under {root}: {error}. Nothing half-written is kept. "
            "Check space and permissions, or set TFDS_DATA_DIR to another folder."
        ) from error
