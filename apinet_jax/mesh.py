"""The data mesh: every device holds a slice of the batch and a copy of the parameters."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from apinet_jax.array_types import Batch
from apinet_jax.errors import InputError

DATA_AXIS = "data"


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


def to_global(batch: Batch, mesh: Mesh) -> Batch:
    """Joins the rows that each host loaded into one global batch.

    Args:
        batch: This host's rows as NumPy arrays.
        mesh: The data mesh.

    Returns:
        The same fields as global arrays, sharded by row.
    """
    sharding = sharded_by_batch(mesh)
    return Batch(*(jax.make_array_from_process_local_data(sharding, field) for field in batch))


def host_rows(batch_size: int) -> slice:
    """The rows of the global batch that this host loads."""
    rows = batch_size // jax.process_count()
    return slice(jax.process_index() * rows, (jax.process_index() + 1) * rows)


def check_divisible(batch_size: int, mesh: Mesh, where: str) -> None:
    """Refuses a batch that the devices cannot share equally.

    Args:
        batch_size: Images of the global batch, `B`.
        mesh: The data mesh.
        where: The settings that made `batch_size`, for the message.

    Raises:
        InputError: If `batch_size` is not a multiple of the number of devices.
    """
    if batch_size % mesh.size:
        below, above = batch_size - batch_size % mesh.size, batch_size + -batch_size % mesh.size
        raise InputError(
            f"A batch of {batch_size} images ({where}) cannot be shared equally by {mesh.size} "
            f"devices. Choose {where} so that the batch is a multiple of {mesh.size}, "
            f"for instance {below or above} or {above}."
        )


def as_numpy(tree: object) -> object:
    """Copies a tree of fully replicated arrays to this host in one transfer."""
    return jax.tree.map(np.asarray, jax.device_get(tree))
