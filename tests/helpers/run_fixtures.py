"""Tiny runs, trained once for all processes of the tests."""

import os
import shutil

import jax
import pytest
from filelock import FileLock
from tiny_runs import config_for, draw_photos, train

import apinet_jax

SETTINGS = {"data__workers": 0, "optim__epochs": 2.0}


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """Make a folder in one process for all; `once(name, make)` calls `make(folder)`."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def made(name, make):
        folder, complete = shared / "answers" / name, shared / f"answers-{name}.complete"
        with FileLock(complete.with_suffix(".lock")):
            if not complete.exists():
                make(folder)
                complete.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def photos(once):
    return once("photos", lambda folder: draw_photos(folder, train=12, test=4))


@pytest.fixture(scope="session")
def trained(once, photos, tmp_path_factory):
    """This process's copy of a run, because tests change the files of `answers/` in it."""

    def copied(name, **settings):
        config = config_for(photos, **{**SETTINGS, **settings})
        run = once(name, lambda folder: train(config, folder))
        return shutil.copytree(run, tmp_path_factory.mktemp("runs") / name)

    return copied


@pytest.fixture(scope="session")
def workdir(trained):
    """Folder of an API-Net run with held-out images."""
    return trained("apinet")


@pytest.fixture(scope="session")
def softmax_workdir(trained):
    """The same for the softmax baseline."""
    return trained("softmax", method="softmax")


@pytest.fixture(scope="session")
def uncalibrated_workdir(trained):
    """Folder of a run without held-out images."""
    return trained("uncalibrated", data__val_fraction=0.0, optim__epochs=1.0)


@pytest.fixture
def own_workdir(workdir, tmp_path):
    """A copy of the run whose files a test may change."""
    return shutil.copytree(workdir, tmp_path / "run")


@pytest.fixture(scope="session")
def run(workdir):
    return apinet_jax.load(workdir, device=jax.devices()[0])


@pytest.fixture(scope="session")
def softmax_run(softmax_workdir):
    return apinet_jax.load(softmax_workdir, device=jax.devices()[0])
