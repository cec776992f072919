"""Times `predict`: one photo from a cold shell, and many photos against evaluation's rate.

    python -m benchmarks.predict_speed --run runs/x

The photos are the run's test images, repeated if there are fewer. Predicting reads them from files;
evaluation reads the same images from records, without the cache of resized images. Both classify
with one device and take turns. The cold shell is a new process for one photo, with an empty
compilation cache, and again with what the first one left there. The last column counts the seconds
of all cores, which depend less on what else the machine does.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

import apinet_jax
from apinet_jax.answers.prediction.naming import Naming
from apinet_jax.answers.prediction.photo_list import list_photos
from apinet_jax.answers.prediction.predict import predict_rows
from apinet_jax.answers.trained_run import TrainedRun
from apinet_jax.evaluation import evaluate_split
from apinet_jax.method.steps import make_eval_step
from apinet_jax.setup.build import make_network
from apinet_jax.setup.loaders import make_eval_loader
from apinet_jax.system.console import console
from apinet_jax.system.mesh import make_mesh
from apinet_jax.workdir.checkpoint import load_weights


class Cost(NamedTuple):
    """Seconds on the clock, and of all cores."""

    wall: float
    cpu: float


def cost_of(function: Callable[[], object], who: int = resource.RUSAGE_SELF) -> Cost:
    before, start = resource.getrusage(who), time.perf_counter()
    function()
    wall, after = time.perf_counter() - start, resource.getrusage(who)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(wall, used)


def row(name: str, values: list[Cost], digits: int) -> str:
    wall = [value.wall for value in values]
    cells = [statistics.median(wall), min(wall), max(wall)]
    cells.append(statistics.median(value.cpu for value in values))
    return f"| {name} | " + " | ".join(f"{cell:.{digits}f}" for cell in cells) + " |"


def rates(run: TrainedRun, folder: Path, count: int, repeats: int) -> dict[str, list[Cost]]:
    """Images per second of predicting and of evaluating the same images."""
    source = run.dataset.splits["test"]
    source = source.subset(np.arange(count) % len(source))
    for index in range(count):
        (folder / f"{index:06d}.jpg").write_bytes(source.read(index))
    photos = list_photos([str(folder)])
    naming = Naming(run.class_names, run.temperature)

    run.config.data.cache = "none"
    mesh = make_mesh([run.device])
    loader = make_eval_loader(run.config, source, run.dataset.fingerprint, mesh)
    model, preprocess = make_network(run.config, len(run.class_names))
    flip = bool(run.config.eval.flip)
    eval_step = make_eval_step(mesh, model=model, preprocess=preprocess, flip=flip)
    weights = load_weights(run.checkpoint)

    def predict() -> None:
        rows = [row for batch in predict_rows(run, photos, naming) for row in batch]
        assert len(rows) == count
        assert not any(row["error"] for row in rows)

    def evaluate() -> None:
        workers = run.config.data.workers
        with jax.set_mesh(mesh):
            evaluate_split(
                *(eval_step, weights.params, weights.batch_stats, loader, mesh),
                title="Evaluating",
                workers=workers,
            )

    both = {"predict": predict, "evaluate": evaluate}
    for function in both.values():
        function()  # compiles
    found: dict[str, list[Cost]] = {name: [] for name in both}
    for _ in range(repeats):
        for name, function in both.items():
            found[name].append(Cost(*(count / seconds for seconds in cost_of(function))))
    return found


def cold_shell(run: str, photo: Path, repeats: int) -> dict[str, list[Cost]]:
    """Seconds of a new process until it ends with the answer for one photo."""
    command = [sys.executable, "-m", "apinet_jax", "predict", run, str(photo)]
    names = ("import jax", "predict, cold compilation cache", "predict, warm compilation cache")
    found: dict[str, list[Cost]] = {name: [] for name in names}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as cache:
            environment = {
                **os.environ,
                "JAX_COMPILATION_CACHE_DIR": cache,
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            }

            def start(arguments: list[str], environment=environment) -> None:
                subprocess.run(arguments, check=True, capture_output=True, env=environment)

            for name in names:
                arguments = [sys.executable, "-c", name] if name == "import jax" else command
                found[name].append(
                    cost_of(lambda arguments=arguments: start(arguments), resource.RUSAGE_CHILDREN)
                )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", required=True, help="a workdir with its test images")
    parser.add_argument("--photos", type=int, default=1000, help="photos (default: 1000)")
    parser.add_argument("--repeats", type=int, default=3, help="repeats of each (default: 3)")
    arguments = parser.parse_args()

    console.quiet = True
    run = apinet_jax.load(arguments.run)
    with tempfile.TemporaryDirectory() as folder:
        speed = rates(run, Path(folder), arguments.photos, arguments.repeats)
        waits = cold_shell(arguments.run, Path(folder) / "000000.jpg", arguments.repeats)
    config = run.config
    print(
        f"{config.model.trunk}, crop {config.data.crop}, batches of {config.eval.batch_size}, "
        f"{arguments.photos:,} photos, {run.device.device_kind}, {os.cpu_count()} cores\n"
    )
    print("| | median | least | most | per second of a core, or in all |")
    print("|---|---:|---:|---:|---:|")
    for name, values in speed.items():
        print(row(f"{name}, images/s", values, 0))
    for name, values in waits.items():
        print(row(f"{name}, s", values, 1))


if __name__ == "__main__":
    main()
