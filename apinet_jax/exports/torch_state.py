"""State dicts for PyTorch: of the authors' program, or of the trunk for torchvision and timm."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from apinet_jax.models import IMAGENET_MEAN, IMAGENET_STD, trunk_spec
from apinet_jax.models.weights import hub
from apinet_jax.models.weights.authors import TRUNK_PREFIX, to_authors
from apinet_jax.models.weights.files import SAFETENSORS, check_suffix, read_state, write_state
from apinet_jax.models.weights.hub import config_file_of, pixel_statistics
from apinet_jax.models.weights.torch_names import to_torch_tensors
from apinet_jax.system.console import say
from apinet_jax.system.errors import InputError, RunError
from apinet_jax.system.paths import write_atomically
from apinet_jax.trained_network import TrainedNetwork


class Network(NamedTuple):
    """A network to convert.

    Attributes:
        trunk: Name of the trunk.
        tensors: Its tensors under `trunk.` and torch's names, and those of the head, if any.
        mean: Mean of each channel that images are normalised by; `None`: the trunk's own.
        std: Standard deviation; likewise.
        description: The text of timm's configuration of it, where there is one.
    """

    trunk: str
    tensors: dict[str, np.ndarray]
    mean: hub.Statistics | None = None
    std: hub.Statistics | None = None
    description: str | None = None

    @property
    def trunk_tensors(self) -> dict[str, np.ndarray]:
        """Tensors of the trunk, under torch's names."""
        return {
            name.removeprefix(TRUNK_PREFIX): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(TRUNK_PREFIX)
        }


def network_of(trained: TrainedNetwork) -> Network:
    """Return a trained network under torch's names."""
    trunk, (mean, std, _) = trained.config.model.trunk, trained.preprocess
    about = pixel_statistics(trunk, mean, std, trained.config.data.crop)
    tensors = to_torch_tensors(trained.variables)
    return Network(trunk, tensors, mean, std, json.dumps(about, indent=2) + "\n")


def write_authors(network: Network, target: Path) -> str:
    """Write a state dict of the authors' program, and return what it needs.

    Raises:
        InputError: If the network is not the authors', or the name of the file is wrong.
        RunError: If the disk refuses the write.
    """
    check_suffix(target)
    tensors = to_authors(network.tensors)
    make_folder(target.parent)
    write_state(target, tensors, wrapper="state_dict")
    _check_tensors(target, tensors)
    _warn_of_statistics(network)
    classes, hidden = (len(network.tensors[f"{layer}.bias"]) for layer in ("fc", "map1"))
    return f"{classes} classes, {hidden} hidden units: its models.py needs these numbers"


def write_trunk(network: Network, target: Path) -> str:
    """Write the state dict of the trunk, with its pixel statistics, and return what it is.

    Raises:
        InputError: If the name of the file is wrong, or its configuration exists already.
        RunError: If the disk refuses the write.
    """
    check_suffix(target)
    make_folder(target.parent)
    _write_statistics(network, target)
    write_state(target, network.trunk_tensors)
    _check_tensors(target, network.trunk_tensors)
    return f"the trunk, under {trunk_spec(network.trunk).library}'s names"


def _check_tensors(file: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Read a file again: every tensor has to be the same, bit for bit."""
    found = read_state(file)
    for name, tensor in tensors.items():
        if not np.array_equal(found[name], tensor, equal_nan=True):
            raise RunError(f"{file} was read back, and its {name} differs. Write it again.")


def make_folder(folder: Path) -> None:
    """Create the folder of a file.

    Raises:
        InputError: If it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"The folder {folder} cannot be created ({error.strerror}). Choose another target."
        ) from error


def _write_statistics(network: Network, target: Path) -> None:
    """Write pixel statistics to the file where `model.pretrained` expects them."""
    if network.description is None or target.suffix != SAFETENSORS:
        return
    file = config_file_of(target)
    if file.is_file() and file.read_text(errors="replace") == network.description:
        return  # the source is in the same folder
    if file.exists():
        raise InputError(
            f"{file}, for the pixel statistics of the trunk, exists already. Remove it, or "
            "choose another target."
        )
    write_atomically(file, network.description)


def _warn_of_statistics(network: Network) -> None:
    """Warn if the authors' program would normalise images differently."""
    # Only ResNets get here, whose default statistics are ImageNet's.
    mean, std = network.mean or IMAGENET_MEAN, network.std or IMAGENET_STD
    if (mean, std) != (IMAGENET_MEAN, IMAGENET_STD):
        say(
            f"WARNING: images of this network are normalised by mean {mean} and std {std}, and the "
            f"authors' program has ImageNet's {IMAGENET_MEAN} and {IMAGENET_STD} in its code: "
            "change them there."
        )
