"""Laptop mode: a trunk that never moves computes the features of each image once.

The features are those of evaluation mode, so that the trained network, trunk and head, gives the
same scores from pixels. They are stored next to the prepared records, one file for each split and
view, named after everything that they depend on.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from apinet_jax.data.crops import AugmentedView, CentralCrop
from apinet_jax.data.feature_file import read_or_compute
from apinet_jax.data.pipeline import EvalLoader
from apinet_jax.data.source import Dataset, Source
from apinet_jax.evaluation import apply_to_split
from apinet_jax.method.classify import image_features
from apinet_jax.method.optim import TRUNK
from apinet_jax.method.steps import make_eval_step
from apinet_jax.method.trunk_pass import Preprocess
from apinet_jax.method.types import TrainState
from apinet_jax.setup.build import Program
from apinet_jax.setup.loaders import CACHE, make_eval_loader, make_reader, random_crop
from apinet_jax.system import hosts
from apinet_jax.system.mesh import make_mesh, replicated
from apinet_jax.system.paths import records_root

_FORMAT = 1  # raise it where the pixels or the features of the same settings change
# Fields of `model` that do not change features in evaluation mode. `pretrained` is a name; the
# weights themselves are hashed.
_NOT_IN_KEY = (
    *("pretrained", "mean", "std", "batch_norm", "drop_path", "remat"),
    *("hidden", "dropout", "drop_path", "mutual_activation", "mutual", "gates", "interaction"),
)
_CENTRAL, _MIRRORED = 0, -1  # views; random ones are counted from 1


class Features(NamedTuple):
    """Features of the images of a run.

    Attributes:
        train: Of the central crop and of each random view of the training images.
        evaluated: Of the central crops of the other splits, by name; with `eval.flip` their mean
            with those of the mirror images.
    """

    train: Float[np.ndarray, "V N D"]
    evaluated: dict[str, Float[np.ndarray, "N D"]]


def cached_features(
    config: ml_collections.ConfigDict,
    dataset: Dataset,
    program: Program,
    state: TrainState,
    mesh: Mesh,
    check_signals: Callable[[], None],
) -> Features:
    """Return the features of all images of a run; compute those that no earlier run has stored.

    Args:
        config: Completed configuration.
        dataset: The images.
        program: With the network.
        state: With the weights of its trunk.
        mesh: The data mesh. Each host computes the features that its disk lacks.
        check_signals: Called between batches; may raise to stop.

    Raises:
        RunError: If the device runs out of memory.
    """
    mesh = make_mesh(mesh.local_devices)
    if hosts.is_multiprocess():  # the check would wait for hosts that find the features on a disk
        check_signals = _never
    settings = {"model": program.model, "preprocess": program.preprocess}
    variables = jax.device_put(
        jax.tree.map(np.asarray, ({TRUNK: state.params[TRUNK]}, state.batch_stats)),
        replicated(mesh),
    )
    step = partial(make_eval_step(mesh, image_features, **settings), *variables)
    weights = digest_of(variables)

    def of_view(source: Source, view: int) -> Float[np.ndarray, "N D"]:
        """Features of the complete split are stored: other runs hold out other images of it."""
        key = feature_key(config, program.preprocess, source, dataset.fingerprint, weights, view)

        def compute() -> Float[np.ndarray, "N D"]:
            loader = _loader_of_view(config, source, dataset.fingerprint, view, mesh)
            title = f"Features of the {source.split} images, {_name(view)}"
            return apply_to_split(step, loader, mesh, title, config.data.workers, check_signals)

        name = f"features-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npz"
        path = records_root() / CACHE / name
        return read_or_compute(path, key, compute, check_signals)[source.rows]

    def make() -> Features:
        with jax.set_mesh(mesh):
            views = range(1 + config.train.views)
            train = np.stack([of_view(dataset.train, view) for view in views])
            views = (_CENTRAL, _MIRRORED) if config.eval.flip else (_CENTRAL,)
            evaluated = {
                split: np.mean([of_view(source, view) for view in views], axis=0)
                for split, source in dataset.splits.items()
                if split != "train"
            }
            return Features(train, evaluated)

    return hosts.run_on_primary_first(make)


def _loader_of_view(
    config: ml_collections.ConfigDict, source: Source, fingerprint: str, view: int, mesh: Mesh
) -> EvalLoader:
    """Return the loader of one view of all records of a split."""
    count = len(source.records)
    labels = np.zeros(count, np.int32)  # not used
    complete = replace(source, rows=np.arange(count), labels=labels, file_names=())
    reader = make_reader(config, complete, fingerprint)
    image: Callable[[int], np.ndarray]
    if view > 0:
        image = AugmentedView(random_crop(config, reader, config.train.view_seed), view)
    else:
        image = CentralCrop(reader, config.data.crop, mirrored=view == _MIRRORED)
    return make_eval_loader(config, complete, fingerprint, mesh, image)


def _name(view: int) -> str:
    return {_CENTRAL: "central crop", _MIRRORED: "mirrored"}.get(view, f"random crop {view}")


def _never() -> None:
    """Stop for no signal."""


def feature_key(
    config: ml_collections.ConfigDict,
    preprocess: Preprocess,
    source: Source,
    fingerprint: str,
    weights: str,
    view: int,
) -> str:
    """Return everything that the features of a split depend on.

    Args:
        config: Completed configuration.
        preprocess: Pixel statistics.
        source: Images of the split.
        fingerprint: Hash of the data set.
        weights: Hash of the trunk's weights.
        view: 0 for the central crop, -1 for its mirror image, else the number of a random crop.
    """
    data, model = config.data, config.model.to_dict()
    windows = None if source.windows is None else hashlib.sha256(source.windows.tobytes())
    random = [config.train.view_seed, data.augmentation]
    random += [data.min_area] * (data.augmentation == "random_resized")
    # Photos with windows are never reduced; keys of others stay as they were.
    decoding = [data.decode] * (data.decode != "full" and source.windows is None)
    parts = {
        "format": _FORMAT,
        "images": [fingerprint, source.split, windows and windows.hexdigest()],
        "weights": weights,
        "model": {name: value for name, value in model.items() if name not in _NOT_IN_KEY},
        "pixels": [data.resize, data.crop, preprocess.mean, preprocess.std, *decoding],
        "view": [view, *random] if view > 0 else [view],
        "platform": jax.default_backend(),
    }
    return json.dumps(parts, sort_keys=True)


def digest_of(variables: Any) -> str:
    """Return the SHA-256 of named arrays, in hexadecimal."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(variables):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
