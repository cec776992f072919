"""Our side: the compiled step, evaluation step and objective of a run, and its commands."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

import apinet_jax
from apinet_jax.answers.prediction.naming import Naming
from apinet_jax.answers.prediction.photo_list import list_photos
from apinet_jax.answers.prediction.predict import predict_rows
from apinet_jax.config import default_config
from apinet_jax.data.batch import Batch
from apinet_jax.data.pipeline import stream
from apinet_jax.method.objective import evaluate_objective
from apinet_jax.method.steps import make_eval_step
from apinet_jax.setup.build import (
    fresh_state,
    make_dataset,
    make_plan,
    make_program,
    run_key,
)
from apinet_jax.setup.compile import compile_train_step
from apinet_jax.setup.loaders import make_train_loader
from apinet_jax.system.allocator import PRELOAD, TUNABLES
from apinet_jax.system.console import console
from apinet_jax.system.mesh import make_mesh, to_global
from benchmarks.against.cases import (
    DECAY,
    HIDDEN,
    MOMENTUM,
    NUM_CLASSES,
    PHOTO_CLASSES,
    RATE,
    WIDTH,
    Case,
    draw_photos,
)

Call = Callable[[], float | None]

_REPOSITORY = Path(__file__).parents[2]


def make_call(case: Case, variant: str) -> Call:
    """Return a function that computes a case once.

    It returns when the numbers exist, with the seconds if they are not those of the whole call.
    """
    del variant  # there is one
    make = {
        **{"head": _head_call, "train": _network_call, "infer": _network_call},
        **{"input": _stream_call, "epoch": _stream_call},
        **{"start": _start_call, "photo": _photo_call, "photos": _photos_call},
    }
    return make[case.kind](case)


def _config(case: Case) -> ml_collections.ConfigDict:
    """Return the configuration of both sides."""
    config = default_config()
    changes = {
        **{"model.trunk": case.trunk or "resnet50", "model.dtype": case.dtype},
        **{"model.hidden": HIDDEN, "data.crop": case.side, "data.resize": case.side},
        **{"batch.classes": case.classes, "batch.images": case.images},
        **{"optim.lr": RATE, "optim.momentum": MOMENTUM, "optim.weight_decay": DECAY},
    }
    config.update_from_flattened_dict(changes)
    return config


def _rows(case: Case, values: Any) -> Batch:
    """Return a batch with these images or features."""
    labels = np.repeat(np.arange(case.classes, dtype=np.int32), case.images)
    return Batch(values, labels, np.arange(len(labels), dtype=np.int32), np.ones(len(labels), bool))


def _network_call(case: Case) -> Call:
    """A training step or the logits of images of noise."""
    mesh, config = make_mesh(), _config(case)
    count = case.classes * case.images
    program = make_program(config, max(NUM_CLASSES, case.classes), 100 * count, mesh)
    shape = (count, case.side, case.side, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    batch = to_global(_rows(case, pixels), mesh)
    if case.kind == "infer":
        state = fresh_state(config, program, mesh)
        infer = make_eval_step(mesh, model=program.model, preprocess=program.preprocess)
        return lambda: jax.block_until_ready(infer(state.params, state.batch_stats, batch.image))
    return _steps(config, program, mesh, lambda: batch)


def _steps(config, program, mesh, next_batch: Callable[[], Batch]) -> Callable[[], None]:
    """Return a function that trains on one more batch."""
    step, key = compile_train_step(config, program, mesh, "full"), run_key(config, mesh)
    states = [fresh_state(config, program, mesh)]

    def call() -> None:
        states[0], metrics = step(states[0], next_batch(), key)
        jax.block_until_ready((states[0], metrics))

    return call


def _stream_call(case: Case) -> Call:
    """Crops of batches from a prepared photo folder, for `epoch` with a training step on each."""
    folder = draw_photos(case)
    os.environ["TFDS_DATA_DIR"] = str(folder / "records")
    mesh, config = make_mesh(), _config(case)
    config.update_from_flattened_dict(
        {
            "data.name": "folder",
            "data.dir": str(folder),
            "data.cache": case.cache,
            "data.decode": case.decode,
            "data.resize": case.side * 8 // 7,
            "optim.epochs": 1000.0,
            "batch.sampler": "shuffled" if case.classes > PHOTO_CLASSES else "balanced",
        }
    )
    dataset = make_dataset(config, folder)
    plan = make_plan(config, len(dataset.train))
    loader = make_train_loader(config, dataset, plan, mesh)
    batches = iter(())

    def load() -> Batch:
        return to_global(next(batches), mesh)

    use = load
    if case.kind == "epoch":
        program = make_program(config, len(dataset.class_names), len(dataset.train), mesh)
        use = _steps(config, program, mesh, load)

    def call() -> float:
        nonlocal batches
        with stream(loader, 0, case.batches + 1) as batches:
            jax.block_until_ready(use())  # starts the threads
            start = time.perf_counter()
            for _ in range(case.batches):
                jax.block_until_ready(use())
            return (time.perf_counter() - start) / case.batches

    return call


def _head_call(case: Case) -> Call:
    """Mining, interaction, loss, and gradients of features and head."""
    count = case.classes * case.images
    num_classes = max(NUM_CLASSES, case.classes)
    program = make_program(_config(case), num_classes, 100 * count, make_mesh())
    features = np.random.default_rng(0).standard_normal((count, WIDTH), np.float32)
    batch = Batch(*map(jnp.asarray, _rows(case, features)))
    model, key = program.model, jax.random.key(0)

    def init(key):
        features = jnp.zeros((2, WIDTH))
        made = model.init(key, features, features, train=False, method="interact")
        return made["params"]

    def loss(params, features, key):
        terms, *_ = evaluate_objective(model, params, features, batch, program.objective, key)
        return terms.total

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    params, features = jax.jit(init)(key), batch.image
    return lambda: jax.block_until_ready(step(params, features, key))


def _command(case: Case, folder: Path) -> list[str]:
    """Return the command that trains for one step on a photo folder."""
    values = {
        **{"data.dir": folder, "data.crop": case.side, "data.resize": case.side * 8 // 7},
        **{"model.trunk": case.trunk, "model.pretrained": "none", "optim.frozen_epochs": 0.0},
        **{"batch.classes": case.classes, "batch.images": case.images},
        "optim.epochs": case.classes * case.images / case.photos,
    }
    config = f"--config={_REPOSITORY / 'configs' / 'folder.py'}"
    changes = [f"--config.{name}={value}" for name, value in values.items()]
    return [sys.executable, "-m", "apinet_jax.main", config, *changes]


def _caches(folder: Path) -> dict[str, str]:
    """Return the environment of a command that keeps what it prepares in a folder."""
    kept = {"TFDS_DATA_DIR": "records", "JAX_COMPILATION_CACHE_DIR": "programs"}
    paths = {name: str(folder / "caches" / place) for name, place in kept.items()}
    given = {name: value for name, value in os.environ.items() if name not in (PRELOAD, TUNABLES)}
    return {**given, "PYTHONPATH": str(_REPOSITORY), **paths}  # which starts as from a shell


def _start_call(case: Case) -> Call:
    """Seconds from the shell until the metrics of the first step are in their file."""
    folder = draw_photos(case)
    command, environment = _command(case, folder), _caches(folder)

    def call() -> float:
        if case.cache == "empty":
            shutil.rmtree(folder / "caches", ignore_errors=True)
        workdir = Path(tempfile.mkdtemp(dir=folder.parent))
        metrics = workdir / "run" / "metrics.jsonl"
        start = time.perf_counter()
        with subprocess.Popen([*command, f"--workdir={workdir / 'run'}"], env=environment) as run:
            while not metrics.exists() or not metrics.stat().st_size:
                if run.poll() is not None:
                    raise RuntimeError("the command ended before its first step")
                time.sleep(0.005)
            seconds = time.perf_counter() - start
            run.kill()
        shutil.rmtree(workdir)
        return seconds

    return call


def _trained(case: Case) -> Path:
    """Return the workdir of a run of one step, in the folder of its photos."""
    folder = draw_photos(case)
    workdir = folder / "caches" / "run"
    command = [*_command(case, folder), f"--workdir={workdir}"]
    subprocess.run(command, env=_caches(folder), check=True)
    return workdir


def _photo_call(case: Case) -> Call:
    """The command `predict` for one photo."""
    workdir = _trained(case)
    folder = workdir.parents[1]
    photo = next((folder / "test").rglob("*.jpg"))
    command = [sys.executable, "-m", "apinet_jax", "predict", str(workdir), str(photo)]

    def call() -> None:
        subprocess.run(command, env=_caches(folder), check=True)

    return call


def _photos_call(case: Case) -> Call:
    """The classes of all photos, as `predict` computes them."""
    workdir = _trained(case)
    console.quiet = True
    run = apinet_jax.load(workdir)
    photos = list_photos([str(workdir.parents[1] / "train")])
    naming = Naming(run.class_names, run.temperature)

    def call() -> None:
        rows = [row for batch in predict_rows(run, photos, naming) for row in batch]
        if any(row["error"] for row in rows):
            raise RuntimeError("a photo was not read")

    return call
