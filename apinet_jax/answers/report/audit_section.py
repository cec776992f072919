"""The audit as a section of a page, with pictures."""

from collections.abc import Mapping
from typing import NamedTuple

import apinet_jax
from apinet_jax.answers.audits.audit import NEAR_DUPLICATE, NEIGHBOURS, Audit, Image
from apinet_jax.answers.report.html import PICTURE_BYTES, SPLITS, Shown, Thumbnails, render
from apinet_jax.data.records.walk import escaped
from apinet_jax.data.source import Dataset, Source
from apinet_jax.data.survey import readable_names
from apinet_jax.pretrained_trunk import PretrainedTrunk
from apinet_jax.system.console import tracked

_LABEL_ERRORS, _DUPLICATES, _OUTLIERS = 24, 12, 12


class AuditSection(NamedTuple):
    """Suspicious images with their pictures.

    Attributes:
        audit: The audit.
        label_errors: The likeliest label errors.
        near_duplicates: The most similar pairs, with a line about each.
        outliers: The images that are farthest from their neighbours.
        threshold: Greatest ratio of near-duplicates.
        neighbours: Neighbours that outliers are far from.
    """

    audit: Audit
    label_errors: list[Shown]
    near_duplicates: list[tuple[Shown, Shown, str]]
    outliers: list[Shown]
    threshold: float = NEAR_DUPLICATE
    neighbours: int = NEIGHBOURS


def render_audit(
    audit: Audit, dataset: Dataset, trunk: PretrainedTrunk, title: str, tables: str
) -> tuple[bytes, int]:
    """Return the page of an audit without a run, and how many pictures it has no room for."""
    names = readable_names(dataset.class_names)
    pictures = Thumbnails(PICTURE_BYTES)
    content = render(
        "audit.html.jinja",
        title=title,
        names=names,
        splits=SPLITS,
        counts={split: len(source) for split, source in dataset.splits.items()},
        fingerprint=dataset.fingerprint,
        weights=trunk.source,
        trunk=trunk.name,
        crop=trunk.crop,
        version=apinet_jax.__version__,
        audit=audit_section(audit, dataset.splits, names, pictures),
        tables=tables,
        pictures=pictures,
    )
    return content, pictures.left_out


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
        where = f"{SPLITS[image.split]}: {names[image.label]}"
        return Shown(pictures.add(picture), title, (where, *lines))

    errors = audit.label_errors[:_LABEL_ERRORS]
    return AuditSection(
        audit=audit,
        label_errors=[
            shown(
                found.image,
                f"label {found.own:.3f}",
                f"suggested: {names[found.suggested]} {found.confidence:.2f}",
                f"mistakenness {found.mistakenness:.2f}",
            )
            for found in tracked(errors, "Drawing suspicious images", len(errors))
        ],
        near_duplicates=[
            (
                shown(found.first),
                shown(found.second),
                f"cosine {found.cosine:.3f}, ratio {found.ratio:.2f}"
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
