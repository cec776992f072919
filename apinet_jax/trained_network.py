"""A trained network with everything that classifying photos needs: of a run, or published."""

import json
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import SingleDeviceSharding

from apinet_jax.config import flatten, recorded_config
from apinet_jax.config_checks import check_config
from apinet_jax.method.interaction import APINet
from apinet_jax.method.trunk_pass import Preprocess
from apinet_jax.models import check_trunk
from apinet_jax.models.weights.files import read_safetensors
from apinet_jax.models.weights.hub import CONFIG, WEIGHTS, fetch_published, is_published_on_hub
from apinet_jax.models.weights.torch_names import load_torch_tensors
from apinet_jax.setup.build import make_network
from apinet_jax.system.errors import InputError
from apinet_jax.system.paths import AnyPath, to_path
from apinet_jax.workdir.checkpoint import load_weights
from apinet_jax.workdir.checkpoint_files import resolve_checkpoint
from apinet_jax.workdir.record import recorded_fingerprint, sha256_of
from apinet_jax.workdir.seal import digest

_LARGEST = 4096  # side of images, in pixels

PUBLISHED = "apinet_jax"
"""Where `config.json` of a published network has what `read_network` needs."""


class TrainedNetwork(NamedTuple):
    """A network, its weights, and what they were trained for.

    Attributes:
        folder: The folder that it was read from.
        workdir: The folder of the run, where answers are kept; that of a published network.
        hash: The first 12 digits of the SHA-256 of the checkpoint's checksums; of a published
            network, of its file of weights.
        fingerprint: That of the photos of the run; `None` if it is not recorded.
        config: The configuration of the run.
        class_names: Name of each class, in the order of the logits.
        step: Training steps.
        temperature: Divides the logits before probabilities are taken: fitted on held-out images
            at the end of the run, and 1 where none were held out, or for another checkpoint.
        model: The network.
        preprocess: Pixel statistics and compute type.
        variables: `params` and `batch_stats`.
        published: What else is known of a published network; `None` for a run.
    """

    folder: AnyPath
    workdir: AnyPath
    hash: str
    fingerprint: str | None
    config: ml_collections.ConfigDict
    class_names: tuple[str, ...]
    step: int
    temperature: float
    model: APINet
    preprocess: Preprocess
    variables: dict[str, Any]
    published: dict[str, Any] | None = None


def read_network(
    run: AnyPath | str, checkpoint: str | int | None, device: jax.Device
) -> TrainedNetwork:
    """Read a checkpoint, or a network that was published by `export --format hub`.

    Args:
        run: A workdir, the folder of one checkpoint, or either in a bucket; or the folder of a
            published network, or `hf:OWNER/NAME` or `hf:OWNER/NAME@REVISION` for one on the hub.
        checkpoint: `last`, `best` or a step; by default the one that the run chose.
        device: Where the weights are stored.

    Raises:
        InputError: If there is no such checkpoint, or it cannot be read.
    """
    published = _published_folder(run)
    if published is not None:
        if checkpoint is not None:
            raise InputError(f"{run} is a published network, which has no checkpoints to choose.")
        return _read_published(published, device)
    folder = resolve_checkpoint(run, checkpoint)
    weights = load_weights(folder, sharding=SingleDeviceSharding(device))
    config = recorded_config(weights.metadata["config"])
    class_names, step = tuple(weights.metadata["class_names"]), weights.metadata["step"]
    model, preprocess = make_network(config, len(class_names))
    workdir = folder.parents[1]
    return TrainedNetwork(
        folder=folder,
        workdir=workdir,
        hash=digest(folder)[:12],
        fingerprint=recorded_fingerprint(workdir),
        config=config,
        class_names=class_names,
        step=step,
        temperature=_temperature(workdir, step),
        model=model,
        preprocess=preprocess,
        variables={"params": weights.params, "batch_stats": weights.batch_stats},
    )


def _temperature(workdir: AnyPath, step: int) -> float:
    """Return the temperature that the run fitted for this checkpoint, else 1."""
    results = workdir / "results.json"
    if not results.exists():
        return 1.0
    try:
        report = json.loads(results.read_text())
        if "calibration" not in report or report["steps"][report["chosen"]] != step:
            return 1.0
        return float(report["calibration"]["temperature"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{results} is damaged ({error}). Remove it to predict without a temperature."
        ) from error


def _published_folder(run: AnyPath | str) -> Path | None:
    """Return the folder of a published network, fetched from the hub if it is there."""
    if isinstance(run, str) and is_published_on_hub(run):
        return fetch_published(run)
    folder = to_path(run)
    is_published = isinstance(folder, Path) and all(
        (folder / name).is_file() for name in (CONFIG, WEIGHTS)
    )
    return folder if is_published else None


def _check_published(config: ml_collections.ConfigDict) -> None:
    """Refuse a configuration with which photos cannot be classified.

    Raises:
        InputError: With the fields that are wrong or missing.
    """
    needed = ("data.crop", "data.resize", "model.trunk", "model.dtype", "eval.batch_size")
    if missing := [name for name in needed if flatten(config)[name] is None]:
        raise InputError(f"{', '.join(missing)} is not set.")
    check_config(config)
    check_trunk(config.model.trunk, config.data.crop, config.model.pool, config.model.drop_path)
    if config.data.resize > _LARGEST:
        raise InputError(f"data.resize = {config.data.resize} is more than {_LARGEST}.")


def _read_published(folder: Path, device: jax.Device) -> TrainedNetwork:
    """Read a published network. It may come from anywhere: nothing in it is trusted.

    Its configuration names no photos: only the user does (`data_dir`).
    """
    try:
        about = json.loads((folder / CONFIG).read_text())[PUBLISHED]
        class_names = tuple(about["class_names"])
        texts = (*class_names, about["fingerprint"] or "")
        if not class_names or not all(isinstance(text, str) for text in texts):
            raise ValueError("a name is not a text")
        step, temperature = int(about["step"]), float(about["temperature"])
        if not 0 < temperature < float("inf"):
            raise ValueError(f"the temperature is {temperature}")
        saved = dict(about["config"])
    except (OSError, ArithmeticError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise InputError(
            f"{folder / CONFIG} does not describe a network of this project ({error!r}). "
            "Such a folder is written by: python -m apinet_jax export RUN FOLDER --format hub"
        ) from error
    config = recorded_config(saved)
    config.data.dir = config.data.manual_dir = None
    try:
        _check_published(config)
        model, preprocess = make_network(config, len(class_names))
        image = jax.ShapeDtypeStruct((1, config.data.crop, config.data.crop, 3), jnp.float32)
        shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), image)
    except (InputError, ValueError, TypeError, LookupError, ArithmeticError) as error:
        raise InputError(f"{folder / CONFIG} has a wrong configuration: {error}") from error
    tensors = read_safetensors(folder / WEIGHTS)
    try:
        variables = load_torch_tensors(tensors, {"batch_stats": {}, **shapes}, ())
    except InputError as error:
        raise InputError(f"{folder / WEIGHTS}: {error}.") from error
    return TrainedNetwork(
        folder=folder,
        workdir=folder,
        hash=sha256_of(folder / WEIGHTS)[:12],
        fingerprint=about["fingerprint"],
        config=config,
        class_names=class_names,
        step=step,
        temperature=temperature,
        model=model,
        preprocess=preprocess,
        variables=jax.device_put({"batch_stats": {}, **variables}, device),
        published=about,
    )
