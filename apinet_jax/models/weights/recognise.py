"""Which trunk a file of weights belongs to."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np

from apinet_jax.models import LISTED_TRUNKS, TRUNKS, trunk_spec, variable_shapes
from apinet_jax.models.weights.files import read_safetensors
from apinet_jax.models.weights.torch_names import select_trunk_tensors, torch_shapes
from apinet_jax.system.errors import InputError

_shapes = cache(variable_shapes)


def recognise(tensors: Mapping[str, np.ndarray]) -> str:
    """Finds the trunk that a state dict fills exactly.

    Args:
        tensors: The state dict, in torch's layout and under torchvision's or timm's names.

    Returns:
        Its name in `TRUNKS`.

    Raises:
        InputError: If there is none; the message lists what the nearest lacks.
    """
    problems = {}
    for name in TRUNKS:
        try:
            check_fit(tensors, name)
        except InputError as error:
            problems[name] = error
        else:
            return name
    alike = {name: _alike(tensors, name) for name in LISTED_TRUNKS}
    nearest = max(alike, key=alike.get)
    known = f"these weights are of none of the trunks {', '.join(LISTED_TRUNKS)}"
    if not alike[nearest]:
        raise InputError(f"{known}: not one of their {len(tensors)} tensors is")
    raise InputError(f"{known}. For {nearest}, the nearest: {problems[nearest]}")


def check_weights(path: Path, trunk: str | None) -> str:
    """Reads weights that training is to start from, before anything else is done for it.

    Args:
        path: The safetensors file.
        trunk: The trunk that they are for; `None`: whichever they are of.

    Returns:
        The trunk.

    Raises:
        InputError: If they cannot be read, or are not the trunk's.
    """
    if trunk is not None:
        read_weights(path, trunk)
        return trunk
    tensors = read_safetensors(path)
    try:
        return recognise(tensors)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def read_weights(path: Path, trunk: str) -> dict[str, np.ndarray]:
    """Reads the weights of a trunk.

    Args:
        path: The safetensors file.
        trunk: The trunk that they are for.

    Returns:
        Every tensor of the file by name, those of a classifier too.

    Raises:
        InputError: If they cannot be read, or are not the trunk's.
    """
    tensors = read_safetensors(path)
    try:
        check_fit(tensors, trunk)
    except InputError as error:
        raise InputError(f"{path} does not fit model.trunk = {trunk}: {error}") from error
    return tensors


def check_fit(tensors: Mapping[str, np.ndarray], trunk: str) -> None:
    """Checks that a state dict fills a trunk.

    Raises:
        InputError: If there is no such trunk; if a tensor is missing, is of no layer of it, or has
            another shape.
    """
    select_trunk_tensors(tensors, _shapes(trunk), trunk_spec(trunk).classifier_prefixes)


def _alike(tensors: Mapping[str, np.ndarray], trunk: str) -> int:
    """How many tensors have name and shape of one of the trunk's."""
    own = torch_shapes(_shapes(trunk))
    return sum(own.get(name) == tensor.shape for name, tensor in tensors.items())
