"""Platforms that JAX cannot start."""

import subprocess
import sys

import jax
import pytest
from tiny_runs import REPOSITORY

CODE = """
from apinet_jax.system.errors import InputError
from apinet_jax.system.mesh import make_mesh
try:
    make_mesh()
except InputError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("platform", "advice"),
    [
        ("cuda", f'Install "jax[cuda12]=={jax.__version__}", or unset JAX_PLATFORMS.'),
        ("nosuch", "Unset JAX_PLATFORMS. JAX says: Unable to initialize backend 'nosuch'"),
    ],
)
def test_missing_platform_is_named(platform, advice):
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env={"PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": platform},
        capture_output=True,
        text=True,
        check=True,
    )
    if not done.stdout:
        pytest.skip(f"{platform} is there")
    assert done.stdout.startswith(f"JAX has no {platform} here (available: cpu")
    assert advice in done.stdout
