"""Recognition of the trunk that a file of weights belongs to."""

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
    """Return the name of the trunk that a state dict fills exactly.

    Args:
        tensors: The state dict, in torch's layout, with torchvision's or timm's names.

    Raises:
        InputError: No trunk fits; the message lists the differences from the nearest one.
    """
    problems = {}
    sides = {side for tensor in tensors.values() for side in tensor.shape}
    # Tracing a trunk takes up to a second. Those without a tensor of their width cannot fit.
    for name in TRUNKS:
        if trunk_spec(name).width not in sides:
            continue
        try:
            check_fit(tensors, name)
        except InputError as error:
            problems[name] = error
        else:
            return name
    alike = {name: _alike(tensors, name) for name in problems if name in LISTED_TRUNKS}
    nearest = max(alike, key=alike.get, default=None)
    known = f"these weights fit none of the trunks {', '.join(LISTED_TRUNKS)}"
    if nearest is None or not alike[nearest]:
        raise InputError(f"{known}: their {len(tensors)} tensors are not those of a known trunk")
    raise InputError(f"{known}. The nearest is {nearest}: {problems[nearest]}")


def check_weights(path: Path, trunk: str | None) -> str:
    """Check that pretrained weights can be read and fit, and return the name of their trunk.

    Args:
        path: The safetensors file.
        trunk: The trunk that they must fit; `None` to recognise it.

    Raises:
        InputError: They cannot be read, or do not fit.
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
    """Return every tensor of a file by name, including those of a classifier.

    Args:
        path: The safetensors file.
        trunk: The trunk that the weights must fit.

    Raises:
        InputError: They cannot be read, or do not fit.
    """
    tensors = read_safetensors(path)
    try:
        check_fit(tensors, trunk)
    except InputError as error:
        raise InputError(f"{path} does not fit model.trunk = {trunk}: {error}") from error
    return tensors


def check_fit(tensors: Mapping[str, np.ndarray], trunk: str) -> None:
    """Check that a state dict fills a trunk.

    Raises:
        InputError: The trunk does not exist; a tensor is missing, unexpected, or has another shape.
    """
    select_trunk_tensors(tensors, _shapes(trunk), trunk_spec(trunk).classifier_prefixes)


def _alike(tensors: Mapping[str, np.ndarray], trunk: str) -> int:
    """Return how many tensors have the name and shape of a tensor of the trunk."""
    own = torch_shapes(_shapes(trunk))
    return sum(own.get(name) == tensor.shape for name, tensor in tensors.items())
