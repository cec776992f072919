"""The report of a run: its page and its tables."""

import csv
import html
from dataclasses import replace
from html.parser import HTMLParser

import grain  # noqa: F401 - defines flags, which must outlive `flagsaver`
import numpy as np
import pytest
from absl.testing import flagsaver
from loopback_bucket import started_cloud
from tiny_runs import options, settings_for

import apinet_jax
from apinet_jax import main
from apinet_jax.__main__ import run_command
from apinet_jax.answers.report import page as report_page
from apinet_jax.answers.report.files import write_report
from apinet_jax.answers.report.gather import make_report
from apinet_jax.answers.report.html import Thumbnails
from apinet_jax.commands.cli import parse_flags
from apinet_jax.system.errors import InputError

EVIL = "<script>alert(1)</script>&\"' 夜鷹"


class Elements(HTMLParser):
    """The tags of a page, and the addresses that it loads."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.addresses, self.open = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "img", "br", "path", "use", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()


@pytest.fixture(scope="session")
def report(run):
    return make_report(run)


@pytest.fixture(scope="session")
def written(report, run, tmp_path_factory):
    return write_report(report, run, tmp_path_factory.mktemp("report") / "tiny.html")


def rows(written, name):
    with open(written.tables / name, newline="") as file:
        return list(csv.DictReader(file))


def test_page_needs_no_network(written):
    elements = Elements(written.page.read_text())
    assert all(one.startswith(("data:image/jpeg;base64,", "#")) for one in elements.addresses)
    assert elements.tags.count("script") == 1
    assert "link" not in elements.tags
    assert elements.open == []  # every element is closed
    assert elements.tags.count("img") > 10


def test_page_shows_the_figures(written, report, run):
    page = written.page.read_text()
    assert f"{100 * report.headline.top1:.1f} %" in page
    assert run.provenance.hash in page
    assert str(run.provenance.checkpoint) in page
    assert "prefers-color-scheme: dark" in page
    for name in ("Calibration", "Confused pairs", "Classes", "Hardest images", "Slices", "Curves"):
        assert f">{name}</h2>" in page


def test_report_is_deterministic(written, workdir, tmp_path):
    run = apinet_jax.load(workdir)
    again = write_report(make_report(run), run, tmp_path / "tiny.html")
    assert again.page.read_bytes() == written.page.read_bytes()
    for table in again.tables.iterdir():
        assert table.read_bytes() == (written.tables / table.name).read_bytes()


def test_tables_have_every_image_and_class(written, report, run):
    images = rows(written, "images.csv")
    assert len(images) == report.headline.images
    right = np.mean([row["class"] == row["named"] for row in images])
    assert right == pytest.approx(report.headline.top1)
    assert [row["class"] for row in rows(written, "classes.csv")] == list(run.class_names)
    summary = {row["figure"]: row["value"] for row in rows(written, "summary.csv")}
    assert float(summary["top1"]) == pytest.approx(report.headline.top1, rel=1e-5)
    assert summary["split"] == "test"
    assert len(rows(written, "outliers.csv")) == report.audit.images
    mistakes = sum(int(row["mistakes"]) for row in rows(written, "pairs.csv"))
    assert mistakes == round((1 - right) * len(images))


def test_contrast_maps_have_the_sum_of_the_logits(report, run):
    page = report_page._Page(report, run, run.class_names, Thumbnails(10**6))
    predicted, labels = report.probability.argmax(axis=1), report.bank.labels
    wrong = np.flatnonzero(predicted != labels)[:3].tolist()
    _, maps = page._contrasts(wrong)
    for row, contrast in zip(wrong, maps, strict=True):
        one, other = predicted[row], labels[row]
        difference = report.bank.logits[row, one] - report.bank.logits[row, other]
        bias = run.bias[one] - run.bias[other]
        assert contrast.sum() + bias == pytest.approx(difference, rel=1e-3, abs=1e-4)


def test_names_are_escaped(report, run):
    names = (EVIL, *report.class_names[1:])
    page, _ = report_page.render_report(report._replace(class_names=names), run, "tables")
    text = page.decode()
    assert "alert(1)" in text
    assert "<script>alert" not in text
    assert Elements(text).tags.count("script") == 1
    assert html.escape("<script>alert(1)</script>") in text
    assert "夜鷹" in text


def test_page_without_room_says_so(report, run, monkeypatch):
    monkeypatch.setattr(report_page, "PICTURE_BYTES", 20_000)
    page, left_out = report_page.render_report(report, run, "tables")
    assert len(page) < 300_000
    assert left_out > 0
    assert f"{left_out} pictures are left out" in page.decode()


def test_table_of_many_classes_is_cut(report, run, monkeypatch):
    monkeypatch.setattr(report_page, "MOST_CLASSES", 2)
    page, _ = report_page.render_report(report, run, "tables")
    assert "Of 4 classes, the 2 worst are shown" in page.decode()


def test_without_audit_no_old_audit_remains(report, run, tmp_path):
    page = tmp_path / "x.html"
    write_report(report, run, page)
    files = write_report(report._replace(audit=None), run, page)
    assert not (files.tables / "outliers.csv").exists()
    assert "Audit of the data" not in page.read_text()


def test_softmax_run_has_a_report(softmax_run):
    page, _ = report_page.render_report(make_report(softmax_run, audit=False), softmax_run, "x")
    assert "softmax, test_tiny" in page.decode()


def test_held_out_images_are_reported(run, monkeypatch):
    monkeypatch.setitem(run.__dict__, "dataset", replace(run.dataset, test=None))
    report = make_report(run)
    assert report.bank.split == "validation"
    assert report.audit.scored_by == {"train": "folds", "validation": "network"}
    page = report_page.render_report(report, run, "tables")[0].decode()
    assert "The data set has no test images" in page
    assert f"{len(run.dataset.validation)} held-out images" in page


@pytest.mark.parametrize("name", ["x.png", "."])
def test_out_must_be_html(workdir, name, tmp_path):
    with pytest.raises(InputError, match="not an HTML file"):
        run_command(["report", str(workdir), f"--out={tmp_path / name}"])


def test_nothing_to_report_on(run, monkeypatch):
    without = replace(run.dataset, test=None, validation=None)
    monkeypatch.setitem(run.__dict__, "dataset", without)
    with pytest.raises(InputError, match="neither test nor held-out images"):
        make_report(run)


def test_command(workdir, tmp_path, capsys):
    page = tmp_path / "x.html"
    run_command(["report", str(workdir), f"--out={page}", "--no-audit", "--checkpoint=last"])
    printed = capsys.readouterr().out
    assert "Report on 16 test images" in printed
    assert f"Open {page.as_uri()} in a browser." in printed
    assert (tmp_path / "x-tables/classes.csv").exists()


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
@pytest.mark.parametrize("flags", [["--report"], []])
def test_training_writes_it_on_request(flags, own_workdir, photos, monkeypatch):
    settings = settings_for(photos, optim__epochs=2.0, data__workers=0)
    command = ["main", "--nodistributed", *options(settings, own_workdir), *flags]
    monkeypatch.setattr("sys.argv", command)  # ml_collections reads the fields from there
    with flagsaver.flagsaver():
        main.main(parse_flags(command))
    assert (own_workdir / "report.html").exists() == bool(flags)


def test_run_in_a_bucket(workdir, capsys):
    with started_cloud("bucket") as cloud:
        cloud.put_folder("bucket", "run", workdir)
        run_command(["report", "gs://bucket/run", "--no-audit"])
        page, *_ = cloud.buckets["bucket"]["run/report.html"]
        assert page.startswith(b"<!DOCTYPE html>")
        assert "run/report-tables/classes.csv" in cloud.buckets["bucket"]
    printed = capsys.readouterr().out
    assert "gs://bucket/run/report.html" in printed
    assert "in a browser" not in printed
