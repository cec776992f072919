"""Shapes and records that every other module speaks in.

Dimension vocabulary, used in every signature: `B` images in the global batch, `K` classes in a
batch, `S` images of each class, `P = 2B` pairs, `D` feature width, `M` hidden width of the mutual
MLP, `C` classes, `H W` pixels, `h w` feature-map cells, `N` records of a split.
"""

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


class PairIndex(NamedTuple):
    """The partners that mining found for each image of the batch.

    Attributes:
        intra: Nearest distinct image of the same class (0 where there is none).
        inter: Nearest image of another class (0 where there is none).
        intra_valid: Whether `intra` holds a true partner.
        inter_valid: Whether `inter` holds a true partner.
    """

    intra: Int[Array, " B"]
    inter: Int[Array, " B"]
    intra_valid: Bool[Array, " B"]
    inter_valid: Bool[Array, " B"]
