"""Complete runs with the workdir in a bucket end like runs on a local disk."""

import json
import os
import signal

import jax
import numpy as np
import pytest
from loopback_bucket import started_cloud
from tiny_runs import draw_photos, options, rows_of, run_command, settings_for, started

from apinet_jax.workdir.checkpoint import load_weights
from apinet_jax.workdir.metrics_log import TIME_FIELDS

pytestmark = pytest.mark.slow

WORKDIR = "gs://bucket/runs/x"
SECOND = "runs/x/checkpoints/6/commit_success.txt"


def content(cloud, name):
    return cloud.buckets["bucket"][f"runs/x/{name}"][0]


def timeless(rows):
    return [{k: v for k, v in row.items() if k not in TIME_FIELDS} for row in rows]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same run on a disk, and in a bucket with a kill while the second checkpoint is saved."""
    folder = tmp_path_factory.mktemp("bucket")
    cloud_photos = draw_photos(folder / "photos")
    settings = settings_for(cloud_photos, optim__epochs=2.0)
    code, output = run_command(options(settings, folder / "run"))
    assert code == 0, output
    with started_cloud("bucket") as cloud:
        cloud.put_folder("bucket", "photos", cloud_photos)
        in_bucket = options(settings | {"data.dir": "gs://bucket/photos"}, WORKDIR)
        with started(in_bucket) as process:

            def kill(name):
                if name == SECOND:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    raise ConnectionResetError  # and the object is not stored

            cloud.before_write = kill
            output, _ = process.communicate(timeout=300)
        assert process.returncode == -signal.SIGKILL, output
        cloud.before_write = lambda name: None
        assert SECOND not in cloud.buckets["bucket"]
        code, output = run_command(in_bucket)
        assert code == 0, output
        assert "Continuing after step 4 of 8." in output
        yield folder / "run", cloud


def test_rows_and_results_equal_those_on_disk(runs):
    folder, cloud = runs
    rows = [json.loads(line) for line in content(cloud, "metrics.jsonl").splitlines()]
    assert timeless(rows) == timeless(rows_of(folder))
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, 9))
    assert json.loads(content(cloud, "results.json")) == json.loads(
        (folder / "results.json").read_text()
    )
    assert content(cloud, "curves.png").startswith(b"\x89PNG")
    events = [name for name in cloud.buckets["bucket"] if name.startswith("runs/x/tensorboard/")]
    assert len(events) == 2  # a file for each process
    record = json.loads(content(cloud, "run.json"))
    assert [session["step"] for session in record["sessions"]] == [0, 4]
    assert record["config"]["data.dir"] == "gs://bucket/photos"


@pytest.mark.parametrize("which", ["last", "best"])
def test_parameters_equal_those_on_disk(runs, which):
    there, here = load_weights(WORKDIR, which), load_weights(runs[0], which)
    assert there.metadata["step"] == here.metadata["step"]
    for one, other in zip(jax.tree.leaves(there[:2]), jax.tree.leaves(here[:2]), strict=True):
        np.testing.assert_array_equal(one, other)


def test_checkpoint_in_a_bucket_is_evaluated(runs):
    folder, cloud = runs
    step = max(os.listdir(folder / "best"), key=int)
    code, output = run_command(["--mode=eval", f"--checkpoint={WORKDIR}/best/{step}"])
    assert code == 0, output
    assert f"{WORKDIR}/evaluation-{step}.json" in output
    report = json.loads(content(cloud, f"evaluation-{step}.json"))
    assert report["top1"] == json.loads(content(cloud, "results.json"))["test"]["best"]["top1"]
