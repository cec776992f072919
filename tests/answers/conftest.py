"""Two tiny runs, API-Net and softmax, that the tests of this folder only read."""

import jax
import pytest
from tiny_runs import config_for, draw_photos, train

import apinet_jax

TINY = {"data__workers": 0, "model__trunk": "test_tiny", "optim__epochs": 2.0}


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    return draw_photos(tmp_path_factory.mktemp("answers") / "photos", train=12, test=4)


@pytest.fixture(scope="session")
def workdir(photos):
    """Folder of an API-Net run with held-out images."""
    return train(config_for(photos, **TINY), photos.parent / "apinet").workdir


@pytest.fixture(scope="session")
def softmax_workdir(photos):
    """The same for the softmax baseline."""
    return train(config_for(photos, **TINY, method="softmax"), photos.parent / "softmax").workdir


@pytest.fixture(scope="session")
def run(workdir):
    return apinet_jax.load(workdir, device=jax.devices()[0])


@pytest.fixture(scope="session")
def softmax_run(softmax_workdir):
    return apinet_jax.load(softmax_workdir, device=jax.devices()[0])
