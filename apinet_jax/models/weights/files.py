"""State dicts in files: safetensors, or PyTorch's own, for which alone torch is imported.

torch is an extra: what trains and evaluates reads safetensors, and needs none.
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
_FOREIGN = re.compile(r"Unsupported global: GLOBAL (\S+)")  # what torch says of an object
_WRAPPERS = ("state_dict", "model")  # what training programs keep the state dict under


def read_safetensors(path: str | PathLike) -> dict[str, np.ndarray]:
    """Reads every tensor of a safetensors file.

    Args:
        path: The file.

    Returns:
        The tensors by name.

    Raises:
        InputError: The file cannot be read, is not a whole safetensors file, or holds numbers that
            NumPy has no type for.
    """
    try:
        with open(path, "rb"):  # the library takes a refusal for a file that is not there
            pass
        return load_file(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"Cannot read the weights {path}: {reason}. Check the path and its permissions."
        ) from error
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not a whole safetensors file ({error}); download it again, or make one of"
            " a torch file with: python -m apinet_jax convert"
        ) from error
    except AttributeError as error:  # the library asks NumPy for the type by name
        raise InputError(
            f"{path} holds numbers that NumPy has no type for ({error}); store them as float32"
        ) from error


def read_state(path: Path) -> dict[str, np.ndarray]:
    """Reads a state dict.

    Args:
        path: A safetensors file, or one of torch's that holds a state dict, alone or under
            `state_dict` or `model`. The prefix `module.` that `DataParallel` puts before every name
            is left out.

    Returns:
        The tensors by name; numbers with a point as float32, which is what is computed in here.

    Raises:
        InputError: If the file cannot be read, torch is missing, or there is more in it than
            tensors.
    """
    tensors = read_safetensors(path) if path.suffix == SAFETENSORS else _read_torch(path)
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return {
        name: tensor.astype(np.float32, copy=False)
        if jnp.issubdtype(tensor.dtype, jnp.floating)  # NumPy does not take bfloat16 for one
        else tensor
        for name, tensor in tensors.items()
    }


def check_suffix(path: Path) -> None:
    """Refuses a name that does not say which kind of file is wanted.

    Raises:
        InputError: With the names that do.
    """
    if path.suffix not in (SAFETENSORS, *TORCH):
        raise InputError(f"{path} should end in {', '.join((SAFETENSORS, *TORCH))}.")


def write_state(path: Path, tensors: Mapping[str, np.ndarray], wrapper: str | None = None) -> None:
    """Writes a state dict as torch's modules have it, with the counters of their BatchNorms.

    Args:
        path: Ends in `.safetensors`, or as torch's files do.
        tensors: The tensors, in torch's layout.
        wrapper: The key that the state dict lies under in a file of torch's; `None`: alone.

    Raises:
        InputError: If the name does not say which kind of file is wanted, or torch is missing.
        RunError: If the disk does not take it.
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
            part.write_bytes(save(state))  # a refusal of the library's own writing has no type
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
    except Exception as error:  # torch, pickle and zip each have their own
        found = _FOREIGN.search(str(error))
        reason = f"it holds {found[1]}" if found else str(error).partition(". ")[0].strip()
        if isinstance(error, KeyError | IndexError | EOFError):  # where a pickle would have gone on
            reason = "it is no pickle"
        raise InputError(
            f"{path} is not a file of tensors ({reason or type(error).__name__}). It is damaged, "
            "or holds other objects, which are not loaded because that may run code. Where you "
            "trust it, save its tensors alone: "
            "torch.save(torch.load(FILE, weights_only=False)['state_dict'], 'state.pth')"
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        what = "an empty one" if isinstance(content, Mapping) else type(content).__name__
        raise InputError(f"{path} holds no state dict but {what}.")
    if unnamed := [name for name in content if not isinstance(name, str)]:
        raise InputError(f"{path} holds no state dict: {unnamed[0]!r} is not the name of a tensor.")
    if others := [name for name, value in content.items() if not torch.is_tensor(value)]:
        raise InputError(
            f"{path} holds no state dict: {others[0]} is a {type(content[others[0]]).__name__}."
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
    ) as error:  # sparse, quantised, on no device
        raise InputError(
            f"{path}: the tensor {name} has no plain values ({str(error).splitlines()[0]})."
        ) from error


def _torch(what: str) -> ModuleType:
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"{what} takes PyTorch, which is not installed: pip install 'apinet_jax[torch]'. "
            f"A {SAFETENSORS} file takes none."
        ) from error
    return torch
