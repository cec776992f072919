"""API-Net against plain softmax on the birds of the demo, under equal conditions.

Both methods see the same images for the same number of steps. The learning rate of each is tuned
alike, on held-out training images with a seed that is not used again; then each method runs over
several seeds on the test images, and the paired difference is reported with its 95 % interval,
whatever its sign. Finished runs are kept, so the command can be repeated after an interruption.

python -m benchmarks.demo_comparison --folder=runs/demo_comparison
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from apinet_jax.sweeps.comparison import mean_and_sd, paired_difference

METHODS = ("apinet", "softmax")
RATES = (0.02, 0.05, 0.1, 0.2)
TUNING_SEED = 100
SEEDS = range(5)


def run(folder: Path, **overrides: object) -> Path:
    """Runs the demo with overrides, or goes on with it, and returns its workdir."""
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
    """Accuracy on the held-out training images after the last epoch."""
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [row["top1"] for row in rows if row["kind"] == "validation"][-1]


def on_test(workdir: Path) -> float:
    """Accuracy of the last checkpoint on the test images."""
    return json.loads((workdir / "results.json").read_text())["test"]["last"]["top1"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Formatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/demo_comparison"))
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
    for method, values in scores.items():
        listed = ", ".join(f"{value:.1f}" for value in values.values())
        print(f"{method:8} lr {rate[method]:g}  test top-1 {mean_and_sd(values)} % ({listed})")
    difference = paired_difference(scores["apinet"], scores["softmax"])
    print(
        f"apinet - softmax: {difference.mean:+.1f} points, 95 % interval "
        f"[{difference.low:+.1f}, {difference.high:+.1f}]"
    )


class Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the docstring's lines and shows defaults."""


if __name__ == "__main__":
    main()
