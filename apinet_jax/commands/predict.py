"""Names photos: the most probable classes of each, with calibrated probabilities.

PHOTOS are files, folders (read as training reads them), patterns in quotes, addresses in buckets
(gs://), or - for a list on standard input. An unreadable photo appears in the output with the
reason; the others are named, and the exit code is 1. If the photos are in class folders, the
accuracy is printed too.

The output starts with its provenance. With --out a job that was interrupted continues where it
stopped when the same command runs again; photos that could not be read are tried again.

Examples:
  python -m apinet_jax predict runs/x photos/ --out names.csv

  a list, and only the species of a region:
  find photos -name '*.jpg' | python -m apinet_jax predict runs/x - --only region.txt

  name the genus or the family where the species is not sure:
  python -m apinet_jax predict runs/x photos/ --taxonomy taxonomy.csv --confidence 0.9

  say "unknown" where a photo shows none of the classes, and use classes added by `gallery`:
  python -m apinet_jax predict runs/x photos/ --unknown --false-alarms 0.05 --gallery

  what is wrong:
  python -m apinet_jax predict runs/x DATA/test --show mistakes
"""

import argparse
import hashlib
import os
import sys
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from apinet_jax.answers.class_names import normal
from apinet_jax.answers.photo_stream import warn_of_whole_photos
from apinet_jax.answers.prediction.file import PredictionFile
from apinet_jax.answers.prediction.naming import Naming
from apinet_jax.answers.prediction.photo_list import LIST, NamedPhoto, list_photos
from apinet_jax.answers.prediction.predict import predict_rows
from apinet_jax.answers.prediction.rows import FORMATS, check_parquet
from apinet_jax.answers.prediction.table import PrintedLines, PrintedTable, Tally, is_shown
from apinet_jax.answers.trained_run import TrainedRun, load
from apinet_jax.answers.unknown.open_world import OpenWorld
from apinet_jax.commands.naming_flags import (
    add_naming_flags,
    check_naming_flags,
    find_taxonomy,
    read_naming,
)
from apinet_jax.commands.open_world_flags import add_open_world_flags, read_open_world
from apinet_jax.data.records.walk import escaped
from apinet_jax.system.compilation_cache import enable_compilation_cache
from apinet_jax.system.console import Bar, print_result, results_are_lost, say
from apinet_jax.system.errors import InputError, Interrupted, RunError
from apinet_jax.system.paths import AnyPath, local_path
from apinet_jax.system.signals import stop_requests


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("run", metavar="RUN", help="a workdir or the folder of a checkpoint")
    parser.add_argument("photos", nargs="+", metavar="PHOTOS", help="files, folders, patterns, -")
    parser.add_argument("--checkpoint", help="last, best or a step; by default the run's choice")
    parser.add_argument("--data-dir", metavar="FOLDER", help="where the run's photos are now")
    parser.add_argument("--format", choices=FORMATS, help="by the suffix of --out, else a table")
    parser.add_argument(
        "--out", type=local_path, metavar="FILE", help="a .csv, .jsonl or .parquet file"
    )
    parser.add_argument("--top", type=int, default=5, metavar="K", help="classes to list (5)")
    add_naming_flags(parser)
    add_open_world_flags(parser)
    parser.add_argument(
        "--show", choices=("mistakes", "unsure"), help="only wrong answers, or those below P"
    )
    parser.add_argument(
        "--flip",
        action=argparse.BooleanOptionalAction,
        help="average with mirror images; as the run's evaluation by default",
    )
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="photos at once; as in the run's evaluation"
    )


def run(arguments: argparse.Namespace) -> None:
    """Name photos.

    Raises:
        InputError: If there is no such run, photo or class, or the taxonomy misses classes.
        RunError: If photos cannot be read; the others were named. Or if the output cannot be
            written.
        Interrupted: After SIGTERM or Ctrl-C, when the current batch is written.
    """
    kind = _format(arguments)
    lines = sys.stdin.buffer.read() if LIST in arguments.photos else None
    photos = list_photos(arguments.photos, lines)
    enable_compilation_cache()
    classifier = load(arguments.run, arguments.checkpoint, data_dir=arguments.data_dir)
    if arguments.flip not in (None, bool(classifier.config.eval.flip)):
        classifier.config.eval.flip = arguments.flip
        if classifier.temperature != 1:
            say(
                "NOTE: the temperature was fitted "
                f"{'without' if arguments.flip else 'with'} mirror images: the probabilities are "
                "less well calibrated."
            )
    taxonomy = find_taxonomy(arguments.taxonomy, classifier)
    world = read_open_world(arguments, classifier)
    naming = read_naming(arguments, classifier, world, taxonomy)
    if arguments.show == "mistakes":
        _check_labelled(photos, naming)
    provenance = _provenance(arguments, classifier, naming, world, taxonomy)
    _report_limits(classifier, world)
    tally = _predict(arguments, kind, classifier, photos, naming, world, provenance)
    if results_are_lost():
        return
    if summary := tally.lines([level.name for level in naming.levels]):
        if arguments.out is None and kind != "table":
            say(*summary)  # standard output has the rows
        else:
            print_result([*([""] if kind == "table" else []), *summary])
    if tally.unreadable:
        raise RunError(
            f"{tally.unreadable:,} of {tally.photos:,} photos cannot be read. The output has the "
            "reason of each."
        )


