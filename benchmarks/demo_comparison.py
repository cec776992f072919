"""Compares API-Net with plain softmax on the birds of the demo, under equal conditions.

    python -m benchmarks.demo_comparison --folder=runs/demo_comparison

Both methods see the same images for the same number of steps. The learning rate of each is tuned in
the same way, on held-out training images with a seed that is not used again. Then each method runs
over several seeds on the test images. The paired difference is printed with its 95 % interval,
whatever its sign. Finished runs are kept: the same command continues after an interruption.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from apinet_jax.sweeps.comparison import compare

METHODS = ("apinet", "softmax")
RATES = (0.02, 0.05, 0.1, 0.2)
TUNING_SEED = 100
SEEDS = range(5)


def run(folder: Path, **overrides: object) -> Path:
    """Run the demo with overrides, or continue it, and return its workdir."""
    name = "_".join(f"{key.split('.')[-1]}={value}" for key, value in overrides.items())
    workdir = folder / name
    if not (workdir / "results.json").exists():
        flags = [f"--config.{key}={value}" for key, value in overrides.items()]
        command = [sys.executable, "-m", "apinet_jax.main", "--config", "configs/demo.py"]
        print(f"running {name}", flush=True)
        subprocess.run(
            [*command, f"--workdir={workdir}", *flags],
            check=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
        )
    return workdir


def held_out(workdir: Path) -> float:
    """Return the accuracy on held-out training images after the last epoch."""
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [row["top1"] for row in rows if row["kind"] == "validation"][-1]


def on_test(workdir: Path) -> float:
    """Return the accuracy of the last checkpoint on the test images."""
    return json.loads((workdir / "results.json").read_text())["test"]["last"]["top1"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Formatter)
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/demo_comparison"), help="of all runs"
    )
    folder = parser.parse_args().folder

    rate = {}
    for method in METHODS:
        tuned = {
            lr: held_out(
                run(
                    folder,
                    method=method,
                    seed=TUNING_SEED,
                    **{"optim.lr": lr, "data.val_fraction": 0.25},
                )
            )
            for lr in RATES
        }
        rate[method] = max(tuned, key=tuned.get)
        listed = ", ".join(f"{lr:g}: {100 * top1:.1f} %" for lr, top1 in tuned.items())
        print(f"{method:8} held-out top-1 by learning rate: {listed}", flush=True)

    scores = {
        method: {
            seed: 100 * on_test(run(folder, method=method, seed=seed, **{"optim.lr": rate[method]}))
            for seed in SEEDS
        }
        for method in METHODS
    }
    lines = compare(METHODS, scores, reference="softmax")
    for line in lines:
        listed = ", ".join(f"{value:.1f}" for value in line.scores.values())
        print(
            f"{line.cell:8} lr {rate[line.cell]:g}  "
            f"test top-1 {line.mean:.2f} ± {line.sd:.2f} % ({listed})"
        )
    difference = lines[0].difference
    print(
        f"apinet - softmax: {difference.mean:+.1f} points, 95 % interval "
        f"[{difference.low:+.1f}, {difference.high:+.1f}]"
    )


class Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the docstring and shows defaults."""


if __name__ == "__main__":
    main()
