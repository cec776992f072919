"""A program starts again with huge pages, once, where the system has them."""

import os
import subprocess
import sys

import pytest

from apinet_jax.system import huge_pages
from apinet_jax.system.huge_pages import TUNABLES, with_huge_pages

ASK = {TUNABLES: "glibc.malloc.hugetlb=1"}
# Counts the new pages of a large array, after a restart if there is one.
PROGRAM = """
import ctypes, os, resource, sys
from apinet_jax.system.huge_pages import restart_with_huge_pages
restart_with_huge_pages()
libc, SIZE = ctypes.CDLL(None), 80_000_000
libc.malloc.restype = ctypes.c_void_p
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
ctypes.memset(libc.malloc(SIZE), 1, SIZE)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, *sys.argv[1:])
"""


@pytest.fixture
def on_request(monkeypatch):
    """A system on which huge pages are there for the asking."""
    monkeypatch.setattr(huge_pages, "_on_request", lambda: True)


@pytest.mark.usefixtures("on_request")
def test_huge_pages_are_asked_for_once():
    assert with_huge_pages({"A": "b"}) == {"A": "b", **ASK}
    assert with_huge_pages(ASK) == ASK


@pytest.mark.usefixtures("on_request")
def test_settings_of_the_user_stay():
    given = "glibc.malloc.arena_max=2"
    assert with_huge_pages({TUNABLES: given})[TUNABLES] == f"{given}:glibc.malloc.hugetlb=1"
    off = {TUNABLES: "glibc.malloc.hugetlb=0"}
    assert with_huge_pages(off) == off


@pytest.mark.parametrize(
    ("libc", "setting", "expected"),
    [
        (("glibc", "2.36"), "always [madvise] never", True),
        (("glibc", "2.34"), "always [madvise] never", False),
        (("", ""), "always [madvise] never", False),  # musl
        (("glibc", "2.36"), "[always] madvise never", False),  # without asking
        (("glibc", "2.36"), "always madvise [never]", False),
        (("glibc", "2.36"), None, False),
    ],
)
def test_only_where_the_system_has_them_on_request(monkeypatch, tmp_path, libc, setting, expected):
    file = tmp_path / "enabled"
    if setting is not None:
        file.write_text(setting)
    monkeypatch.setattr(huge_pages, "_SETTING", file)
    monkeypatch.setattr(huge_pages.platform, "libc_ver", lambda: libc)
    assert huge_pages._on_request() == (expected and sys.platform == "linux")


@pytest.mark.skipif(not huge_pages._on_request(), reason="there are no huge pages on request")
def test_program_starts_again_with_its_arguments_and_huge_pages():
    command = [sys.executable, "-c", PROGRAM, "one", "two words"]
    ours = {name: value for name, value in os.environ.items() if name != TUNABLES}

    def pages(environment):
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        count, *arguments = done.stdout.split(maxsplit=1)
        assert arguments == ["one two words\n"]
        return int(count)

    small = pages({**ours, TUNABLES: "glibc.malloc.hugetlb=0"})
    assert pages(ours) < small / 10


# Runs at each start of Python, before the program.
AT_START = """
import os
with open(os.environ["STARTS"], "a") as file:
    print(os.getpid(), os.environ.get("GLIBC_TUNABLES"), file=file)
"""


@pytest.mark.skipif(not huge_pages._on_request(), reason="there are no huge pages on request")
@pytest.mark.parametrize(
    ("module", "option", "code"),
    [
        ("apinet_jax", "--help", 0),
        ("apinet_jax.main", "--help", 1),  # absl's
        ("apinet_jax.main", "--no-such-flag", 2),
    ],
)
def test_commands_start_again_once_in_the_same_process(tmp_path, module, option, code):
    (tmp_path / "sitecustomize.py").write_text(AT_START)
    starts = tmp_path / "starts"
    environment = {name: value for name, value in os.environ.items() if name != TUNABLES}
    environment |= {"PYTHONPATH": str(tmp_path), "STARTS": str(starts)}
    command = [sys.executable, "-m", module, option]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == code
    (first, before), (second, after) = (line.split() for line in starts.read_text().splitlines())
    assert (first, before, after) == (second, "None", ASK[TUNABLES])
