"""New test birds with a known differing part, and the same birds with one part drawn otherwise.

After FunnyBirds (Hesse et al., ICCV 2023). A bird drawn again with the same random numbers differs
only in what was changed, so the effect of a part on a network is measured without masks.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import Image

from apinet_jax.data.birds.builder import BirdsConfig, Sighting, sighting_rng
from apinet_jax.data.birds.drawing import draw_bird
from apinet_jax.data.birds.species import PART, SPECIES, Species
from apinet_jax.data.photos import read_pixels
from apinet_jax.data.transforms import center_crop
from apinet_jax.system.console import tracked

GREY = (0.5, 0.5, 0.5)
# Parts that can be painted grey: the fields of a palette.
RECOLOURED = (
    "bill", "crown", "throat", "face", "breast", "belly", "back", "wing", "tail", "legs"
)  # fmt: skip
# A change of one pixel by the intervention, as the mean over the colours: above the rounding.
_CHANGED = 6


class Birds(NamedTuple):
    """Test birds, and each with its differing part as the rival has it.

    Attributes:
        images: The birds.
        labels: Species.
        rivals: The next species of the same genus; it differs in one part.
        swapped: The same pictures, with that part drawn as the rival's.
        parts: The visible pixels of that part.
    """

    images: UInt8[np.ndarray, "N H W 3"]
    labels: Int[np.ndarray, " N"]
    rivals: Int[np.ndarray, " N"]
    swapped: UInt8[np.ndarray, "N H W 3"]
    parts: Bool[np.ndarray, "N H W"]


def rival_of(species: int) -> int:
    """Return the next species of the genus; the last one's rival is the first."""
    genus = [one for one in range(len(SPECIES)) if SPECIES[one].genus is SPECIES[species].genus]
    return genus[(genus.index(species) + 1) % len(genus)]


def changed_pixels(
    before: UInt8[np.ndarray, "*N H W 3"], after: UInt8[np.ndarray, "*N H W 3"]
) -> Bool[np.ndarray, "*N H W"]:
    """Return the pixels that an intervention changes."""
    return np.abs(before.astype(float) - after).mean(axis=-1) > _CHANGED


def draw_birds(each: int, resize: int, crop: int, cache: Path) -> Birds:
    """Draw birds that are in no data set, or read them from `cache`.

    Args:
        each: Birds of each species.
        resize: Side of the resized pictures.
        crop: Side of their central part.
        cache: Folder for the drawings.
    """

    def draw() -> Iterator[tuple]:
        for sighting in tracked(_sightings(each), "Drawing birds", each * len(SPECIES)):
            rival = rival_of(sighting.species)
            image, parts = _draw(SPECIES[sighting.species], sighting)
            other, _ = _draw(SPECIES[rival], sighting)
            part = parts == PART[SPECIES[rival].genus.diagnostic_part]
            before, after = read_pixels([image, other], None, resize, crop)
            yield before, sighting.species, rival, after, _resized(part, resize, crop)

    return Birds(*_cached(cache / f"birds-{each}-{resize}-{crop}.npz", draw))


def draw_recoloured(
    each: int, resize: int, crop: int, cache: Path
) -> UInt8[np.ndarray, "N J H W 3"]:
    """Draw the first `each` birds of every species with one part grey, for each part but one.

    The part in which the species differ is left out: `Birds.swapped` changes it.
    """

    def draw() -> Iterator[tuple]:
        for sighting in tracked(_sightings(each), "Recolouring birds", each * len(SPECIES)):
            species = SPECIES[sighting.species]
            genus = species.genus
            kept = genus.diagnostic_part.split("_")[0]  # a tip is of its tail, a bar of its wing
            images = [
                _draw(
                    replace(
                        species,
                        genus=replace(genus, palette=genus.palette._replace(**{part: GREY})),
                    ),
                    sighting,
                )[0]
                for part in RECOLOURED
                if part != kept
            ]
            yield (read_pixels(images, None, resize, crop),)

    return _cached(cache / f"recoloured-{each}-{resize}-{crop}.npz", draw)[0]


def _sightings(each: int) -> list[Sighting]:
    """Birds beyond those of the data set; species vary fastest, so that fewer are the first."""
    first = BirdsConfig().test_per_species
    return [
        Sighting("test", species, first + index)
        for index in range(each)
        for species in range(len(SPECIES))
    ]


def _draw(species: Species, sighting: Sighting) -> tuple[np.ndarray, np.ndarray]:
    return draw_bird(species, sighting_rng(0, sighting))


def _resized(part: Bool[np.ndarray, "H W"], resize: int, crop: int) -> Bool[np.ndarray, "h w"]:
    """Return the pixels of which the part covers half, through the resize and crop of photos."""
    coverage = Image.fromarray(np.uint8(255) * part[..., None].repeat(3, axis=-1))
    coverage = np.asarray(coverage.resize((resize, resize), Image.Resampling.BOX))
    return center_crop(coverage, crop)[..., 0] >= 128


def _cached(path: Path, draw) -> list[np.ndarray]:
    """Return the stacked columns of `draw()`, stored in a file."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = [np.stack(column) for column in zip(*draw(), strict=True)]
        np.savez(path, *columns)
    with np.load(path) as stored:
        return [stored[name] for name in stored.files]
