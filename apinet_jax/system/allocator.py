"""How the C library's allocator treats the large arrays of a program on a CPU."""

import ctypes
import sys

# Parameters of mallopt in glibc's <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Let glibc reuse freed memory instead of returning it to the system; elsewhere do nothing.

    XLA allocates the temporary arrays of a step anew in each step, hundreds of megabytes. By
    default glibc returns them to the system afterwards, and a seventh to a quarter of the next step
    is spent on new pages. With one arena, no mapped blocks and no trimming, a process keeps what it
    needed at its peak. Call it before JAX starts its threads.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # musl has none
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)  # never
