r"""Says whether two photos show the same class, with a calibrated probability.

Examples:
  python -m apinet_jax compare runs/x one.jpg other.jpg --out=compared.png
  python -m apinet_jax compare runs/x one.jpg other.jpg --baseline=runs/softmax
  python -m apinet_jax compare runs/x --pairs pairs.csv --out compared.csv

Prints the probability that both photos show the same class, the class of each photo, and the score
behind the probability. It assumes that half of the pairs that you compare show the same class;
--prior sets another share. It is calibrated on held-out images: a run without any gives the score
only. The order of the two photos does not matter.

The picture shows both photos, the evidence for the class of each under its own gate and under its
partner's, and the five most active channels of each gate over both photos. --baseline shows another
run next to it, for instance the softmax run. A softmax run has no gates: its score is the agreement
of the plain probabilities.

FILE.csv has two columns, with the names of two photos in each line. A first line without a dot or a
slash is a header. The output is CSV; its first line, which starts with #, has the provenance. Lines
of unreadable photos are reported in the column `error`; the exit code is then 1.
"""

import argparse
import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np

from apinet_jax.answers.pairs.calibration import check_prior
from apinet_jax.answers.pairs.compare import Comparison, Files, compare_rows, read_files, shown
from apinet_jax.answers.pairs.maps import pair_maps
from apinet_jax.answers.pairs.picture import FORMATS, Side, draw_comparison
from apinet_jax.answers.photo_stream import warn_of_whole_photos
from apinet_jax.answers.prediction.rows import csv_line
from apinet_jax.answers.trained_run import TrainedRun, load
from apinet_jax.system.compilation_cache import enable_compilation_cache
from apinet_jax.system.console import print_result, say
from apinet_jax.system.errors import InputError, RunError
from apinet_jax.system.paths import local_path, to_path, write_atomically

