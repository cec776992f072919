"""The tutorial runs from top to bottom, and prints what its page shows."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from jobs import free_port

from apinet_jax.data.birds.species import SPECIES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/tutorial.md").read_text()
SHOWN = [
    line
    for block in re.findall(r"^```text\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
    if line != "..."
]
NAMES = "|".join(re.escape(species.name) for species in SPECIES)


def shape(line):
    """A line without what may differ between machines: numbers, and the species of an answer."""
    return re.sub(r"[+-]?\d[\d.]*(e-\d+)?", "0", re.sub(NAMES, "SPECIES", line)).split()


def run_page(folder):
    """Run the page's blocks in a new folder; return what they print."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TFDS_DATA_DIR": str(folder.with_name("records")),
        "PORT": str(free_port()),
    }
    environment.pop("XLA_FLAGS")  # one device, as a reader has
    with subprocess.Popen(
        ["bash", ROOT / "launch/tutorial.sh", folder],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=900)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)  # with the server
            raise
    assert process.returncode == 0, output
    return output


def test_existing_folder_is_refused(tmp_path):
    command = ["bash", ROOT / "launch/tutorial.sh", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path} exists already; name a new folder\n"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="the page needs curl")
def test_page_runs_and_prints_what_it_shows(tmp_path):
    folder = tmp_path / "tutorial"
    output = run_page(folder)
    printed = [shape(line) for line in output.splitlines()]
    assert len(SHOWN) > 20
    assert [line for line in SHOWN if shape(line) not in printed] == []

    results = json.loads((folder / "runs/birds/results.json").read_text())
    assert results["test"]["best"]["top1"] > 0.6  # 0.25 by chance
    for picture in ("sheet.png", "why.png", "both.png", "runs/birds/report.html"):
        assert (folder / picture).stat().st_size > 10_000

    # The table, the server and the file without this program agree.
    photo = "photos/test/Ruby-crowned Barkpecker/ruby_crowned_barkpecker_000.jpg"
    with (folder / "names.csv").open() as file:
        next(file)  # provenance
        (row,) = (row for row in csv.DictReader(file) if row["photo"] == photo)
    served = re.search(r'"answer": "(.*)",\n.*\n *"probability": ([\d.]+)', output)
    alone = re.findall(rf"^({NAMES}) ([\d.]+)$", output, re.MULTILINE)[-1]
    for name, probability in (served.groups(), alone):
        assert name == row["answer"]
        assert float(probability) == pytest.approx(float(row["probability"]), abs=1e-4)
