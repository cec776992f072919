"""HTML pages that need no network: templates, pictures within a budget, numbers for people."""

import base64
import hashlib
import io
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

PICTURE_BYTES = 6_000_000  # of all pictures of a page; tables and plots need the rest
SPLITS = {"test": "test", "validation": "held-out", "train": "training"}  # for people
_TEMPLATES = Path(__file__).parent / "templates"
_SIDE = 192  # the greatest width and height of a picture, in pixels
_QUALITY = 80


class Shown(NamedTuple):
    """A picture of a page.

    Attributes:
        uri: The picture; `None` if the page has no room for it.
        title: Its file.
        lines: What is written below it.
        map: A map over the same picture, if any.
    """

    uri: str | None
    title: str
    lines: tuple[str, ...] = ()
    map: str | None = None


class Thumbnails:
    """Small JPEG pictures as data URIs, as many as fit into a page.

    Attributes:
        left_out: Pictures that did not fit.
    """

    def __init__(self, budget: int):
        """Allow `budget` bytes of data URIs."""
        self.left_out = 0
        self._left = budget

    def add(self, picture: Image.Image | np.ndarray) -> str | None:
        """Return an image, or pixels [H W 3], as a data URI; `None` once the page is full."""
        image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
        image = image.convert("RGB")  # a copy, which `thumbnail` may change
        image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
        content = io.BytesIO()
        image.save(content, "JPEG", quality=_QUALITY)
        uri = f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
        if len(uri) > self._left:
            self.left_out += 1
            return None
        self._left -= len(uri)
        return uri


def render(template: str, **values: Any) -> bytes:
    """Return a page; names and files are escaped, plots are not."""
    script = Markup((_TEMPLATES / "sort.js").read_text())
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = _templates().get_template(template).render(script=script, script_hash=digest, **values)
    return text.encode("utf-8", "backslashreplace")


@cache
def _templates() -> jinja2.Environment:
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "percent": _or_dash(lambda value: f"{100 * value:.1f} %"),
        "digits": _or_dash(lambda value: f"{100 * value:.1f}"),
        "probability": _or_dash(lambda value: f"{value:.2f}"),
        "count": _or_dash(lambda value: f"{value:,.0f}"),
    }
    return found


def _or_dash(form: Callable[[float], str]) -> Callable[[float | None], str]:
    return lambda value: "–" if value is None else form(value)  # noqa: RUF001 - a dash
