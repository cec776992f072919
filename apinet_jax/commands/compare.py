r"""Says whether two photos show the same class, with a calibrated probability.

Examples:
  python -m apinet_jax compare runs/x one.jpg other.jpg
  python -m apinet_jax compare runs/x --pairs pairs.csv --out compared.csv

Prints the probability that both photos show the same class, the class of each photo, and the score
behind the probability. It assumes that half of the pairs that you compare show the same class;
--prior sets another share. It is calibrated on held-out images: a run without any gives the score
only. The order of the two photos does not matter.

FILE.csv has two columns, with the names of two photos in each line. A first line without a dot or a
slash is a header. Lines of unreadable photos are reported in the column `error`; the exit code is
then 1.
"""

import argparse
import csv
import io
from collections.abc import Iterator, Sequence

from apinet_jax.answers.compare import Comparison, compare_rows, read_photos
from apinet_jax.answers.pair_calibration import check_prior
from apinet_jax.answers.trained_run import TrainedRun, load
from apinet_jax.system.compilation_cache import enable_compilation_cache
from apinet_jax.system.console import print_result, say
from apinet_jax.system.errors import InputError, RunError
from apinet_jax.system.paths import local_path, to_path, write_atomically

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
    parser.add_argument("--out", type=local_path, metavar="FILE", help="the results of --pairs")
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
    if arguments.out is not None and not arguments.out.parent.is_dir():
        raise InputError(f"There is no folder {arguments.out.parent} for {arguments.out.name}.")
    pairs = read_pairs(arguments.pairs) if arguments.pairs is not None else [arguments.photos]
    enable_compilation_cache()
    found = load(arguments.run, arguments.checkpoint, data_dir=arguments.data_dir)
    if arguments.pairs is None:
        _compare_two(found, arguments)
    else:
        _compare_many(found, pairs, arguments)


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
    rows = csv.reader(io.StringIO(text, newline=""))
    pairs = []
    for row in rows:
        cells = [cell.strip() for cell in row]
        if not any(cells):
            continue
        if len(cells) != 2 or not all(cells):
            raise InputError(
                f"{name}, line {rows.line_num}: {len(list(filter(None, cells)))} columns instead "
                "of two. Write the names of two photos, separated by a comma; put names that "
                "contain a comma in quotation marks."
            )
        pairs.append(cells)
    if pairs and not any(mark in cell for cell in pairs[0] for mark in "./\\"):
        del pairs[0]  # a header
    if not pairs:
        raise InputError(f"{name} has no pairs. Write the names of two photos in each line.")
    return pairs


def _compare_two(found: TrainedRun, arguments: argparse.Namespace) -> None:
    names, answer = arguments.photos, found.compare(*arguments.photos, arguments.prior)
    print_result(
        [
            *_provenance(found),
            *(
                f"{which:13} {name}: {label} {probability:.2f}"
                for which, name, (label, probability) in zip(
                    ("photo 1", "photo 2"), names, (answer.class_1, answer.class_2), strict=True
                )
            ),
            f"same class    {_same(answer)}",
            f"score         {answer.score:.3f}",
            f"calibration   {answer.calibration}",
        ]
    )


def _same(answer: Comparison) -> str:
    if answer.same is None:
        return "unknown: not calibrated"
    return f"{answer.same:.2f} (assumes that {100 * answer.prior:g} % of pairs are)"


def _provenance(found: TrainedRun) -> list[str]:
    source = found.provenance
    kind = "API-Net" if found.has_gates else "softmax, without gates"
    return [
        f"checkpoint    {source.checkpoint} ({kind})",
        f"hash          {source.hash}, apinet_jax {source.version}, "
        f"temperature {source.temperature:.3g}",
    ]


def _compare_many(found: TrainedRun, pairs: list[list[str]], arguments: argparse.Namespace) -> None:
    photos = read_photos(found, [name for pair in pairs for name in pair])
    rows = photos.rows.reshape(-1, 2)
    readable = (rows >= 0).all(axis=1)
    answers = compare_rows(
        found, lambda: found.pair_calibration, photos.description, rows[readable], arguments.prior
    )
    say(*_provenance(found))
    if answers:
        uncalibrated = "" if answers[0].same is not None else "WARNING: column `same` is empty. "
        say(f"calibration   {uncalibrated}{answers[0].calibration}")
    text = _table(pairs, iter(answers), readable.tolist(), photos.errors)
    if arguments.out is None:
        print_result([text.rstrip("\n")])
    else:
        write_atomically(arguments.out, text)
        print_result([f"{len(answers):,} of {len(pairs):,} pairs compared: {arguments.out}"])
    if len(answers) < len(pairs):
        first = next(iter(photos.errors.values()))
        raise RunError(
            f"{len(pairs) - len(answers):,} of {len(pairs):,} pairs have a photo that cannot be "
            f"read; see the column `error`. The first: {first}"
        )


def _table(
    pairs: list[list[str]],
    answers: Iterator[Comparison],
    readable: Sequence[bool],
    errors: dict[int, str],
) -> str:
    """Return one line for each pair, readable or not, as CSV."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    for index, pair in enumerate(pairs):
        if readable[index]:
            writer.writerow([*pair, *_cells(next(answers)), ""])
        else:
            found = (errors.get(2 * index + side) for side in (0, 1))
            writer.writerow([*pair, *[""] * 7, " ".join(dict.fromkeys(filter(None, found)))])
    return table.getvalue()


def _cells(answer: Comparison) -> list[str]:
    same = "" if answer.same is None else f"{answer.same:.6g}"
    classes = (
        cell
        for name, probability in (answer.class_1, answer.class_2)
        for cell in (name, f"{probability:.6g}")
    )
    return [same, f"{answer.score:.6g}", f"{answer.prior:g}", *classes]
