"""The batch of images that loaders return."""

from typing import NamedTuple

from jaxtyping import Array, Bool, Float, Int, UInt8


class Batch(NamedTuple):
    """A batch of images: a host's rows from its loader, all rows on the device.

    Attributes:
        image: Pixels, 0 to 255; or features that were computed before; or, for images on the
            device, the place of each crop: image, top, left, and 1 if it is mirrored.
        label: True class of each image.
        image_id: Record of each image. Copies of one record share it and never form a pair.
        mask: False for the padding of the last evaluation batch.
    """

    image: UInt8[Array, "B H W 3"] | Float[Array, "B D"] | Int[Array, "B 4"]
    label: Int[Array, " B"]
    image_id: Int[Array, " B"]
    mask: Bool[Array, " B"]
