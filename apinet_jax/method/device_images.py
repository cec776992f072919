"""Crops of images that stay on the device, cut inside the training step.

The host sends the position of each crop instead of its pixels. A data set that is too large for a
copy on each device is divided among them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, UInt8

from apinet_jax.system.mesh import DATA_AXIS, replicated, sharded_by_batch

# Images of more bytes are divided: exchanging the crops of a step then costs less than the memory.
_LARGEST_COPY = 2 * 2**30


class DeviceImages(NamedTuple):
    """How the resized training images are stored on the devices.

    Attributes:
        count: Number of images, `N`; a multiple of the devices if they are divided.
        size: Their height and width, `R`.
        crop: Height and width of a crop.
        divided: Whether each device has a part of the images; else each has all.
    """

    count: int
    size: int
    crop: int
    divided: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the array [N R R*3].

        Columns and colours share an axis: a last axis of 3 would be padded to 128 in a TPU's
        memory.
        """
        return self.count, self.size, 3 * self.size

    def sharding(self, mesh: Mesh) -> NamedSharding:
        """Return the sharding of the array."""
        return sharded_by_batch(mesh) if self.divided else replicated(mesh)


def layout_of(count: int, size: int, crop: int, num_devices: int) -> DeviceImages:
    """Return how some images should be stored on the devices."""
    divided = num_devices > 1 and count * size**2 * 3 > _LARGEST_COPY
    rows = count + -count % num_devices if divided else count
    return DeviceImages(rows, size, crop, divided)


def cut_crops(
    images: UInt8[Array, "N R R*3"],
    places: Int[Array, "B 4"],
    layout: DeviceImages,
    mesh: Mesh,
) -> UInt8[Array, "B H W 3"]:
    """Return the crop at each place.

    Of divided images, each device cuts the crops of the whole batch that are in its part. Their
    sum over the devices, all but one of which have zeros, is scattered to those that need them.

    Args:
        images: Resized images.
        places: Image, top, left, and 1 for a mirrored crop; see `data.crops.CropPlace`.
        layout: How the images are stored on the devices.
        mesh: The devices.
    """
    if not layout.divided:
        return _cut(images, places, layout.crop)
    rows = PartitionSpec(DATA_AXIS)

    def on_each(
        images: UInt8[Array, "n R R*3"], places: Int[Array, "b 4"]
    ) -> UInt8[Array, "b H W 3"]:
        places = lax.all_gather(places, DATA_AXIS, tiled=True)  # [B 4]
        row = places[:, 0] - len(images) * lax.axis_index(DATA_AXIS)
        here = (row >= 0) & (row < len(images))
        crops = _cut(images, places.at[:, 0].set(jnp.where(here, row, 0)), layout.crop)
        crops = jnp.where(here[:, None, None, None], crops, jnp.zeros((), jnp.uint8))
        return lax.psum_scatter(crops, DATA_AXIS, scatter_dimension=0, tiled=True)

    return jax.shard_map(on_each, mesh=mesh, in_specs=(rows, rows), out_specs=rows)(images, places)


def _cut(
    images: UInt8[Array, "N R R*3"], places: Int[Array, "B 4"], crop: int
) -> UInt8[Array, "B H W 3"]:
    """Cut the crops out of images that are all here."""

    def cut(place: Int[Array, " 4"]) -> UInt8[Array, "H W 3"]:
        start = (place[0], place[1], 3 * place[2])
        part = lax.dynamic_slice(images, start, (1, crop, 3 * crop)).reshape(crop, crop, 3)
        return jnp.where(place[3] == 1, part[:, ::-1], part)

    return jax.vmap(cut)(places)