def _predict(
    arguments: argparse.Namespace,
    kind: str,
    classifier: TrainedRun,
    photos: Sequence[NamedPhoto],
    naming: Naming,
    world: OpenWorld,
    provenance: dict[str, Any],
) -> Tally:
    """Write the rows of all photos that the output does not have yet; count all."""
    out, tally = arguments.out, Tally()
    if out is not None:
        output = PredictionFile(out, kind, provenance, tally.add)
    else:
        output = (PrintedTable if kind == "table" else PrintedLines)(kind, provenance)
    with output, stop_requests() as check_signals:
        left = [photo for photo in photos if escaped(photo.path) not in output.done]
        if output.done:
            say(f"{out} has {len(photos) - len(left):,} of the {len(photos):,} photos already.")
        batches = predict_rows(classifier, left, naming, arguments.top, arguments.batch_size, world)
        # A generator that is closed stops its threads.
        with closing(batches), Bar("Naming photos", len(photos), len(photos) - len(left)) as bar:
            for rows in batches:
                for row in rows:
                    tally.add(row)
                    bar.advance()
                output.write([row for row in rows if is_shown(row, arguments.show, naming)])
                if out is None and results_are_lost():
                    break
                try:
                    check_signals()
                except Interrupted:
                    if out is not None:
                        say(f"{tally.photos:,} photos are in {out}. The same command continues.")
                    raise
        output.finish()
    return tally


def _format(arguments: argparse.Namespace) -> str:
    """Return the format of the output, after checking the arguments."""
    for name in ("top", "batch_size"):
        if (value := getattr(arguments, name)) is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} = {value}: name 1 or more.")
    check_naming_flags(arguments)
    out, kind = arguments.out, arguments.format
    if out is None:
        if kind == "parquet":
            raise InputError("Parquet is written to a file: name it with --out.")
        return kind or "table"
    suffix = out.suffix.lower().removeprefix(".")
    kind = kind or (suffix if suffix in FORMATS else None)
    if kind in (None, "table"):
        raise InputError(
            f"{out} would be a table, which cannot be continued. Name a .csv, .jsonl or .parquet "
            "file, or another --format."
        )
    if kind == "parquet":
        check_parquet()
    return kind


def _check_labelled(photos: Sequence[NamedPhoto], naming: Naming) -> None:
    label_of = {normal(name): label for label, name in enumerate(naming.class_names)}
    if all(photo.true_label(label_of) is None for photo in photos):
        raise InputError(
            "--show mistakes needs photos whose class is known: none of them is in a folder with "
            f"the name of a class, as {naming.class_names[0]}/."
        )


def _provenance(
    arguments: argparse.Namespace,
    classifier: TrainedRun,
    naming: Naming,
    world: OpenWorld,
    taxonomy: AnyPath | None,
) -> dict[str, Any]:
    """Return where the answers come from, and every setting that changes them."""
    allowed = naming.allowed
    return {
        "program": "apinet_jax predict",
        **classifier.provenance._asdict(),
        "classes": len(naming.class_names),
        "flip": bool(classifier.config.eval.flip),
        "only": None if allowed is None else [naming.class_names[label] for label in allowed],
        "taxonomy": taxonomy and hashlib.sha256(taxonomy.read_bytes()).hexdigest()[:12],
        "confidence": naming.confidence,
        **world.provenance(),
        "top": min(arguments.top, len(naming.class_names if allowed is None else allowed)),
        "show": arguments.show,
        "folder": escaped(os.getcwd()),  # of relative paths
    }


def _report_limits(classifier: TrainedRun, world: OpenWorld) -> None:
    """Print what the answers are not."""
    if classifier.temperature == 1:
        say(
            "NOTE: the probabilities are not calibrated: this checkpoint has no temperature. Hold "
            "images out (data.val_fraction) to fit one at the end of training."
        )
    if world.means is not None and not world.means.fitted:
        say(
            "NOTE: the probabilities of the gallery's classes are not calibrated: the run has no "
            "held-out images."
        )
    warn_of_whole_photos(classifier.config)
