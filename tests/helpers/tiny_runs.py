"""Tiny training runs, in this process or in a separate one that a test may kill."""

import json
import os
import resource
import runpy
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from PIL import Image

REPOSITORY = Path(__file__).parents[2]
CONFIG = REPOSITORY / "configs/folder.py"
SLOW_MAIN = Path(__file__).parent / "slow_main.py"
CLASSES = 4

# 36 training images in batches of 8: epochs of 4 steps, a save every 3, 16 steps in all.
SETTINGS = {
    "data.resize": 36,
    "data.crop": 32,
    "data.val_fraction": 0.25,
    "data.workers": 2,
    "batch.classes": 4,
    "batch.images": 2,
    "model.trunk": "test_tiny",
    "model.pretrained": "none",
    "model.hidden": 16,
    "model.dropout": 0.5,
    "eval.batch_size": 16,
    "optim.lr": 0.01,
    "optim.epochs": 4.0,
    "optim.frozen_epochs": 1.0,
    "checkpoint.every": 0.75,
}


def draw_photos(folder, classes=CLASSES, train=12, test=4, size=40, suffix="png"):
    """Noise with a tint for each class: some accuracy can be learned, but not all."""
    random = np.random.default_rng(0)
    for split, count in {"train": train, "test": test}.items():
        for label in range(classes):
            place = folder / split / f"class{label}"
            place.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 200, (size, size, 3), np.uint8)
                pixels[..., label % 3] += 4 + 4 * (label // 3)
                Image.fromarray(pixels).save(place / f"{number}.{suffix}")
    return folder


def settings_for(photos, **overrides):
    """The settings by their dotted names; `optim__lr=1.0` overrides `optim.lr`."""
    changed = {name.replace("__", "."): value for name, value in overrides.items()}
    return {**SETTINGS, "data.dir": str(photos), **changed}


def config_for(photos, **overrides):
    """The configuration with these settings."""
    config = runpy.run_path(str(CONFIG))["get_config"]()
    config.update_from_flattened_dict(settings_for(photos, **overrides))
    return config


def save_trunk(path, name=SETTINGS["model.trunk"]):
    """Write random weights of a trunk, with torchvision's or timm's names."""
    import jax
    from safetensors.numpy import save_file

    from apinet_jax.models import make_trunk
    from apinet_jax.models.weights.torch_names import to_torch_tensors

    trunk, image = make_trunk(name), jax.numpy.zeros((1, 32, 32, 3))
    variables = jax.jit(lambda key: trunk.init(key, image, train=False))(jax.random.key(3))
    tensors = {k: np.ascontiguousarray(v) for k, v in to_torch_tensors(variables).items()}
    save_file(tensors, path)
    return path


def train(config, workdir, *, devices=1, **kwargs):
    """Train on some of this process's devices."""
    import jax

    from apinet_jax.training import train

    return train(config, workdir, devices=jax.devices()[:devices], **kwargs)


def evaluate(*args, devices=1, **kwargs):
    """Evaluate on some of this process's devices."""
    import jax

    from apinet_jax.evaluation import evaluate

    return evaluate(*args, devices=jax.devices()[:devices], **kwargs)


def options(settings, workdir):
    """The settings as a command line."""
    return [
        f"--config={CONFIG}",
        f"--workdir={workdir}",
        *(f"--config.{name}={value}" for name, value in settings.items()),
    ]


@contextmanager
def started(arguments, program=("-m", "apinet_jax.main"), devices=2):
    """A run in its own process group, which is killed afterwards."""
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    environment = {
        **os.environ,
        "XLA_FLAGS": flags,
        "JAX_PLATFORMS": "cpu",
        # A program that another process is just writing to the cache is compiled instead.
        "PYTHONWARNINGS": "ignore:Error reading persistent compilation cache entry:UserWarning",
        "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests/helpers'}",
    }
    process = subprocess.Popen(
        [sys.executable, *program, *arguments],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with the workers, where a test failed
        process.communicate(timeout=60)


def run_command(arguments, **kwargs):
    """Run until the end; return the exit code and the output."""
    with started(arguments, **kwargs) as process:
        output, _ = process.communicate(timeout=300)
        return process.returncode, output


def wait_until(process, moment, workdir, timeout=120.0):
    """Poll until the moment comes."""
    end = time.monotonic() + timeout
    while not moment(workdir):
        if process.poll() is not None or time.monotonic() > end:
            raise AssertionError(f"{moment} never came:\n{process.communicate()[0]}")
        time.sleep(0.001)


def rows_of(workdir):
    """The complete rows of `metrics.jsonl`."""
    path = workdir / "metrics.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().split("\n")[:-1] if line]


def trained(step):
    return lambda workdir: any(
        row["kind"] == "train" and row["step"] >= step for row in rows_of(workdir)
    )


def evaluating(step):
    """After the last training step of an epoch, before the row of its evaluation."""

    def moment(workdir):
        kinds = {row["kind"] for row in rows_of(workdir) if row["step"] == step}
        return kinds == {"train"}

    return moment


def sessions(workdir):
    """Number of sessions that reached their first step."""
    path = workdir / "run.json"
    return len(json.loads(path.read_text())["sessions"]) if path.exists() else 0


def saving(folder):
    return lambda workdir: any((workdir / folder).glob("*.orbax-checkpoint-tmp*"))


@contextmanager
def full_disk(size):
    """Limit the size of the files that this process writes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def content_of(folder):
    """Content and modification time of every file below a folder."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
