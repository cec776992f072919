"""The drawn birds as an ordinary folder of photos, to try what is done with one's own."""

import os
from collections.abc import Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path

from apinet_jax.data.birds.builder import Sighting, draw_record
from apinet_jax.data.birds.species import SPECIES
from apinet_jax.system.console import tracked
from apinet_jax.system.errors import InputError, explain_failed_writes


def write_photos(folder: Path, counts: dict[str, int], species: Sequence[int], seed: int) -> None:
    """Draw birds into `FOLDER/<split>/<species>/*.jpg`; those of the demo where the seed is 0.

    Args:
        folder: A folder that does not exist yet, or is empty.
        counts: Pictures of each species by split, `train` and `test`.
        species: Which of `SPECIES`.
        seed: Determines every picture.

    Raises:
        InputError: The folder is not empty, or is a file.
        RunError: A file cannot be written.
    """
    if folder.is_file():
        raise InputError(f"{folder} is a file. Name a new folder.")
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty. Name a new folder.")
    sightings = [
        Sighting(split, number, index)
        for split, count in counts.items()
        for number in species
        for index in range(count)
    ]

    def write(sighting: Sighting) -> None:
        file = Path(sighting.file_name).name + ".jpg"
        path = folder / sighting.split / SPECIES[sighting.species].name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(draw_record(seed, sighting)["image"])

    with explain_failed_writes(folder), ThreadPool(os.cpu_count()) as pool:
        drawn = pool.imap_unordered(write, sightings)
        for _ in tracked(drawn, "Drawing the birds", len(sightings)):
            pass
