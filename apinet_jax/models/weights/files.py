"""State dicts in files: safetensors, or PyTorch's own format, which needs torch.

torch is an optional dependency: training and evaluation only read safetensors.
"""

import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from apinet_jax.system.errors import InputError, explain_failed_writes

SAFETENSORS = ".safetensors"
TORCH = (".pth", ".pt", ".tar", ".bin")
_FOREIGN = re.compile(r"Unsupported global: GLOBAL (\S+)")  # torch's message about an object
_WRAPPERS = ("state_dict", "model")  # keys of the state dict in the files of training programs


def read_safetensors(path: str | PathLike) -> dict[str, np.ndarray]:
    """Return every tensor of a safetensors file by name.

    Raises:
        InputError: The file cannot be read, is damaged, or has numbers without a NumPy type.
    """
    try:
        with open(path, "rb"):  # the library reports a permission error as a missing file
            pass
        return load_file(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"Cannot read the weights {path}: {reason}. Check the path and its permissions."
        ) from error
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not a complete safetensors file ({error}); download it again, or convert a"
            " torch file with: python -m apinet_jax convert"
        ) from error
    except AttributeError as error:  # the library looks up the NumPy type by name
        raise InputError(
            f"{path} has numbers without a NumPy type ({error}); store them as float32"
        ) from error


def read_state(path: Path) -> dict[str, np.ndarray]:
    """Return a state dict: the tensors by name, floating-point ones as float32.

    Args:
        path: A safetensors file, or a torch file with a state dict at the top level or under
            `state_dict` or `model`. The prefix `module.` of `DataParallel` is removed.

    Raises:
        InputError: The file cannot be read, torch is missing, or the file has objects other than
            tensors.
    """
    tensors = read_safetensors(path) if path.suffix == SAFETENSORS else _read_torch(path)
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return {
        name: tensor.astype(np.float32, copy=False)
        if jnp.issubdtype(tensor.dtype, jnp.floating)  # NumPy does not know bfloat16
        else tensor
        for name, tensor in tensors.items()
    }


def check_suffix(path: Path) -> None:
    """Refuse a file name with an unknown ending.

    Raises:
        InputError: With the known endings.
    """
    if path.suffix not in (SAFETENSORS, *TORCH):
        raise InputError(f"{path} should end in {', '.join((SAFETENSORS, *TORCH))}.")


def write_state(path: Path, tensors: Mapping[str, np.ndarray], wrapper: str | None = None) -> None:
    """Write a state dict as torch's modules have it, with the counters of their BatchNorms.

    Args:
        path: Ends in `.safetensors`, or as torch's files do.
        tensors: The tensors, in torch's layout.
        wrapper: Key of the state dict in a torch file; `None` for the top level.

    Raises:
        InputError: The ending of the name is unknown, or torch is missing.
        RunError: The disk refuses the write.
    """
    check_suffix(path)
    counters = {
        name.replace("running_mean", "num_batches_tracked"): np.array(0, np.int64)
        for name in tensors
        if name.endswith(".running_mean")
    }
    state = {name: np.array(tensor, order="C") for name, tensor in {**tensors, **counters}.items()}
    part = path.with_name(f"{path.name}.part")
    if path.suffix == SAFETENSORS:
        with explain_failed_writes(path):
            part.write_bytes(save(state))  # the library's own write errors have no type
            part.replace(path)
        return
    torch = _torch(f"Writing {path}")
    content = {name: torch.from_numpy(tensor) for name, tensor in state.items()}
    with explain_failed_writes(path):
        torch.save({wrapper: content} if wrapper else content, part)
        part.replace(path)


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    torch = _torch(f"Reading {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}; check the path.") from error
    except Exception as error:  # torch, pickle and zip raise many types
        found = _FOREIGN.search(str(error))
        reason = f"it contains {found[1]}" if found else str(error).partition(". ")[0].strip()
        if isinstance(
            error, KeyError | IndexError | EOFError
        ):  # of a file that looks like a pickle
            reason = "it is not a pickle"
        raise InputError(
            f"{path} is not a file of tensors ({reason or type(error).__name__}). It is damaged, "
            "or contains other objects, which are not loaded because that may run code. If you "
            "trust it, save only its tensors: "
            "torch.save(torch.load(FILE, weights_only=False)['state_dict'], 'state.pth')"
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        what = "an empty one" if isinstance(content, Mapping) else type(content).__name__
        raise InputError(f"{path} has no state dict but {what}.")
    if unnamed := [name for name in content if not isinstance(name, str)]:
        raise InputError(f"{path} has no state dict: {unnamed[0]!r} is not the name of a tensor.")
    if others := [name for name, value in content.items() if not torch.is_tensor(value)]:
        raise InputError(
            f"{path} has no state dict: {others[0]} is a {type(content[others[0]]).__name__}."
        )
    return {name: _to_numpy(path, name, tensor) for name, tensor in content.items()}


def _to_numpy(path: Path, name: str, tensor: Any) -> np.ndarray:
    tensor = tensor.detach()
    try:
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    except (
        TypeError,
        RuntimeError,
        NotImplementedError,
    ) as error:  # sparse, quantised, or on no device
        raise InputError(
            f"{path}: the tensor {name} has no plain values ({str(error).splitlines()[0]})."
        ) from error


def _torch(what: str) -> ModuleType:
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"{what} needs PyTorch, which is not installed: pip install 'apinet_jax[torch]'. "
            f"A {SAFETENSORS} file does not need it."
        ) from error
    return torch
