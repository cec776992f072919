"""Names of tensors in the authors' program.

There the trunk is `conv`, a `Sequential` of the first eight children of torchvision's ResNet in a
`DataParallel`: `conv.module.4.0.conv1.weight` is `layer1.0.conv1.weight`. Children 2 and 3, ReLU
and pooling, have no tensors. The head has `map1`, `map2` and `fc`, as here.
"""

import re
from collections.abc import Mapping

import numpy as np

from apinet_jax.system.errors import InputError

TRUNK_PREFIX = "trunk."
HEAD = ("map1.", "map2.", "fc.")
_CHILDREN = {0: "conv1", 1: "bn1", 4: "layer1", 5: "layer2", 6: "layer3", 7: "layer4"}
_INDEX = {name: index for index, name in _CHILDREN.items()}
_TRUNK_NAME = re.compile(r"conv\.(?:module\.)?([0-9]{1,3})\.(.+)")


def is_authors(tensors: Mapping[str, np.ndarray]) -> bool:
    """Return whether a state dict has the authors' names, with or without `DataParallel`."""
    return any(_TRUNK_NAME.fullmatch(name) for name in tensors)


def from_authors(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename tensors as in `APINet`: `trunk.`, then torchvision's name; the head is unchanged."""
    return {_from_authors(name): tensor for name, tensor in tensors.items()}


def to_authors(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Undo `from_authors`, with `DataParallel`.

    Raises:
        InputError: The trunk is not a ResNet, or a layer of the head is missing.
    """
    for layer in HEAD:
        if not any(name.startswith(layer) for name in tensors):
            raise InputError(
                f"There is no {layer[:-1]} in this network, and the authors' program needs "
                "map1, map2 and fc. Write only its trunk, in the format torchvision."
            )
    return {_to_authors(name): tensor for name, tensor in tensors.items()}


def _from_authors(name: str) -> str:
    found = _TRUNK_NAME.fullmatch(name)
    if not found:
        return name
    index, rest = found.groups()
    return f"{TRUNK_PREFIX}{_CHILDREN.get(int(index), index)}.{rest}"


def _to_authors(name: str) -> str:
    if not name.startswith(TRUNK_PREFIX):
        return name
    child, _, rest = name.removeprefix(TRUNK_PREFIX).partition(".")
    if child not in _INDEX:
        raise InputError(
            f"The authors' program only has ResNets, and this trunk has a layer {child}. Write "
            "only the trunk, in the format torchvision."
        )
    return f"conv.module.{_INDEX[child]}.{rest}"
