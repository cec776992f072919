"""Eight CPU devices, one compilation cache, strict ranks, and the folders that tests read."""

import os
import signal
import tempfile
from pathlib import Path

# Shells ignore Ctrl-C for what they run in the background, and its children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # under nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# The workers and every process that a test starts inherit the environment, so that each program is
# compiled once. The process that made the folder removes it.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    COMPILED = tempfile.TemporaryDirectory(prefix="compiled-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# Tests compile many programs and run each a few times: LLVM's optimiser costs five times what it
# saves here.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
).strip()
# `APINET_TEST_PLATFORM=cuda` runs the tests that need one device on a GPU.
os.environ["JAX_PLATFORMS"] = os.environ.get("APINET_TEST_PLATFORM", "cpu")

import jax
import pytest
from absl import flags

jax.config.update("jax_numpy_rank_promotion", "raise")
if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()

HERE = Path(__file__).parent
# Folders of the tests that take longest.
LONGEST = ("runs", "sweeps", "method", "models")


def pytest_collection_modifyitems(items):
    """Start with the longest files, so that the processes finish at about the same time."""
    rank = {HERE / folder: place for place, folder in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.parent, len(LONGEST)))


@pytest.fixture(scope="session")
def goldens_dir() -> Path:
    """Folder of the reference figures; `APINET_GOLDENS` names another one."""
    return Path(os.environ.get("APINET_GOLDENS", HERE / "goldens"))


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder of real images and weights, which are not part of the project."""
    folder = Path(os.environ.get("APINET_SHARED", HERE.parents[1] / "shared"))
    if not folder.is_dir():
        pytest.skip("the folder of real images and weights is not there")
    return folder


@pytest.fixture(scope="session", autouse=True)
def records(tmp_path_factory):
    """Prepared records go to a folder of the tests', not to the home folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("records")))
        yield


@pytest.fixture
def strict_dtypes():
    """No silent widening: 32 and 64 bit, or integers and floats, may not meet by accident."""
    with jax.numpy_dtype_promotion("strict"):
        yield
