"""Names of checkpoints that users give."""

import pytest

from apinet_jax.system.errors import InputError
from apinet_jax.system.hosts import initialize_job
from apinet_jax.workdir.checkpoint_files import resolve_checkpoint


@pytest.fixture
def run(tmp_path):
    for part in ("weights/manifest.ocdbt", "trainer/manifest.ocdbt", "_CHECKPOINT_METADATA"):
        (tmp_path / "checkpoints/2" / part).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "checkpoints/2" / part).touch()
    (tmp_path / "checkpoints/²").mkdir()
    return tmp_path


@pytest.mark.parametrize("name", ["²", "٢", "9" * 5000, "-2", "2.0"])
def test_what_is_no_step(run, name):
    with pytest.raises(InputError, match=r"There is no checkpoint .*step 2"):
        resolve_checkpoint(run, name)
    assert resolve_checkpoint(run, "2").name == "2"


@pytest.mark.parametrize("port", ["", "²", "http"])
def test_what_is_no_port(port):
    with pytest.raises(InputError, match="has no port"):
        initialize_job(f"localhost:{port}", 2, 0)
