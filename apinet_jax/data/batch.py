"""One batch of images, as it crosses from the loader to the device."""

from typing import NamedTuple

from jaxtyping import Array, Bool, Int, UInt8


class Batch(NamedTuple):
    """One global batch as it crosses to the device.

    Attributes:
        image: Pixels, 0 to 255.
        label: True class of each image.
        image_id: Record each image was read from. Copies of one record share it and never pair.
        mask: False for the rows that only pad the last batch of an evaluation.
    """

    image: UInt8[Array, "B H W 3"]
    label: Int[Array, " B"]
    image_id: Int[Array, " B"]
    mask: Bool[Array, " B"]
