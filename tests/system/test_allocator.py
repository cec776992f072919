"""A program starts again with another allocator or huge pages, once, where the system has them."""

import os
import subprocess
import sys

import pytest

from apinet_jax.system import allocator
from apinet_jax.system.allocator import PRELOAD, TUNABLES, with_allocator

HUGE = {TUNABLES: "glibc.malloc.hugetlb=1"}
REPORT = "TCMALLOC_LARGE_ALLOC_REPORT_THRESHOLD"
# Tells what it was started with.
PROGRAM = f"""
import os, sys
from apinet_jax.system import allocator
allocator._tcmalloc = lambda: {{library!r}}
allocator.restart_with_allocator()
print(os.environ.get("{PRELOAD}"), os.environ.get("{TUNABLES}"), *sys.argv[1:])
{{then}}
"""
# Counts the new pages of a large array.
COUNT = """
import ctypes, resource
libc, SIZE = ctypes.CDLL(None), 80_000_000
libc.malloc.restype = ctypes.c_void_p
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
ctypes.memset(libc.malloc(SIZE), 1, SIZE)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def as_from_a_shell(**changes: str) -> dict[str, str]:
    """Return this environment without what a restart sets."""
    ours = {name: value for name, value in os.environ.items() if name not in (PRELOAD, TUNABLES)}
    return {**ours, **changes}


@pytest.fixture
def system(monkeypatch):
    """Say what the system has: the name of TCMalloc's library, and huge pages on request."""

    def has(library: str | None, huge_pages: bool) -> None:
        monkeypatch.setattr(allocator, "_tcmalloc", lambda: library)
        monkeypatch.setattr(allocator, "_on_request", lambda: huge_pages)

    return has


def test_tcmalloc_comes_first(system):
    system("libtcmalloc.so", True)
    once = with_allocator({"A": "b"})
    assert once == {"A": "b", PRELOAD: "libtcmalloc.so", REPORT: str(1 << 40)}
    assert with_allocator({REPORT: "5"}) == {PRELOAD: "libtcmalloc.so", REPORT: "5"}


@pytest.mark.parametrize("given", ["", "libmine.so"])
def test_preloaded_libraries_of_the_user_stay(system, given):
    system("libtcmalloc.so", True)
    once = with_allocator({PRELOAD: given})
    assert once == {PRELOAD: given, **HUGE}
    assert with_allocator(once) == once


def test_huge_pages_are_asked_for_once(system):
    system(None, True)
    assert with_allocator({"A": "b"}) == {"A": "b", **HUGE}
    assert with_allocator(HUGE) == HUGE


def test_tunables_of_the_user_stay(system):
    system(None, True)
    given = "glibc.malloc.arena_max=2"
    assert with_allocator({TUNABLES: given})[TUNABLES] == f"{given}:glibc.malloc.hugetlb=1"
    off = {TUNABLES: "glibc.malloc.hugetlb=0"}
    assert with_allocator(off) == off


def test_nothing_changes_where_the_system_has_neither(system):
    system(None, False)
    assert with_allocator({"A": "b"}) == {"A": "b"}


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
    monkeypatch.setattr(allocator, "_SETTING", file)
    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: libc)
    assert allocator._on_request() == (expected and sys.platform == "linux")


def test_elsewhere_there_is_neither(monkeypatch):
    monkeypatch.setattr(allocator.sys, "platform", "darwin")
    assert with_allocator({"A": "b"}) == {"A": "b"}


def run(library: str | None, environment: dict[str, str], then: str = "") -> list[str]:
    """Return what the program says, with a name for TCMalloc's library."""
    command = [sys.executable, "-c", PROGRAM.format(library=library, then=then)]
    done = subprocess.run(
        [*command, "one", "two words"], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux preloads libraries this way")
def test_program_starts_again_with_its_arguments_and_a_library():
    assert run("libm.so.6", as_from_a_shell())[0].startswith("libm.so.6 ")  # any will do
    kept = run("libm.so.6", as_from_a_shell(**HUGE, **{PRELOAD: ""}))
    assert kept == [f" {HUGE[TUNABLES]} one two words"]


@pytest.mark.skipif(not allocator._on_request(), reason="there are no huge pages on request")
def test_program_starts_again_with_huge_pages():
    (_, small) = run(None, as_from_a_shell(**{TUNABLES: "glibc.malloc.hugetlb=0"}), COUNT)
    said, pages = run(None, as_from_a_shell(), COUNT)
    assert said == f"None {HUGE[TUNABLES]} one two words"
    assert int(pages) < int(small) / 10


# Runs at each start of Python, before the program.
AT_START = f"""
import os
with open(os.environ["STARTS"], "a") as file:
    print(os.getpid(), os.environ.get("{PRELOAD}"), os.environ.get("{TUNABLES}"), file=file)
"""


@pytest.mark.skipif(
    with_allocator(as_from_a_shell()) == as_from_a_shell(), reason="the system has neither"
)
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
    environment = as_from_a_shell(PYTHONPATH=str(tmp_path), STARTS=str(starts))
    command = [sys.executable, "-m", module, option]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == code
    (first, *before), (second, *after) = map(str.split, starts.read_text().splitlines())
    assert (first, before) == (second, ["None", "None"])
    chosen = with_allocator(environment)
    assert after == [str(chosen.get(PRELOAD)), str(chosen.get(TUNABLES))]


@pytest.mark.skipif(sys.platform != "linux", reason="TCMalloc is preloaded on Linux only")
def test_advice_where_tcmalloc_is_missing(monkeypatch, system):
    monkeypatch.delenv(PRELOAD, raising=False)
    system(None, True)
    assert "apt install libtcmalloc-minimal4" in allocator.allocator_advice()
    system("libtcmalloc.so", True)
    assert allocator.allocator_advice() == ""
    system(None, True)
    monkeypatch.setenv(PRELOAD, "")  # somebody chose
    assert allocator.allocator_advice() == ""
