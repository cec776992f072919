"""The data mesh: every device holds a slice of the batch and a copy of the parameters."""

import importlib.util
import os
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int

from apinet_jax.system.errors import InputError

DATA_AXIS = "data"

T = TypeVar("T", bound=tuple)


def available_devices() -> list[jax.Device]:
    """Return the devices of all processes; the first call starts the backend.

    Raises:
        InputError: If JAX cannot start the platform that was asked for.
    """
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # an assertion: a platform without its plugin
        raise InputError(_why_no_device(str(error))) from error


def _why_no_device(text: str) -> str:
    reason = text.partition(" (set JAX_PLATFORMS")[0].rstrip(".")
    asked = os.environ.get("JAX_PLATFORMS")
    if not asked:
        return f"JAX cannot start a device: {reason}. To use the CPU, set JAX_PLATFORMS=cpu."
    packages = {"cuda": "jax_cuda12_plugin", "tpu": "libtpu"}
    installed = [name for name, package in packages.items() if importlib.util.find_spec(package)]
    available = ", ".join(["cpu", *(name for name in installed if name not in asked)])
    extra = {"cuda": "cuda12", "gpu": "cuda12", "tpu": "tpu"}.get(asked.split(",")[0])
    install = f'Install "jax[{extra}]=={jax.__version__}", or unset' if extra else "Unset"
    return (
        f"JAX has no {asked} here (available: {available}). {install} JAX_PLATFORMS."
        + f" JAX says: {reason}." * bool(reason)
    )


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """Return a one-axis mesh over `devices`, by default all devices of all hosts.

    The axis is `Auto`: the compiler partitions the step. The default of `jax.make_mesh` is an
    explicit axis, where every gather across shards must be spelled out.

    Raises:
        InputError: If JAX cannot start the platform that was asked for.
    """
    devices = available_devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (DATA_AXIS,), (AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of parameters and optimizer state: a full copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def sharded_by_batch(mesh: Mesh) -> NamedSharding:
    """Return the sharding of arrays with a leading batch axis: a slice of rows on each device."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def to_global(batch: T, mesh: Mesh) -> T:
    """Join the rows that each host loaded into one global batch.

    Args:
        batch: This host's rows: a named tuple of NumPy arrays, such as `Batch`.
        mesh: The data mesh.

    Returns:
        The same fields as global arrays, sharded by row.
    """
    sharding, per_device = sharded_by_batch(mesh), len(batch[0]) // len(mesh.local_devices)
    batch_size = per_device * mesh.size
    firsts = host_rows(batch_size, mesh)[::per_device]

    def to_devices(field: np.ndarray) -> jax.Array:
        def of_device(index: tuple[slice, ...]) -> np.ndarray:
            own = np.searchsorted(firsts, index[0].start or 0) * per_device
            return field[own : own + per_device]

        return jax.make_array_from_callback((batch_size, *field.shape[1:]), sharding, of_device)

    return type(batch)(*map(to_devices, batch))


def host_rows(batch_size: int, mesh: Mesh) -> Int[np.ndarray, " rows"]:
    """Return the rows of the global batch that this host's devices hold, ascending.

    They need not be contiguous: a mesh follows the links between chips, not the hosts.

    Args:
        batch_size: Images of the global batch, a multiple of the number of devices.
        mesh: The data mesh.
    """
    slices = sharded_by_batch(mesh).addressable_devices_indices_map((batch_size,)).values()
    return np.sort(np.concatenate([np.arange(batch_size)[index] for index in slices]))


def check_divisible(batch_size: int, mesh: Mesh, where: str, microbatches: int = 1) -> None:
    """Refuse a batch that the devices cannot share equally.

    Args:
        batch_size: Images of the global batch, `B`.
        mesh: The data mesh.
        where: The settings that give `batch_size`, for the message.
        microbatches: Parts of the batch; the devices share each of them.

    Raises:
        InputError: If `batch_size` is not a multiple of devices times microbatches.
    """
    unit = mesh.size * microbatches
    if batch_size % unit:
        below, above = batch_size - batch_size % unit, batch_size + -batch_size % unit
        parts = f", each of {microbatches} microbatches" if microbatches > 1 else ""
        raise InputError(
            f"A batch of {batch_size} images ({where}) cannot be shared equally by {mesh.size} "
            f"devices{parts}. Choose {where} so that the batch is a multiple of {unit}, "
            f"for instance {below or above} or {above}."
        )
