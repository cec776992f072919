"""Benchmarks start, and print their help without the packages of the extras."""

import runpy
import sys
from pathlib import Path

import pytest

from apinet_jax.system import allocator

FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = [path for path in sorted(FOLDER.glob("*.py")) if "__main__" in path.read_text()]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_help(script, monkeypatch, capsys):
    for extra in ("torch", "torchvision", "timm"):
        monkeypatch.setitem(sys.modules, extra, None)
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    monkeypatch.setattr(allocator, "restart_with_allocator", lambda: None)  # of the tests
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    assert end.value.code == 0
    assert f"python -m benchmarks.{script.stem} --" in capsys.readouterr().out
