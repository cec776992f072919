"""Memory that a program frees is reused, so that a step needs no new pages."""

import ctypes
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes
import resource
from apinet_jax.system.allocator import keep_freed_memory
{call}
libc, SIZE = ctypes.CDLL(None), 80_000_000
libc.malloc.restype = ctypes.c_void_p
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(SIZE)
    ctypes.memset(block, 1, SIZE)
    libc.free(ctypes.c_void_p(block))
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults(), faults())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
@pytest.mark.parametrize(("call", "reused"), [("", False), ("keep_freed_memory()", True)])
def test_freed_memory_is_reused(call, reused):
    program = PROGRAM.format(call=call)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    first, second = map(int, done.stdout.split())
    assert first > 100  # how many depends on the size of a page
    assert (second < first / 10) == reused
