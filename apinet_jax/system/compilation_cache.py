"""The persistent compilation cache: programs compiled by an earlier process are read from disk.

JAX loads what is in the folder as machine code, so the folder is trusted: it belongs to the user
and nobody else may enter it. Code compiled for another processor may crash, and XLA divides the
work of a program among the cores that it sees when it compiles it, so the folder's name follows
from the CPU and the number of cores. JAX_COMPILATION_CACHE_DIR names another folder, and
JAX_ENABLE_COMPILATION_CACHE=false turns the cache off.
"""

import hashlib
import os
import platform
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from apinet_jax.system import hosts

_JAX_VARIABLES = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE")
# Writing programs that compile faster than this costs more than it saves.
_LEAST_COMPILE_SECONDS = 1.0
_UNUSED_DAYS = 30  # after which an entry is removed
# Lines of /proc/cpuinfo that say which instructions a processor has, on x86 and on ARM.
_CPU_LINES = (
    *("vendor_id", "cpu family", "model", "model name", "stepping", "flags"),
    *("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "Features"),
)


def enable_compilation_cache() -> Path | None:
    """Let JAX keep compiled programs in the user's cache folder.

    Nothing changes if the user configured JAX's cache, if the folder cannot be used safely, or if
    the job has several processes: one that reads a program while the others compile it would keep
    them waiting.

    Returns:
        The folder, or `None` without a cache.
    """
    import jax

    configured = any(name in os.environ for name in _JAX_VARIABLES)
    if configured or jax.config.jax_compilation_cache_dir or hosts.is_multiprocess():
        return None
    if (folder := _private_folder()) is None:
        return None
    _remove_unused(folder.parent)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _LEAST_COMPILE_SECONDS)
    return folder


def _private_folder() -> Path | None:
    """The folder for this host's CPU and cores, if it is this user's only and can be written."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    if not caches.is_absolute() or (cpu := _describe_cpu()) is None:
        return None
    import jaxlib

    text = f"{cpu}\n{platform.machine()}\n{_cores()}\n{jaxlib.__version__}"
    key = hashlib.sha256(text.encode()).hexdigest()
    folder = caches / "apinet_jax" / f"xla-{key[:16]}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return None
    private = folder.is_dir() and not folder.is_symlink() and status.st_mode & 0o077 == 0
    usable = private and status.st_uid == os.geteuid() and os.access(folder, os.W_OK)
    return folder if usable else None


def _describe_cpu() -> str | None:
    """The CPU and its instruction sets, or `None` if the system does not say."""
    with suppress(OSError, subprocess.CalledProcessError):
        if sys.platform == "darwin":
            command = ["/usr/sbin/sysctl", "machdep.cpu", "hw.optional"]
            return subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL)
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        found = {line for line in lines if line.partition(":")[0].strip() in _CPU_LINES}
        if any(line.startswith(("flags", "Features")) for line in found):
            return "\n".join(sorted(found))
    return None


def _cores() -> int | None:
    """The number of cores that this process may use, as XLA counts them."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _remove_unused(folder: Path) -> None:
    oldest = time.time() - _UNUSED_DAYS * 24 * 3600
    for path in folder.rglob("*"):
        with suppress(OSError):  # another process removed it
            status = path.stat()
            if path.is_file() and max(status.st_atime, status.st_mtime) < oldest:
                path.unlink()
