"""The audit as a section of a page, with pictures."""

from collections.abc import Mapping
from typing import NamedTuple

from apinet_jax.answers.audit import NEAR_DUPLICATE, NEIGHBOURS, Audit, Image
from apinet_jax.answers.report.html import Shown, Thumbnails
from apinet_jax.data.records.walk import escaped
from apinet_jax.data.source import Source
from apinet_jax.system.console import tracked

_LABEL_ERRORS, _DUPLICATES, _OUTLIERS = 24, 12, 12
_SPLITS = {"test": "test", "validation": "held-out", "train": "training"}


class AuditSection(NamedTuple):
    """Suspicious images with their pictures.

    Attributes:
        audit: The audit.
        label_errors: The likeliest label errors.
        near_duplicates: The most similar pairs, with a line about each.
        outliers: The images that are farthest from their neighbours.
        threshold: Least cosine of near-duplicates.
        neighbours: Neighbours that outliers are far from.
    """

    audit: Audit
    label_errors: list[Shown]
    near_duplicates: list[tuple[Shown, Shown, str]]
    outliers: list[Shown]
    threshold: float = NEAR_DUPLICATE
    neighbours: int = NEIGHBOURS


def audit_section(
    audit: Audit, splits: Mapping[str, Source], names: tuple[str, ...], pictures: Thumbnails
) -> AuditSection:
    """Return the most suspicious images of each kind, with pictures.

    Args:
        audit: The audit.
        splits: Its images.
        names: Class names for people.
        pictures: Where thumbnails are counted.
    """

    def shown(image: Image, *lines: str) -> Shown:
        source = splits[image.split]
        picture = source.picture(int(source.rows[image.index]))
        title = escaped(image.file_name)
        where = f"{_SPLITS[image.split]}: {names[image.label]}"
        return Shown(pictures.add(picture), title, (where, *lines))

    errors = audit.label_errors[:_LABEL_ERRORS]
    return AuditSection(
        audit=audit,
        label_errors=[
            shown(
                found.image,
                f"suggested: {names[found.suggested]} {found.confidence:.2f}",
                f"mistakenness {found.mistakenness:.2f}",
            )
            for found in tracked(errors, "Drawing suspicious images", len(errors))
        ],
        near_duplicates=[
            (
                shown(found.first),
                shown(found.second),
                f"cosine {found.cosine:.3f}"
                + ", different splits" * found.across_splits
                + ", different classes" * found.across_classes,
            )
            for found in audit.near_duplicates[:_DUPLICATES]
        ],
        outliers=[
            shown(found.image, f"distance {found.distance:.2f}")
            for found in audit.outliers[:_OUTLIERS]
        ],
    )
