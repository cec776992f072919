"""The files of a report: the page, and a folder of tables next to it."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from apinet_jax.answers.audits.audit import Audit
from apinet_jax.answers.report.audit_section import render_audit
from apinet_jax.answers.report.gather import Report
from apinet_jax.answers.report.page import render_report
from apinet_jax.answers.report.tables import AUDIT_TABLES, Tables, audit_tables, report_tables
from apinet_jax.answers.trained_run import TrainedRun
from apinet_jax.data.source import Dataset
from apinet_jax.pretrained_trunk import PretrainedTrunk
from apinet_jax.system.errors import InputError, explain_failed_writes
from apinet_jax.system.paths import AnyPath, is_remote, write_atomically


class ReportFiles(NamedTuple):
    """What was written.

    Attributes:
        page: The HTML page.
        tables: The folder of CSV files.
        left_out: Pictures that the page has no room for.
    """

    page: AnyPath
    tables: AnyPath
    left_out: int


def write_report(report: Report, run: TrainedRun, page: AnyPath | None = None) -> ReportFiles:
    """Write a report; an older one is replaced.

    Args:
        report: The figures.
        run: The run, for photos and maps.
        page: The HTML file; `report.html` in the workdir by default. The tables are stored next to
            it in a folder of the same name with `-tables`.

    Raises:
        RunError: If a file cannot be written.
    """
    page = page or run.workdir / "report.html"
    return _write(page, lambda tables: render_report(report, run, tables), report_tables(report))


def write_audit(
    audit: Audit, dataset: Dataset, trunk: PretrainedTrunk, title: str, page: AnyPath
) -> ReportFiles:
    """Write the audit of a data set without a run; an older one is replaced.

    Args:
        audit: What `audit_dataset` found.
        dataset: The images.
        trunk: What computed their features.
        title: Heading of the page.
        page: The HTML file; the tables are stored as for `write_report`.

    Raises:
        RunError: If a file cannot be written.
    """
    return _write(
        page,
        lambda tables: render_audit(audit, dataset, trunk, title, tables),
        audit_tables(audit, dataset.class_names),
    )


def _write(
    page: AnyPath, render: Callable[[str], tuple[bytes, int]], tables: Tables
) -> ReportFiles:
    folder = page.parent / f"{page.stem}-tables"
    content, left_out = render(folder.name)
    write_tables(folder, tables)
    write_atomically(page, content)
    return ReportFiles(page, folder, left_out)


def write_tables(folder: AnyPath, tables: Tables) -> None:
    """Write CSV files into a folder, and remove other files of an older audit.

    Raises:
        RunError: If they cannot be written.
    """
    with explain_failed_writes(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, content in tables.items():
        write_atomically(folder / name, content)
    for name in set(AUDIT_TABLES) - set(tables):
        (folder / name).unlink(missing_ok=True)


def audit_lines(audit: Audit) -> Sequence[str]:
    """Return the counts of an audit for a person."""
    leaks = sum(pair.across_splits for pair in audit.near_duplicates)
    contradictions = sum(pair.across_classes for pair in audit.near_duplicates)
    return [
        f"  likely label errors   {audit.likely_errors:,} of {audit.images:,} images",
        f"  near-duplicates       {leaks:,} across splits, {contradictions:,} across classes",
    ]


def file_lines(files: ReportFiles) -> list[str]:
    """Return where the files are and how to open them, for a person."""
    lines = [f"  tables                {files.tables}", f"  page                  {files.page}"]
    if files.left_out:
        lines.append(f"{files.left_out:,} pictures are left out to keep the page small.")
    if not is_remote(files.page):
        lines.append(f"Open {files.page.absolute().as_uri()} in a browser.")
    return lines


def check_page(page: AnyPath) -> None:
    """Refuse a path that is not an HTML file.

    Raises:
        InputError: If so.
    """
    if page.is_dir() or page.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--out={page} is not an HTML file. Name one, as in --out=report.html.")
