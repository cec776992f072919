"""An allocator that suits the large arrays of a program on a CPU."""

import contextlib
import os
import platform
import sys
from collections.abc import Mapping
from ctypes.util import find_library
from pathlib import Path

PRELOAD = "LD_PRELOAD"
"""Variable of the environment that names libraries to load before all others."""
TUNABLES = "GLIBC_TUNABLES"
"""Variable of the environment from which the C library reads its settings."""

_MARK = "APINET_JAX_RESTARTED"
# It reports each array of a gigabyte on standard error unless it is asked not to.
_REPORT_FROM = {"TCMALLOC_LARGE_ALLOC_REPORT_THRESHOLD": str(1 << 40)}
_HUGE_PAGES = "glibc.malloc.hugetlb"
_FIRST_GLIBC = (2, 35)  # that has this setting
_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")  # `madvise`: who asks gets them


def restart_with_allocator() -> None:
    """Start this program again with the allocator that suits it best, if it is not there yet.

    XLA allocates the temporary arrays of a step anew in each step, up to gigabytes, and the C
    library returns them to the system afterwards. An eighth to a third of a step is then spent on
    new pages. A program can only choose its allocator when it starts. Call it before anything has
    an effect.
    """
    environment = with_allocator(os.environ)
    restarted = _MARK in os.environ
    if restarted or sys.gettrace() is not None or environment == os.environ:
        return  # a wrapper may drop the variables again, and a debugger would start again too
    with contextlib.suppress(OSError):  # it is only slower without
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**environment, _MARK: "1"})


def with_allocator(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which a program finds pages for large arrays quickly.

    TCMalloc keeps them, so it is loaded first where Linux has it. Elsewhere the C library asks for
    huge pages, of which fewer are needed, where the system gives them on request. What the user set
    stays as it is; the same environment is returned where neither is possible.
    """
    if PRELOAD not in environment and (library := _tcmalloc()):
        return {**_REPORT_FROM, **environment, PRELOAD: library}
    given = environment.get(TUNABLES, "")
    if _HUGE_PAGES in given or not _on_request():
        return dict(environment)
    setting = f"{_HUGE_PAGES}=1"
    return {**environment, TUNABLES: f"{given}:{setting}" if given else setting}


def allocator_advice() -> str:
    """Return a sentence about TCMalloc, where Linux does not have it; else an empty one."""
    if sys.platform != "linux" or PRELOAD in os.environ or _tcmalloc():
        return ""
    return (
        "On a CPU, TCMalloc saves up to a third of a step (on Debian and Ubuntu: "
        "apt install libtcmalloc-minimal4)."
    )


def _tcmalloc() -> str | None:
    """Return the name of TCMalloc's library, if Linux has it."""
    return find_library("tcmalloc_minimal") if sys.platform == "linux" else None


def _on_request() -> bool:
    """Return whether the C library can ask for huge pages, and has to."""
    if sys.platform != "linux":
        return False
    try:
        library, version = platform.libc_ver()
        enough = library == "glibc" and tuple(map(int, version.split(".")[:2])) >= _FIRST_GLIBC
        return enough and "[madvise]" in _SETTING.read_text()
    except (OSError, ValueError):
        return False
