"""Huge pages for the large arrays of a program on a CPU."""

import contextlib
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path

TUNABLES = "GLIBC_TUNABLES"
"""Variable of the environment from which the C library reads its settings."""

_MARK = "APINET_JAX_RESTARTED"
_HUGE_PAGES = "glibc.malloc.hugetlb"
_FIRST_GLIBC = (2, 35)  # that has this setting
_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")  # `madvise`: who asks gets them


def restart_with_huge_pages() -> None:
    """Start this program again with transparent huge pages, where programs have to ask for them.

    XLA allocates the temporary arrays of a step anew in each step, up to gigabytes, and the C
    library returns them to the system afterwards. With pages of 4 KiB an eighth to a quarter of a
    step is then spent on new pages. The library asks for huge ones if an environment variable says
    so when the program starts. Call it before anything has an effect.
    """
    environment = with_huge_pages(os.environ)
    restarted = _MARK in os.environ
    if restarted or sys.gettrace() is not None or environment == os.environ:
        return  # a wrapper may drop the variable again, and a debugger would start again too
    with contextlib.suppress(OSError):  # it is only slower without
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**environment, _MARK: "1"})


def with_huge_pages(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which a program uses huge pages; the same one if none can.

    What the user set stays as it is.
    """
    given = environment.get(TUNABLES, "")
    if _HUGE_PAGES in given or not _on_request():
        return dict(environment)
    setting = f"{_HUGE_PAGES}=1"
    return {**environment, TUNABLES: f"{given}:{setting}" if given else setting}


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
