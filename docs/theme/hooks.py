"""Hooks of mkdocs: pages from outside of docs/, and equations without JavaScript."""

import re
from html import unescape
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
}
SOURCE_LINK = re.compile(r"\[([^\]]+)\]\(\.\./[^)]+\)")
EQUATION = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)


def on_files(files, config):
    """Add the pages of the root; their links to docs/ become links between pages."""
    for name, uri in OUTSIDE.items():
        content = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown, **_):
    """Name source files instead of linking to them: they are not on the site."""
    for name, uri in OUTSIDE.items():
        markdown = markdown.replace(f"](../{name}", f"]({uri}")
    return SOURCE_LINK.sub(r"`\1`", markdown)


def on_page_content(html, **_):
    """Turn equations into MathML, which browsers draw themselves."""
    return EQUATION.sub(_mathml, html)


def _mathml(equation):
    latex = re.sub(r"\\tag\{(.+?)\}", r"\\qquad (\1)", unescape(equation["latex"]))
    return convert(latex, display="block" if equation["tag"] == "div" else "inline")
