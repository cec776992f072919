"""Conversion between the state dicts of torchvision or timm and the variables of a trunk.

Modules have the same names as in torch, so the path of a leaf gives the name of its tensor:
`params / layer1.0 / conv1 / kernel` is `layer1.0.conv1.weight`. A leaf outside of a layer, such as
`cls_token`, has torch's name and layout.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from apinet_jax.system.errors import InputError

TORCH_LEAF = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
# The axes of a kernel in torch's order: [kh kw I O] as [O I kh kw], [I O] as [O I].
KERNEL_AXES = {4: (3, 2, 0, 1), 2: (1, 0)}
# `denselayer1.norm.1` in torchvision's files, `denselayer1.norm1` in its module.
OLD_DENSENET_NAME = re.compile(r"(\.denselayer\d+\.(?:norm|conv))\.([12]\.)")
# Buffers that follow from other numbers: of BatchNorm, and of window attention in older files.
COMPUTED = (".num_batches_tracked", ".relative_position_index", ".attn_mask")
LISTED_NAMES = 8


def torch_shapes(variables: Mapping) -> dict[str, tuple[int, ...]]:
    """Return the shape in torch of the tensor of each leaf, by torch's name.

    Args:
        variables: Collections of a trunk, or their shapes from `jax.eval_shape`.
    """
    return {
        _torch_name(path): tuple(leaf.shape[axis] for axis in _torch_axes(path, leaf.ndim))
        for path, leaf in flatten_dict(variables).items()
    }


def select_trunk_tensors(
    tensors: Mapping[str, np.ndarray],
    variables: Mapping,
    classifier_prefixes: tuple[str, ...],
) -> dict[str, np.ndarray]:
    """Return the tensors of a trunk from a state dict, one for each leaf, by torch's name.

    Args:
        tensors: The state dict, as for `load_torch_tensors`.
        variables: Collections of the trunk, as for `torch_shapes`.
        classifier_prefixes: First letters of the names that belong to the classifier. These
            tensors are left out, as are the buffers `COMPUTED`.

    Raises:
        InputError: A leaf has no tensor, a tensor has no leaf, or a shape differs.
    """
    given = {
        OLD_DENSENET_NAME.sub(r"\1\2", name): tensor
        for name, tensor in tensors.items()
        if not name.startswith(classifier_prefixes) and not name.endswith(COMPUTED)
    }
    shapes = torch_shapes(variables)
    problems = {
        "missing": sorted(shapes.keys() - given.keys()),
        "unexpected": sorted(given.keys() - shapes.keys()),
        "of another shape": [
            f"{name} {given[name].shape} instead of {shape}"
            for name, shape in shapes.items()
            if name in given and given[name].shape != shape
        ],
    }
    if any(problems.values()):
        raise InputError(
            "the weights do not fit the trunk: "
            + "; ".join(f"{len(v)} {kind}: {_listed(v)}" for kind, v in problems.items() if v)
            + ". Check that they belong to the trunk in the configuration"
        )
    return given


def load_torch_tensors(
    tensors: Mapping[str, np.ndarray],
    variables: Mapping,
    classifier_prefixes: tuple[str, ...],
) -> dict:
    """Return variables of a trunk that are filled from a torch state dict.

    Args:
        tensors: The state dict, in torch's layout (`[out in kh kw]`, `[out in]`).
        variables: Collections of the trunk, or their shapes from `jax.eval_shape`.
        classifier_prefixes: As for `select_trunk_tensors`.

    Raises:
        InputError: As `select_trunk_tensors`.
    """
    own = select_trunk_tensors(tensors, variables, classifier_prefixes)

    def filled(path: tuple[str, ...], leaf: Any) -> jax.Array:
        axes = np.argsort(_torch_axes(path, leaf.ndim))
        return jnp.asarray(own[_torch_name(path)].transpose(axes), leaf.dtype)

    leaves = flatten_dict(variables)
    return unflatten_dict({path: filled(path, leaf) for path, leaf in leaves.items()})


def to_torch_tensors(variables: Mapping) -> dict[str, np.ndarray]:
    """Return the variables of a trunk with torch's names and layout; undo `load_torch_tensors`."""
    return {
        _torch_name(path): np.transpose(leaf, _torch_axes(path, leaf.ndim))
        for path, leaf in flatten_dict(jax.device_get(variables)).items()
    }


def _torch_name(path: tuple[str, ...]) -> str:
    _, *modules, leaf = path
    return ".".join([*modules, TORCH_LEAF.get(leaf, leaf)])


def _torch_axes(path: tuple[str, ...], ndim: int) -> tuple[int, ...]:
    """Return the axes of a leaf in the order of its tensor."""
    return KERNEL_AXES[ndim] if path[-1] == "kernel" else tuple(range(ndim))


def _listed(names: list[str]) -> str:
    listed = ", ".join(names[:LISTED_NAMES])
    return listed if len(names) <= LISTED_NAMES else f"{listed}, … ({len(names)} in all)"
