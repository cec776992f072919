"""A run whose images stay on the device is the run that streams them, bit for bit."""

import json
import re
import shutil
import time

import jax
import numpy as np
import pytest
from tiny_runs import config_for, draw_photos, rows_of, train

from apinet_jax.data.crops import RandomCrop
from apinet_jax.method import device_images
from apinet_jax.system.errors import InputError
from apinet_jax.workdir.checkpoint import load_weights
from apinet_jax.workdir.checkpoint_files import LAST, steps_of
from apinet_jax.workdir.metrics_log import TIME_FIELDS

SHORT = {"optim__epochs": 2.0, "checkpoint__every": 0.5, "checkpoint__keep": 10}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return draw_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def streamed(photos, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "streamed"
    train(config_for(photos, data__cache="off", **SHORT), workdir, devices=2)
    return workdir


def sessions_of(workdir):
    return json.loads((workdir / "run.json").read_text())["sessions"]


def timeless(workdir):
    return [{k: v for k, v in row.items() if k not in TIME_FIELDS} for row in rows_of(workdir)]


def assert_same(workdir, reference):
    assert timeless(workdir) == timeless(reference)
    ours, theirs = (jax.tree.leaves(load_weights(run)[:2]) for run in (workdir, reference))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("divided", [False, True])
def test_same_run(photos, streamed, tmp_path, monkeypatch, capsys, divided):
    if divided:
        monkeypatch.setattr(device_images, "_LARGEST_COPY", 1000)
    train(config_for(photos, data__cache="device", **SHORT), tmp_path / "run", devices=2)
    assert_same(tmp_path / "run", streamed)
    output = capsys.readouterr()
    assert "Copying 36 resized images to the device" in output.out + output.err


def test_streamed_run_continues_on_the_device(photos, streamed, tmp_path):
    again = shutil.copytree(streamed, tmp_path / "again")
    later = [step for step in steps_of(again) if step > 4]
    assert len(later) == 2
    for step in later:
        shutil.rmtree(again / LAST / str(step))
    train(config_for(photos, data__cache="device", **SHORT), again, devices=2)
    assert len(sessions_of(again)) == 2
    assert_same(again, streamed)


def test_crops_of_many_sizes_are_refused(photos, tmp_path):
    config = config_for(photos, data__cache="device", data__augmentation="random_resized")
    with pytest.raises(InputError, match=r"set data\.cache=disk"):
        train(config, tmp_path / "run")


def test_waiting_for_images_is_reported_with_what_helps(photos, tmp_path, monkeypatch, capsys):
    crop = RandomCrop.__call__

    def slow(self, index, step, slot):
        time.sleep(0.05)
        return crop(self, index, step, slot)

    monkeypatch.setattr(RandomCrop, "__call__", slow)
    config = config_for(photos, data__cache="disk", data__workers=0, optim__frozen_epochs=0.0)
    train(config, tmp_path / "run", devices=1)
    output = capsys.readouterr()
    helps = "data.cache=device keeps them on the device"
    assert re.search(
        rf"Waiting for images takes \d+ % of the time: {helps}", output.err + output.out
    )
