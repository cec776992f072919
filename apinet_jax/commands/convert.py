r"""Convert weights and checkpoints from PyTorch.

Examples:
  a trunk of torchvision or timm, for model.pretrained:
  python -m apinet_jax convert resnet101.pth resnet101.safetensors

  a checkpoint of the authors' program, into a folder that --mode eval and load_weights read:
  python -m apinet_jax convert model_best.pth.tar runs/authors \
      --data=cub --class-names=CUB_200_2011/classes.txt

  only its trunk, under its names in torchvision or timm:
  python -m apinet_jax convert model_best.pth.tar trunk.safetensors --to=torchvision

Runs are written for PyTorch by `python -m apinet_jax export`.

Float32 keeps every bit; other precisions become float32. The pixel statistics next to a file, in
timm's NAME.json or config.json, are written with its trunk. .safetensors needs no torch; .pth, .pt
and .pth.tar do: pip install "apinet_jax[torch]".
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from apinet_jax.config import default_config
from apinet_jax.data.catalog import NAMES
from apinet_jax.exports.torch_state import Network, write_authors, write_trunk
from apinet_jax.method.types import TrainState
from apinet_jax.models import trunk_spec
from apinet_jax.models.weights.authors import (
    HEAD,
    TRUNK_PREFIX,
    from_authors,
    is_authors,
)
from apinet_jax.models.weights.files import SAFETENSORS, read_state
from apinet_jax.models.weights.hub import WEIGHTS, config_file_of, find_pretrained
from apinet_jax.models.weights.recognise import check_fit, recognise
from apinet_jax.models.weights.torch_names import (
    COMPUTED,
    load_torch_tensors,
)
from apinet_jax.setup.build import make_network
from apinet_jax.system.console import print_result
from apinet_jax.system.errors import InputError
from apinet_jax.system.paths import local_path
from apinet_jax.workdir.checkpoint import Checkpoints

_HUB_PICKLE = "pytorch_model.bin"  # of older repositories on the hub


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("source", type=local_path, help="a file of weights")
    parser.add_argument("target", type=local_path, help="the file or folder to write")
    parser.add_argument(
        "--to",
        choices=["ours", "authors", "torchvision"],
        default="ours",
        help="what to write (default: ours); torchvision writes only the trunk, under timm's names "
        "if torchvision lacks it",
    )
    parser.add_argument("--trunk", help="the trunk of the source; recognised by default")
    parser.add_argument(
        "--class-names",
        type=local_path,
        metavar="FILE",
        help="a name per line, in the order of the classifier's rows; numbers by default",
    )
    parser.add_argument(
        "--data",
        choices=[name for name in NAMES if name != "birds"],
        help="the data set of the classes; folder by default",
    )


def run(arguments: argparse.Namespace) -> None:
    """Convert, and print what was written.

    Raises:
        InputError: If the source cannot be read or is of another model, or the target is there.
        RunError: If the disk does not take it.
    """
    source, target = arguments.source, arguments.target
    if not source.exists():
        raise InputError(f"There is no {source}. Name a file of weights.")
    if source.is_dir():
        raise InputError(
            f"{source} is no file of weights. A run is written for other programs by: "
            f"python -m apinet_jax export {source} {target} --format authors, or torchvision."
        )
    if target.exists():
        raise InputError(f"{target} exists already. Remove it, or choose another target.")
    network = _read_file(source, arguments.trunk)
    only_trunk = arguments.to == "torchvision" or not _has_head(network.tensors)
    _refuse_idle(arguments, writes_file=only_trunk or arguments.to == "authors")
    if arguments.to == "authors":
        about = write_authors(network, target)
    elif only_trunk:
        if arguments.to != "torchvision" and target.suffix != SAFETENSORS:
            raise InputError(f"{source} holds a trunk, so {target} should end in {SAFETENSORS}.")
        about = write_trunk(network, target)
    else:
        about = _write_ours(network, target, arguments.class_names, arguments.data or "folder")
    print_result([f"{network.trunk}, from {source}", f"  written to  {target}", f"  {about}"])


def _refuse_idle(arguments: argparse.Namespace, writes_file: bool) -> None:
    """Refuse options without effect."""
    for option, value, why in (
        ("--class-names", arguments.class_names, "a file of weights holds no names"),
        ("--data", arguments.data, "a file of weights belongs to no data set"),
    ):
        if writes_file and value is not None:
            raise InputError(f"{option} has no effect here: {why}. Leave it out.")


def _read_file(path: Path, trunk: str | None) -> Network:
    """Read a state dict of the authors, torchvision or timm, and find its trunk."""
    tensors = read_state(path)
    if is_authors(tensors):
        tensors = from_authors(tensors)
    else:
        tensors = {f"{TRUNK_PREFIX}{name}": tensor for name, tensor in tensors.items()}
    network = Network("", tensors)
    try:
        if trunk is None:
            trunk = recognise(network.trunk_tensors)
        else:
            check_fit(network.trunk_tensors, trunk)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    foreign = tuple(TRUNK_PREFIX + prefix for prefix in trunk_spec(trunk).classifier_prefixes)
    kept = {
        name: tensor
        for name, tensor in tensors.items()
        if not name.startswith(foreign) and not name.endswith(COMPUTED)
    }
    # `find_pretrained` refuses a pickle, and only the configuration next to it is needed.
    weights = path.with_name(WEIGHTS) if path.name == _HUB_PICKLE else path.with_suffix(SAFETENSORS)
    images = find_pretrained(str(weights))
    described = config_file_of(weights)
    description = described.read_text() if described.exists() else None
    return Network(trunk, kept, images.mean, images.std, description)


def _has_head(tensors: dict[str, np.ndarray]) -> bool:
    return any(name.startswith(HEAD) for name in tensors)


def _write_ours(network: Network, workdir: Path, class_names: Path | None, data: str) -> str:
    """Write a checkpoint of step 0, with the authors' configuration."""
    if workdir.suffix == SAFETENSORS:
        raise InputError(
            f"The source is a complete network, and {workdir} is not a folder. Name a folder, or "
            "only write the trunk with --to=torchvision."
        )
    for name in ("map1.bias", "fc.bias"):
        if name not in network.tensors:
            raise InputError(f"The source is not of the authors' program: it has no {name}.")
    hidden, classes = (len(network.tensors[name]) for name in ("map1.bias", "fc.bias"))
    config = default_config()
    config.data.name = data
    config.model.trunk, config.model.hidden = network.trunk, hidden
    config.model.mean, config.model.std = network.mean, network.std
    model, _ = make_network(config, classes)
    image = jnp.zeros((1, 64, 64, 3))
    shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), image)
    try:
        loaded = load_torch_tensors(network.tensors, shapes, classifier_prefixes=())
    except InputError as error:
        raise InputError(f"The head of the source is not the authors': {error}") from error
    names = _names(class_names, classes)
    state = TrainState(jnp.zeros((), jnp.int32), loaded["params"], loaded["batch_stats"], ())
    with Checkpoints(workdir, keep=1) as checkpoints:
        checkpoints.save(state, {"config": config.to_dict(), "class_names": names})
    if class_names is None:
        return (
            f"{classes} classes without names; to evaluate it, convert with --class-names=FILE, a "
            "name a line in the order of the classifier's rows"
        )
    where = " --config.data.dir=PHOTOS" if data == "folder" else ""
    return (
        f"{classes} classes ({names[0]}, ...); for its accuracy: python -m apinet_jax.main "
        f"--mode eval --workdir={workdir} --config configs/{data}.py{where}"
    )


def _names(path: Path | None, count: int) -> Sequence[str]:
    """Names of the classes, from lines `NAME` or, as in CUB, `NUMBER NAME`."""
    if path is None:
        return [str(number) for number in range(count)]
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read the class names in {path}: {error}.") from error
    lines = [line for line in lines if line]
    if all(line.startswith(f"{number} ") for number, line in enumerate(lines, 1)):
        lines = [line.partition(" ")[2].strip() for line in lines]
    if len(lines) != count:
        raise InputError(f"{path} has {len(lines)} names, and the classifier {count} classes.")
    if len(set(lines)) != count:
        raise InputError(f"{path} names a class twice; every class needs a name of its own.")
    return lines
