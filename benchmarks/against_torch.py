"""How fast the parts of a run are next to PyTorch, call by call on the same machine.

    pip install -e ".[parity]"
    python -m benchmarks.against_torch --out=against_torch.json
    python -m benchmarks.against_torch --cases=squeezenet --repeats=9 --skip compiled

Each side of a case is a process: ours, and torch with contiguous arrays, with `channels_last`, and
compiled. They take turns call by call, so that all see the same machine. Prints a Markdown table of
medians: seconds of a call, and the ratio of torch's fastest variant over ours, above 1 where ours
is faster. The smallest and the largest ratio of a turn show how noisy the machine was. Memory is
the most that the process of our side and of that variant had, without those it started. The file
has every measurement, the machine and the versions.

XLA decides when it compiles how many cores compute what: leave JAX_COMPILATION_CACHE_DIR unset, or
give it a folder that no process with fewer cores has used.

Our side has the allocator with which our programs start. For all sides to have one, set LD_PRELOAD.

torch chooses the pairs of a batch on the host, as the authors' program does. A variant that cannot
run, such as `compiled` without a C++ compiler, is left out, and named below the table.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from contextlib import ExitStack, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from apinet_jax.system.allocator import PRELOAD, with_allocator
from apinet_jax.system.console import Bar, say
from apinet_jax.system.errors import InputError
from apinet_jax.system.paths import write_atomically
from benchmarks.against.cases import ALL_CASES, CASES, PROCESSES

REPEATS = 7
OURS = "ours"
THEIRS = ("eager", "channels_last", "compiled")


class Side:
    """One side of a case, in a child process that waits for its turn."""

    def __init__(self, variant: str, case: str, threads: int):
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        if variant == "ours":  # as our programs start
            environment = with_allocator(environment)
        self._name = f"{case}, {variant}"
        child = ["-m", "benchmarks.against.child", variant, f"'{case}'"]
        self._command = [Path(sys.executable).name, *child]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.against.child", variant, case],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self.failed = self._answer().get("failed")

    def call(self) -> dict[str, float]:
        """Compute the case once, and return what it took."""
        with suppress(BrokenPipeError):  # the answer then says that the process ended
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        if reason := (answer := self._answer()).get("failed"):
            raise InputError(f"{self._name}: {reason}. To see why: {' '.join(self._command)}")
        return answer

    def close(self) -> None:
        """End the process."""
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        return json.loads(line) if line else {"failed": "the process ended"}


def measure(case: str, variants: list[str], repeats: int, threads: int) -> dict[str, Any]:
    """Return the seconds of every call of every variant, and why variants failed."""
    sides, failed = {}, {}
    if not ALL_CASES[case].trunk:
        variants = [OURS, THEIRS[0]]
    with ExitStack() as stack:
        for variant in variants:
            side = Side(variant, case, threads)
            stack.callback(side.close)
            if side.failed:
                failed[variant] = side.failed
            else:
                sides[variant] = side
        if OURS not in sides or len(sides) == 1:
            raise InputError(f"{case}: {failed}")
        calls = {variant: [] for variant in sides}
        for _ in range(repeats):
            for variant, side in sides.items():
                calls[variant].append(side.call())
    return {"case": case, "calls": calls, "failed": failed}


def summary(found: dict[str, Any]) -> list[str]:
    """Return the cells of a row."""
    seconds = {name: [c["seconds"] for c in calls] for name, calls in found["calls"].items()}
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ours = medians.pop(OURS)
    fastest = min(medians, key=medians.get)
    turns = [a / b for a, b in zip(seconds[fastest], seconds[OURS], strict=True)]
    cells = [f"{ours:.4g}", *(f"{medians[v]:.4g}" if v in medians else "" for v in THEIRS)]
    ratio = f"**{medians[fastest] / ours:.2f}** ({min(turns):.2f} to {max(turns):.2f})"
    peaks = [max(call["peak"] for call in found["calls"][name]) for name in (OURS, fastest)]
    memory = (
        "" if ALL_CASES[found["case"]].kind in PROCESSES else " / ".join(f"{p:,.0f}" for p in peaks)
    )
    return [found["case"], *cells, ratio, memory]


def print_header() -> None:
    """Print the header of the table."""
    heads = ("ours, s", "torch, s", "channels_last", "compiled", "torch's best / ours", "MiB")
    print("| case |", " | ".join(heads), "|")
    print("|---|" + "---:|" * len(heads))


def print_row(found: dict[str, Any]) -> None:
    """Print the row of a case, and the variants that failed."""
    print("|", " | ".join(summary(found)), "|", flush=True)
    for variant, reason in found["failed"].items():
        say(f"{found['case']}: {variant} did not run: {reason}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", default="", help="only those with this text in their name")
    parser.add_argument(
        "--skip", nargs="+", default=[], choices=THEIRS, help="variants of torch to leave out"
    )
    parser.add_argument("--repeats", type=int, default=REPEATS, help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, help="a JSON file of all measurements")
    options = parser.parse_args()
    cases = [name for name in CASES if options.cases in name]
    if not cases:
        raise InputError(f"--cases={options.cases}: no case has it in its name: {list(CASES)}")
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    machine = f"{threads} cores, {platform.machine()}, {platform.system()}"
    if preloaded := with_allocator(os.environ).get(PRELOAD):
        machine += f", our side with {preloaded}"
    packages = ("jax", "jaxlib", "torch", "torchvision", "timm")
    versions = {name: version(name) for name in packages}
    print(f"{machine}; {', '.join(f'{name} {v}' for name, v in versions.items())}\n")
    print_header()
    variants = [OURS, *(name for name in THEIRS if name not in options.skip)]
    results = []
    with Bar("Cases", len(cases)) as bar:
        for case in cases:
            found = measure(case, variants, options.repeats, threads)
            results.append(found)
            if options.out:  # each time: all cases take an hour
                report = {"machine": machine, "versions": versions, "results": results}
                write_atomically(options.out, json.dumps(report, indent=1))
            print_row(found)
            bar.advance()


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
