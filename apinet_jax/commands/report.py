"""Writes the report of a run: one HTML page, and the same numbers as CSV files.

The page shows accuracy with its interval, calibration, the classes that are confused and why, the
hardest images, and an audit of the data: likely label errors, near-duplicates across splits and
classes, outliers. It needs no network and no other file, so it can be sent to anybody.

Examples:
  RUN/report.html and the folder RUN/report-tables:
  python -m apinet_jax report runs/birds

  another file, for photos that were moved:
  python -m apinet_jax report runs/birds --out=birds.html --data-dir=PHOTOS

The figures describe the test images, or the held-out images if no test images exist.
"""

import argparse

from apinet_jax.system.console import print_result
from apinet_jax.system.paths import AnyPath, to_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("run", metavar="RUN", help="a workdir, or the folder of one checkpoint")
    parser.add_argument(
        "--checkpoint", help="last, best or a step; by default the one that the run chose"
    )
    parser.add_argument(
        "--data-dir", metavar="FOLDER", help="where the photos of the run are stored now"
    )
    parser.add_argument("--out", metavar="FILE.html", help="the page; RUN/report.html by default")
    parser.add_argument(
        "--no-audit",
        action="store_true",
        help="skip the audit, which computes features of all training images",
    )


def run(arguments: argparse.Namespace) -> None:
    """Write the report and print its main figures.

    Raises:
        InputError: If the run, its photos or the images to report on are missing.
        RunError: If a file cannot be written, or the device runs out of memory.
    """
    from apinet_jax.answers.report.files import check_page
    from apinet_jax.system.compilation_cache import enable_compilation_cache

    out = to_path(arguments.out) if arguments.out else None
    if out is not None:
        check_page(out)
    enable_compilation_cache()
    write(
        arguments.run,
        arguments.checkpoint,
        data_dir=arguments.data_dir,
        out=out,
        audit=not arguments.no_audit,
    )


def write(
    run: AnyPath | str,
    checkpoint: str | None = None,
    *,
    data_dir: str | None = None,
    out: AnyPath | None = None,
    audit: bool = True,
) -> None:
    """Write the report of a run, print its main figures and where to open it; see `run`."""
    from apinet_jax.answers.report.files import audit_lines, file_lines, write_report
    from apinet_jax.answers.report.gather import make_report
    from apinet_jax.answers.report.html import SPLITS
    from apinet_jax.answers.trained_run import load

    trained = load(run, checkpoint, data_dir=data_dir)
    report = make_report(trained, audit=audit)
    files = write_report(report, trained, out)
    figures = report.headline
    low, high = figures.interval
    lines = [
        f"Report on {figures.images:,} {SPLITS[report.bank.split]} images, step {trained.step}",
        f"  top-1                 {100 * figures.top1:.2f} % "
        f"(95 % interval {100 * low:.1f} to {100 * high:.1f} %)",
        f"  mean over classes     {100 * figures.macro:.2f} %",
        f"  calibration error     {100 * figures.ece_scaled:.2f} %",
        *(audit_lines(report.audit) if report.audit else ()),
    ]
    print_result([*lines, *file_lines(files)])
