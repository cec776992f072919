"""Where compiled programs are kept, and when they are not."""

import os
import time

import jax
import jaxlib
import pytest

from apinet_jax.system import compilation_cache, hosts
from apinet_jax.system.compilation_cache import enable_compilation_cache


@pytest.fixture
def settings(monkeypatch, tmp_path):
    """The settings that JAX receives; those of the process are restored."""
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before, changed = jax.config.jax_compilation_cache_dir, {}
    jax.config.update("jax_compilation_cache_dir", None)
    with monkeypatch.context() as patch:
        patch.setattr(jax.config, "update", changed.__setitem__)
        yield changed
    jax.config.update("jax_compilation_cache_dir", before)


def test_folder_is_private(settings, tmp_path):
    folder = enable_compilation_cache()
    assert folder.parent == tmp_path / "apinet_jax"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert settings == {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 1.0,
    }
    assert enable_compilation_cache() == folder


def test_folder_follows_the_processor_its_cores_and_the_compiler(settings, monkeypatch):
    folders = {enable_compilation_cache()}
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(1000), raising=False)
    folders.add(enable_compilation_cache())
    for cpu in ("flags: avx2", "flags: avx2 avx512f"):
        monkeypatch.setattr(compilation_cache, "_describe_cpu", lambda cpu=cpu: cpu)
        folders.add(enable_compilation_cache())
    monkeypatch.setattr(jaxlib, "__version__", "0.0.1")
    folders.add(enable_compilation_cache())
    assert len(folders) == 5
    monkeypatch.setattr(compilation_cache, "_describe_cpu", lambda: None)
    assert enable_compilation_cache() is None


@pytest.mark.parametrize("name", ["JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE"])
def test_variables_of_jax_decide(settings, monkeypatch, name):
    monkeypatch.setenv(name, "")
    assert enable_compilation_cache() is None
    assert settings == {}


def test_several_processes_have_no_cache(settings, monkeypatch):
    monkeypatch.setattr(hosts, "is_multiprocess", lambda: True)
    assert enable_compilation_cache() is None


def test_unsafe_folder_is_not_used(settings, tmp_path, monkeypatch):
    folder = enable_compilation_cache()
    folder.chmod(0o770)
    assert enable_compilation_cache() is None
    folder.chmod(0o700)
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    assert enable_compilation_cache() is None
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder.rmdir()
    folder.symlink_to(tmp_path)
    assert compilation_cache._private_folder() is None


@pytest.mark.parametrize("caches", ["/proc/none", "relative"])
def test_folder_that_cannot_be_made(settings, monkeypatch, caches):
    monkeypatch.setenv("XDG_CACHE_HOME", caches)
    assert enable_compilation_cache() is None


def test_unused_entries_are_removed(settings):
    folder = enable_compilation_cache()
    for name, age in (("old", 40), ("new", 1)):
        (folder / name).touch()
        then = time.time() - age * 24 * 3600
        os.utime(folder / name, (then, then))
    enable_compilation_cache()
    assert [path.name for path in folder.iterdir()] == ["new"]
