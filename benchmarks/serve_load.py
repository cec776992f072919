"""How many photos a second `serve` names, and whether its memory grows.

    apt-get install hey
    python -m benchmarks.serve_load --seconds=30 RUN photo.jpg

Sends the photo to `POST /v1/predict` by `hey`, on the same machine, from 1, 8 and 64 clients that
each send the next request when the last one is answered. Columns: answered requests a second; the
median and the 99th percentile of their milliseconds; requests that were refused with 503 because
others waited. Then the server's memory after a warm-up and after each further 2,500 requests.
"""

import argparse
import collections
import csv
import io
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from apinet_jax.system.errors import InputError

CLIENTS, SECONDS = (1, 8, 64), 30
REQUESTS, PARTS = 2500, 4


class Load(NamedTuple):
    """What clients saw: milliseconds of answers, and how many requests had another status."""

    milliseconds: np.ndarray
    statuses: collections.Counter


def start_server(run: str) -> tuple[subprocess.Popen, str]:
    """Start a server, and return it with its address."""
    command = [sys.executable, "-m", "apinet_jax", "serve", run, "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    lines = []
    for line in server.stderr:
        lines.append(line)
        if found := re.search(r" on (http://\S+) ", line):
            return server, found[1]
    raise InputError(f"The server did not start: {''.join(lines)}")


def send(address: str, photo: Path, clients: int, amount: list[str]) -> Load:
    """Send a photo again and again."""
    options = ["-c", str(clients), "-m", "POST", "-T", "image/jpeg", "-D", str(photo), "-t", "60"]
    command = ["hey", *options, *amount, "-o", "csv", f"{address}/v1/predict"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    times = [1000 * float(row["response-time"]) for row in rows if row["status-code"] == "200"]
    return Load(np.array(times), collections.Counter(row["status-code"] for row in rows))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("photo", type=Path, metavar="PHOTO")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="(default: %(default)s)")
    arguments = parser.parse_args()
    if shutil.which("hey") is None:
        parser.error("hey is not installed: apt-get install hey")
    server, address = start_server(arguments.run)
    try:
        send(address, arguments.photo, 8, ["-n", "200"])  # warm-up
        print("| clients | answers a second | median ms | 99 % ms | 503 |\n|---|---|---|---|---|")
        for clients in CLIENTS:
            found = send(address, arguments.photo, clients, ["-z", f"{arguments.seconds}s"])
            middle, most = np.percentile(found.milliseconds, (50, 99))
            rate = len(found.milliseconds) / arguments.seconds
            refused = found.statuses.pop("503", 0)
            found.statuses.pop("200", 0)
            others = f" and {dict(found.statuses)}" if found.statuses else ""
            print(f"| {clients} | {rate:.0f} | {middle:.0f} | {most:.0f} | {refused}{others} |")
        memory = psutil.Process(server.pid).memory_info
        print(f"\n{memory().rss / 2**20:.0f} MiB")
        for part in range(PARTS):
            send(address, arguments.photo, 8, ["-n", str(REQUESTS)])
            done = REQUESTS * (part + 1)
            print(f"{memory().rss / 2**20:.0f} MiB after {done:,} more requests", flush=True)
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
