"""The documentation builds as a site, and its links lead somewhere within it."""

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

import apinet_jax

ROOT = Path(__file__).parents[1]


class Page(HTMLParser):
    """The anchors of a page, what it loads, and what it links to."""

    def __init__(self, path):
        super().__init__()
        self.path, self.text = path, path.read_text()
        self.anchors, self.loaded, self.links = set(), set(), set()
        self.feed(self.text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.anchors |= {found["id"]} if "id" in found else set()
        self.loaded |= {found["src"]} if "src" in found else set()
        if "href" in found:
            (self.links if tag == "a" else self.loaded).add(found["href"])


def is_remote(link):
    return bool(urlsplit(link).netloc)


def is_broken(link, page, pages):
    name, anchor = urldefrag(link)
    target = page.path
    if name:
        target = Path(os.path.normpath(page.path.parent / unquote(name)))
    if target.is_dir():
        target /= "index.html"
    return not target.is_file() or (anchor != "" and unquote(anchor) not in pages[target].anchors)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, built as a contributor does."""
    folder = tmp_path_factory.mktemp("site")
    mkdocs = [sys.executable, "-W", "error", "-m", "mkdocs"]
    build = [*mkdocs, "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path) for path in site.rglob("*.html")}


def test_every_public_name_is_in_the_api_reference(site, pages):
    names = {f"apinet_jax.{name}" for name in apinet_jax.__all__}
    assert names - pages[site / "api/index.html"].anchors == set()


def test_links_lead_somewhere(site, pages):
    links = {
        (page, link)
        for page in pages.values()
        if page.path.name != "404.html"  # its links are absolute: it is shown for any address
        for link in page.links | page.loaded
        if not is_remote(link)
    }
    assert len(links) > 500
    broken = {(page, link) for page, link in links if is_broken(link, page, pages)}
    assert {(str(page.path.relative_to(site)), link) for page, link in broken} == set()


def test_nothing_is_loaded_from_another_host(site, pages):
    loaded = set().union(*(page.loaded for page in pages.values()))
    assert {link for link in loaded if is_remote(link)} == set()
    styles = {path.name: path.read_text() for path in site.rglob("*.css")}
    assert {name for name, text in styles.items() if "url(http" in text} == set()


def test_pictures_of_the_readme_are_on_the_start_page(site, pages):
    assert {"birds.jpg", "compare.jpg"} <= pages[site / "index.html"].loaded


def test_equations_need_no_javascript(site, pages):
    method = pages[site / "method/index.html"].text
    assert method.count("<math") > 8
    assert "arithmatex" not in method