PICTURE = "compare.png"
COLUMNS = (
    *("photo_1", "photo_2", "same", "score", "prior"),
    *("class_1", "probability_1", "class_2", "probability_2", "error"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("run", metavar="RUN", help="a workdir or the folder of a checkpoint")
    parser.add_argument("photos", nargs="*", metavar="PHOTO", help="two photos")
    parser.add_argument("--pairs", metavar="FILE.csv", help="many pairs, two names in each line")
    parser.add_argument(
        "--prior",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="share of pairs of the same class among those you compare (default: 0.5)",
    )
    parser.add_argument(
        "--out",
        type=local_path,
        metavar="FILE",
        help="the picture (png, jpg, pdf or svg; compare.png by default), or the CSV of --pairs",
    )
    parser.add_argument(
        "--baseline", metavar="RUN2", help="another run with the same classes, for the picture"
    )
    parser.add_argument("--checkpoint", metavar="WHICH", help="last, best or a step")
    parser.add_argument("--data-dir", metavar="FOLDER", help="where the run's photos are now")


def run(arguments: argparse.Namespace) -> None:
    """Compare photos and print the answer.

    Raises:
        InputError: If a photo of a single pair cannot be read, or an argument is wrong.
        RunError: If photos of `--pairs` cannot be read; the others were compared.
    """
    check_prior(arguments.prior)
    if arguments.pairs is not None and arguments.photos:
        raise InputError("Name two photos, or a file of pairs with --pairs, but not both.")
    if arguments.pairs is None and len(arguments.photos) != 2:
        raise InputError(
            f"Name two photos to compare, not {len(arguments.photos)}; or a file of pairs with "
            "--pairs."
        )
    out = arguments.out or (None if arguments.pairs is not None else local_path(PICTURE))
    if out is not None:
        _check_out(out, picture=arguments.pairs is None)
    if arguments.pairs is not None and arguments.baseline is not None:
        raise InputError("--baseline is for the picture of two photos. Leave it out with --pairs.")
    pairs = read_pairs(arguments.pairs) if arguments.pairs is not None else [arguments.photos]
    enable_compilation_cache()
    found = load(arguments.run, arguments.checkpoint, data_dir=arguments.data_dir)
    warn_of_whole_photos(found.config)
    if arguments.pairs is not None:
        _compare_many(found, pairs, arguments.prior, out)
        return
    baseline = None
    if arguments.baseline is not None:
        baseline = load(arguments.baseline, data_dir=arguments.data_dir)
        check_same_classes(found, baseline)
    _compare_two(found, baseline, arguments.photos, arguments.prior, out)


def _check_out(out: Path, *, picture: bool) -> None:
    """Refuse a place or a kind of file before anything is computed."""
    if not out.parent.is_dir():
        raise InputError(f"There is no folder {out.parent} for {out.name}.")
    if out.is_dir():
        raise InputError(f"{out} is a folder. Name a file with --out.")
    if picture and _kind(out) not in FORMATS:
        raise InputError(
            f"{out.name} is not a supported picture format. Choose one of: {', '.join(FORMATS)}."
        )


def _kind(out: Path) -> str:
    return out.suffix[1:].lower()


def check_same_classes(found: TrainedRun, baseline: TrainedRun) -> None:
    """Refuse a baseline with other classes.

    Raises:
        InputError: With the first class that only one of both has.
    """
    if found.class_names == baseline.class_names:
        return
    other = set(found.class_names) ^ set(baseline.class_names)
    differ = f"only one of them has the class '{min(other)}'" if other else "their order differs"
    raise InputError(
        f"The baseline {baseline.checkpoint} has other classes than {found.checkpoint}: {differ}. "
        "Name a run that was trained on the same photos."
    )


def read_pairs(name: str) -> list[list[str]]:
    """Return the two names in each line of a CSV file.

    Raises:
        InputError: If it cannot be read, has no pairs, or a line has not two columns.
    """
    try:
        text = to_path(name).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not a text file in UTF-8. Save it as CSV (UTF-8).") from error
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise InputError(f"{name}, line {reader.line_num}: {error}.") from error
    pairs = []
    for number, cells in rows:
        if not any(cells):
            continue
        if len(cells) != 2 or not all(cells):
            raise InputError(
                f"{name}, line {number}: {len(list(filter(None, cells)))} columns instead "
                "of two. Write the names of two photos, separated by a comma; put names that "
                "contain a comma in quotation marks."
            )
        pairs.append(cells)
    if pairs and not any(mark in cell for cell in pairs[0] for mark in "./\\"):
        del pairs[0]  # a header
    if not pairs:
        raise InputError(f"{name} has no pairs. Write the names of two photos in each line.")
    return pairs


def _compare_two(
    found: TrainedRun,
    baseline: TrainedRun | None,
    photos: Sequence[str],
    prior: float,
    out: Path,
) -> None:
    answer = found.compare(*photos, prior)
    lines = [
        *_provenance(found),
        *(
            f"{which:13} {name}: {label} {shown(probability)}"
            for which, name, (label, probability) in zip(
                ("photo 1", "photo 2"), photos, (answer.class_1, answer.class_2), strict=True
            )
        ),
        f"same class    {_same(answer)}",
        f"score         {answer.score:.4g}",
        f"calibration   {answer.calibration}",
    ]
    if baseline is not None:
        other_answer = baseline.compare(*photos, prior)
        lines.append(f"baseline      {_same(other_answer)}, score {other_answer.score:.4g}")
    try:
        other = baseline and Side(other_answer, pair_maps(baseline, photos))
        names = [PurePath(name).name for name in photos]
        side = Side(answer, pair_maps(found, photos))
        write_atomically(out, draw_comparison(side, names, other, _kind(out)))
        lines.append(f"picture       {out.absolute()}")
    finally:  # the file first, because standard output may be closed; the answer also without it
        print_result(lines)


def _same(answer: Comparison) -> str:
    if answer.same is None:
        return "unknown: not calibrated"
    return f"{shown(answer.same)} (assumes that {100 * answer.prior:g} % of pairs are)"


def _provenance(found: TrainedRun) -> list[str]:
    source = found.provenance
    kind = "API-Net" if found.has_gates else "softmax, without gates"
    return [
        f"checkpoint    {source.checkpoint} ({kind})",
        f"hash          {source.hash}, apinet_jax {source.version}, "
        f"temperature {source.temperature:.3g}",
    ]


def _compare_many(
    found: TrainedRun, pairs: list[list[str]], prior: float, out: Path | None
) -> None:
    files = read_files(found, (name for pair in pairs for name in pair))
    rows = [[files.rows[name] for name in pair] for pair in pairs if _is_readable(pair, files)]
    answers = compare_rows(
        found,
        lambda: found.pair_calibration,
        files.description,
        np.array(rows, int).reshape(-1, 2),
        prior,
    )
    if answers and answers[0].same is None:
        say(f"WARNING: the column `same` is empty. {answers[0].calibration}")
    provenance = {
        "program": "apinet_jax compare",
        **found.provenance._asdict(),
        "prior": prior,
        "calibration": answers[0].calibration if answers else None,
    }
    waiting = iter(answers)
    lines = [f"# {json.dumps(provenance)}", csv_line(COLUMNS)]
    for pair in pairs:
        if _is_readable(pair, files):
            cells = [*pair, *_cells(next(waiting)), None]
        else:
            reasons = [f"{name}: {files.reasons[name]}" for name in pair if name in files.reasons]
            cells = [*pair, *[None] * 7, "; ".join(dict.fromkeys(reasons))]
        lines.append(csv_line(cells))
    if out is None:
        print_result(lines)
    else:
        write_atomically(out, "\n".join(lines) + "\n")
        print_result([f"{len(answers):,} of {len(pairs):,} pairs compared: {out}"])
    if len(answers) < len(pairs):
        name, reason = next(iter(files.reasons.items()))
        raise RunError(
            f"{len(pairs) - len(answers):,} of {len(pairs):,} pairs have a photo that cannot be "
            f"read; see the column `error`. The first is {name}: {reason}."
        )


def _is_readable(pair: list[str], files: Files) -> bool:
    return all(name in files.rows for name in pair)


def _cells(answer: Comparison) -> list[float | str | None]:
    rounded = (None if one is None else float(f"{one:.6g}") for one in (answer.same, answer.score))
    classes = (
        cell
        for name, probability in (answer.class_1, answer.class_2)
        for cell in (name, float(f"{probability:.6g}"))
    )
    return [*rounded, answer.prior, *classes]
