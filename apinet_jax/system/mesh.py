"""The data mesh: every device holds a slice of the batch and a copy of the parameters."""

from typing import TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int

from apinet_jax.system.errors import InputError

DATA_AXIS = "data"

T = TypeVar("T", bound=tuple)


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """A one-axis mesh over `devices` (all of them by default), whatever their number and hosts.

    The axis is `Auto`: the compiler partitions the step. `jax.make_mesh` alone would make it
    explicit, where gathering partners across shards has to be spelled out.
    """
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (DATA_AXIS,), (AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of parameters, optimizer state and metrics: a whole copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def sharded_by_batch(mesh: Mesh) -> NamedSharding:
    """The sharding of everything with a leading batch axis: a slice of rows on each device."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def to_global(batch: T, mesh: Mesh) -> T:
    """Joins the rows that each host loaded into one global batch.

    Args:
        batch: This host's rows: a named tuple of NumPy arrays, as `Batch`.
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
    """The rows of the global batch that this host loads, ascending: those of its devices.

    They need not lie side by side: a mesh follows the wires between chips, not the hosts.

    Args:
        batch_size: Images of the global batch, a multiple of the number of devices.
        mesh: The data mesh.
    """
    slices = sharded_by_batch(mesh).addressable_devices_indices_map((batch_size,)).values()
    return np.sort(np.concatenate([np.arange(batch_size)[index] for index in slices]))


def check_divisible(batch_size: int, mesh: Mesh, where: str, microbatches: int = 1) -> None:
    """Refuses a batch that the devices cannot share equally.

    Args:
        batch_size: Images of the global batch, `B`.
        mesh: The data mesh.
        where: The settings that made `batch_size`, for the message.
        microbatches: Parts of the batch, each of which they share.

    Raises:
        InputError: If `batch_size` is not a multiple of the number of devices, and of the parts.
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
