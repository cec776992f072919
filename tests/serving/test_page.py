"""The page of `serve` in a browser, started as a user starts it."""

import base64
import csv
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright
from tiny_runs import REPOSITORY

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SECONDS = 60
PHONE = {"width": 390, "height": 844}
WIDE = {"width": 1000, "height": 900}


@pytest.fixture(scope="module")
def address(workdir):
    """Where the command says that it serves; afterwards Ctrl-C ends it."""
    command = [sys.executable, "-m", "apinet_jax", "serve", str(workdir), "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    pipe = {"stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, cwd=workdir, **pipe) as server:
        lines = []
        for line in server.stderr:
            lines.append(line)
            if found := re.search(r"on (http://127\.0\.0\.1:\d+) ", line):
                break
        else:
            pytest.fail("".join(lines))
        yield found[1]
        server.send_signal(signal.SIGINT)
        assert "Traceback" not in server.stderr.read()
    assert server.returncode == 130


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    with sync_playwright() as playwright:
        # In containers, its sandbox does not run as root, and shared memory is small.
        flags = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, address):
    """Open the page; nothing may go wrong in its script, and no other host is asked."""
    contexts, faults = [], []

    def opened(viewport=WIDE, **options):
        context = browser.new_context(viewport=viewport, **options)
        context.set_default_timeout(1000 * SECONDS)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: faults.append(said.text) if is_fault(said) else None)
        page.on("request", lambda sent: None if is_own(sent.url) else faults.append(sent.url))
        page.goto(address)
        return page

    def is_fault(said):
        # The browser reports refusals of the server too.
        return said.type == "error" and "Failed to load resource" not in said.text

    def is_own(url):
        return url.startswith((address, "data:", "blob:"))

    yield opened
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture
def page(open_page):
    return open_page()


@pytest.fixture(scope="module")
def files(photos):
    return sorted((photos / "test").rglob("*.png"))


def show_one(page, files):
    page.set_input_files("#files", files[0])
    expect(page.get_by_role("heading", name="Why")).to_be_visible(timeout=1000 * SECONDS)


def show_two(page, files):
    page.set_input_files("#files", [files[0], files[5]])
    expect(page.get_by_role("heading", name="class")).to_be_visible(timeout=1000 * SECONDS)


def show_folder(page, files):
    page.set_input_files("#folder", files[0].parent)
    expect(page.get_by_role("status")).to_contain_text("were named", timeout=1000 * SECONDS)


def show_wrong_file(page, _):
    page.set_input_files("#files", {"name": "x.jpg", "mimeType": "image/jpeg", "buffer": b"none"})
    expect(page.get_by_role("alert")).to_contain_text("not a JPEG, PNG or WebP")


def test_one_photo_is_named_and_explained(page, run, files):
    show_one(page, files)
    ((best, probability), (second, _)) = run.predict([files[0]], top=2)[0]
    bars = page.locator(".bars li")
    assert bars.count() == len(run.class_names)
    assert bars.first.inner_text() == f"{best}: {100 * probability:.0f} %"
    assert page.get_by_role("heading", name=f"Why {best} and not {second}?").is_visible()
    for name in (best, second):
        assert page.get_by_alt_text(f"Training photo of {name}").count() == 3
    expect(page.locator("#provenance")).to_contain_text(run.provenance.hash)


def test_slider_is_moved_by_the_keyboard(page, files):
    show_one(page, files)
    slider, above = page.get_by_label("Map over the photo"), page.locator(".stack img").nth(1)
    expect(above).to_have_css("opacity", "0.6")
    slider.focus()
    page.keyboard.press("Home")
    expect(above).to_have_css("opacity", "0")
    page.keyboard.press("ArrowRight")
    expect(above).to_have_css("opacity", "0.01")


def wait_until_painted(page):
    """Chromium drops what is typed before it has painted a page for the first time."""
    painted = "performance.getEntriesByName('first-contentful-paint').length > 0"
    for _ in range(20 * SECONDS):
        if page.evaluate(painted):
            return
        page.wait_for_timeout(50)
    pytest.fail("the page was not painted")


def test_keyboard_reaches_the_choice_of_photos(page, files):
    wait_until_painted(page)
    # The browser is asked to report its file dialog first: that takes effect some time later.
    with page.expect_file_chooser() as chosen:
        page.keyboard.press("Tab")
        expect(page.locator("#files")).to_be_focused()
        page.keyboard.press("Enter")
    assert chosen.value.is_multiple()
    chosen.value.set_files(files[0])
    expect(page.locator(".bars li").first).to_be_visible()
    # A screen reader begins to read at the result.
    expect(page.get_by_role("region", name="Result")).to_be_focused()


def test_wrong_file_is_refused_and_the_next_one_named(page, files):
    show_wrong_file(page, files)
    show_one(page, files)
    expect(page.get_by_role("alert")).to_have_text("")


def test_two_photos_are_compared(page, run, files):
    show_two(page, files)
    found = run.compare(files[0], files[5])
    expected = "Same class" if found.same >= 0.5 else "Different class"
    assert page.locator("h2").inner_text() == expected
    assert page.get_by_text(f"same class: {100 * found.same:.0f} %").is_visible()
    assert page.get_by_label("Map over the photo").count() == 2


def test_folder_becomes_a_table(page, run, files, tmp_path):
    folder = shutil.copytree(files[0].parent, tmp_path / "=folder")
    (folder / "notes.txt").write_text("no photo")
    (folder / "broken.png").write_bytes(b"no photo")
    page.set_input_files("#folder", folder)
    photos = sorted(folder.glob("*.png"))
    expect(page.get_by_role("status")).to_have_text(f"{len(photos)} photos were named.")
    assert page.locator("tbody tr").count() == len(photos)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download as CSV").click()
    download.value.save_as(tmp_path / "names.csv")
    with open(tmp_path / "names.csv", newline="") as file:
        rows = {row["photo"]: row for row in csv.DictReader(file)}
    # The apostrophe keeps a spreadsheet from computing it.
    assert set(rows) == {f"'=folder/{photo.name}" for photo in photos}
    broken = rows.pop("'=folder/broken.png")
    assert "not a JPEG, PNG or WebP" in broken["error"]
    for name, row in rows.items():
        ((best, probability),) = run.predict([folder / name.split("/")[1]], top=1)[0]
        assert row["answer"] == best
        assert float(row["probability"]) == pytest.approx(probability, abs=1e-5)


def test_photo_is_dropped(page, files):
    page.evaluate(
        """([content, name]) => {
            const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
            const data = new DataTransfer();
            data.items.add(new File([bytes], name, { type: "image/png" }));
            document.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
        }""",
        [base64.b64encode(files[0].read_bytes()).decode(), files[0].name],
    )
    expect(page.locator(".bars li").first).to_be_visible()


@pytest.mark.parametrize("show", [show_one, show_two, show_folder, show_wrong_file])
def test_accessible_and_as_wide_as_a_phone(open_page, files, show):
    """In light and dark, by the rules of WCAG 2 that a program can check."""
    for scheme in ("light", "dark"):
        # The page's own policy forbids the scripts of the checker.
        page = open_page(PHONE, color_scheme=scheme, bypass_csp=True)
        show(page, files)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
