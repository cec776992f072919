"""What the network sees of an image: a crop of it, or features that were computed before.

With the images on the device, the loader only draws the position of a crop (`CropPlace`).
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, UInt8

from apinet_jax.data.transforms import (
    Part,
    center_part,
    cut_part,
    draw_crop,
    draw_view,
    mirror,
    random_resized_crop_flip,
)


@runtime_checkable
class Reader(Protocol):
    """Resized images by their index.

    Attributes:
        size: Their height and width, `R`.
    """

    size: int

    def __call__(self, index: int, part: Part | None = None) -> UInt8[np.ndarray, "H W 3"]:
        """Return a part of an image; all of it by default."""


@dataclass(frozen=True)
class ArrayReader:
    """Resized images in memory.

    Attributes:
        images: The images.
    """

    images: UInt8[np.ndarray, "N R R 3"]

    @property
    def size(self) -> int:
        """Height and width of the images."""
        return self.images.shape[1]

    def __call__(self, index: int, part: Part | None = None) -> UInt8[np.ndarray, "H W 3"]:
        """Return a part of an image; all of it by default."""
        return cut_part(self.images[index], part)


@dataclass(frozen=True)
class RandomCrop:
    """A random crop, mirrored half of the time, as a function of (seed, step, slot).

    Attributes:
        reader: The resized images.
        crop: Height and width of a crop.
        seed: Seed of crop and flip.
        min_area: Smallest area of a random resized crop, as a fraction of the image; `None` for
            plain crops.
    """

    reader: Reader
    crop: int
    seed: int
    min_area: float | None = None

    def __call__(self, index: int, step: int, slot: int) -> UInt8[np.ndarray, "H W 3"]:
        """Return the crop of an image."""
        draw = (self.crop, self.seed, step, slot)
        if self.min_area is not None:
            return random_resized_crop_flip(self.reader(index), *draw, self.min_area)
        top, left, mirrored = draw_crop(self.reader.size, *draw)
        cut = self.reader(index, (top, left, self.crop))
        return mirror(cut) if mirrored else cut


@dataclass(frozen=True)
class CropPlace:
    """The position of the plain crop of `RandomCrop`, for images that are on the device.

    Attributes:
        size: Height and width of the resized images.
        crop: Height and width of a crop.
        seed: Seed of crop and flip.
    """

    size: int
    crop: int
    seed: int

    def __call__(self, index: int, step: int, slot: int) -> Int[np.ndarray, " 4"]:
        """Return the image, the top and left edge, and 1 if the crop is mirrored."""
        place = draw_crop(self.size, self.crop, self.seed, step, slot)
        return np.array([index, *place], np.int32)


@dataclass(frozen=True)
class AugmentedView:
    """One of a few fixed crops of each image, a function of (seed, view, index).

    Attributes:
        random_crop: The crops.
        view: Number of the view; it takes the place of the step.
    """

    random_crop: RandomCrop
    view: int

    def __call__(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """Return the crop of an image."""
        return self.random_crop(index, self.view, index)


@dataclass(frozen=True)
class CentralCrop:
    """The crop of evaluation.

    Attributes:
        reader: The resized images.
        crop: Height and width of a crop.
        mirrored: Whether it is mirrored.
    """

    reader: Reader
    crop: int
    mirrored: bool = False

    def __call__(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """Return the crop of an image."""
        image = self.reader(index, center_part(self.reader.size, self.crop))
        return image[:, ::-1] if self.mirrored else image


@dataclass(frozen=True)
class CachedViews:
    """The features of a random view, drawn by (seed, step, slot).

    Attributes:
        features: Features of each view of each image.
        seed: Seed of the draw.
    """

    features: Float[np.ndarray, "V N D"]
    seed: int

    def __call__(self, index: int, step: int, slot: int) -> Float[np.ndarray, " D"]:
        """Return the features of an image."""
        return self.features[draw_view(len(self.features), self.seed, step, slot), index]
