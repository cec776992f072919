"""The numbers of a report as CSV files, with exact class and file names."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from apinet_jax.answers.audits.audit import Audit, Image
from apinet_jax.answers.report.figures import Share
from apinet_jax.answers.report.gather import Report

Tables = dict[str, bytes]
AUDIT_TABLES = ("label_errors.csv", "near_duplicates.csv", "outliers.csv")


def report_tables(report: Report) -> Tables:
    """Return the content of each CSV file by its name: shares from 0 to 1, `.` for decimals."""
    names, labels = report.class_names, report.bank.labels
    predicted = report.probability.argmax(axis=1)
    tables = {
        "summary.csv": _csv(("figure", "value"), _summary(report)),
        "classes.csv": _csv(
            (
                *("class", "images", "training_images", "precision", "recall", "f1", "auroc"),
                *("most_confused_with", "mistakes"),
            ),
            (
                (
                    *(names[one.label], one.images, report.training_images[one.label]),
                    *(one.precision, one.recall, one.f1, one.auroc),
                    *("" if one.confused_with is None else names[one.confused_with], one.mistakes),
                )
                for one in report.classes
            ),
        ),
        "pairs.csv": _csv(
            ("class_1", "class_2", "mistakes", "class_1_named_class_2", "class_2_named_class_1"),
            (
                (
                    *(names[pair.first], names[pair.second], pair.mistakes),
                    *(len(pair.first_as_second), len(pair.second_as_first)),
                )
                for pair in report.pairs
            ),
        ),
        "images.csv": _csv(
            ("file", "class", "named", "probability", "probability_of_class", "loss"),
            (
                (
                    *(file, names[label], names[named], report.probability[row, named]),
                    *(report.probability[row, label], report.loss[row]),
                )
                for row, (file, label, named) in enumerate(
                    zip(report.bank.source.file_names, labels, predicted, strict=True)
                )
            ),
        ),
        "reliability.csv": _csv(
            ("temperature", "images", "mean_probability", "accuracy"),
            (
                (temperature, *one)
                for temperature, bins in zip(
                    (1.0, report.provenance.temperature), report.bins, strict=True
                )
                for one in bins
            ),
        ),
        "coverage.csv": _csv(
            ("coverage", *_SHARE), ((share, *_share(part)) for share, part in report.coverage)
        ),
        "slices.csv": _csv(
            ("slice", "least", "greatest", *_SHARE),
            (
                (name, least, greatest, *_share(part))
                for name, parts in report.slices._asdict().items()
                for least, greatest, part in parts
            ),
        ),
    }
    return tables | (audit_tables(report.audit, names) if report.audit else {})


def audit_tables(audit: Audit, names: Sequence[str]) -> Tables:
    """Return the CSV files of an audit: everything found, not only what a page shows."""

    def place(image: Image) -> tuple[str, str, str]:
        return image.split, image.file_name, names[image.label]

    return {
        "label_errors.csv": _csv(
            (
                *("split", "file", "class", "suggested", "probability_of_class"),
                *("probability_of_suggested", "mistakenness", "scored_by"),
            ),
            (
                (
                    *place(found.image),
                    *(names[found.suggested], found.own, found.confidence, found.mistakenness),
                    audit.scored_by[found.image.split],
                )
                for found in audit.label_errors
            ),
        ),
        "near_duplicates.csv": _csv(
            (
                *("split_1", "file_1", "class_1", "split_2", "file_2", "class_2"),
                *("cosine", "ratio", "across_splits", "across_classes"),
            ),
            (
                (*place(found.first), *place(found.second), *found[2:])
                for found in audit.near_duplicates
            ),
        ),
        "outliers.csv": _csv(
            ("split", "file", "class", "distance"),
            ((*place(found.image), found.distance) for found in audit.outliers),
        ),
    }


def _summary(report: Report) -> list[tuple[str, Any]]:
    figures, provenance = report.headline, report.provenance
    return [
        *((name, getattr(provenance, name)) for name in provenance._fields),
        ("method", report.method),
        ("trunk", report.trunk),
        ("data", report.data["name"]),
        ("data_fingerprint", report.data["fingerprint"]),
        ("split", report.bank.split),
        ("images", figures.images),
        ("top1", figures.top1),
        ("top1_low", figures.interval.low),
        ("top1_high", figures.interval.high),
        *((name, getattr(figures, name)) for name in ("macro", "top5", "ece", "ece_scaled")),
    ]


_SHARE = ("images", "accuracy", "low", "high")


def _share(part: Share) -> tuple[int | float, ...]:
    return (part.images, part.accuracy, *part.interval)


def _csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_cell(value) for value in row] for row in rows)
    # File names that are not UTF-8 keep their bytes.
    return content.getvalue().encode("utf-8", "surrogateescape")


def _cell(value: Any) -> Any:
    # Numbers have as many digits as anybody can use, so that equal reports give equal files.
    if hasattr(value, "dtype"):
        value = value.item()
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else value
