"""The documentation names files that exist, and its links lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)

# Modules may be named from the root, or in short from the package: `data/source.py`.
NAMED_FILE = re.compile(r"(?<![\w./$-])[\w.-]+(?:/[\w.-]+)+\.(?:py|sh|sbatch|md)\b")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def anchors(page):
    """The anchors that GitHub gives to the headings of a page."""
    headings = HEADING.findall(FENCE.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_named_files_exist(page):
    named = set(NAMED_FILE.findall(LINK.sub("", page.read_text())))
    missing = {
        name
        for name in named
        if not any((base / name).exists() for base in (ROOT, ROOT / "apinet_jax"))
    }
    assert missing == set()


@each_page
def test_links_resolve(page):
    broken = set()
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        if link.startswith(("https://", "http://")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name) if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.add(link)
    assert broken == set()


@each_page
def test_named_modules_and_commands_exist(page):
    named = set(re.findall(r"python -m ((?:apinet_jax|benchmarks)\.\w+)", page.read_text()))
    assert {name for name in named if not (ROOT / f"{name.replace('.', '/')}.py").exists()} == set()
    commands = set(re.findall(r"python -m apinet_jax ([a-z_]+)", page.read_text()))
    assert {
        name for name in commands if not (ROOT / f"apinet_jax/commands/{name}.py").exists()
    } == set()
