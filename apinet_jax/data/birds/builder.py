"""The demo data set: birds drawn by the project, with the parts visible in every picture."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import tensorflow_datasets as tfds

from apinet_jax.data.birds.drawing import draw_bird
from apinet_jax.data.birds.species import GENERA, PART_NAMES, SPECIES, differing_parts
from apinet_jax.data.records.builder import LocalInfo
from apinet_jax.system.console import tracked

_SPLITS = ("train", "test")
_JPEG = (
    cv2.IMWRITE_JPEG_QUALITY,
    95,
    # Full-resolution colour: subsampling would smear marks that are a few pixels wide.
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
)


class Sighting(NamedTuple):
    """One picture; together with the seed, it determines every random number in it."""

    split: str
    species: int
    index: int

    @property
    def file_name(self) -> str:
        """A stable id, such as `train/horn_billed_bramblefinch_017`."""
        name = SPECIES[self.species].name.lower().replace(" ", "_").replace("-", "_")
        return f"{self.split}/{name}_{self.index:03d}"


@dataclass(eq=False)
class BirdsConfig(tfds.core.BuilderConfig):
    """Seed and size of the data set.

    Attributes:
        seed: Determines every picture.
        train_per_species: Training pictures of each species.
        test_per_species: Test pictures of each species.
    """

    name: str = ""
    seed: int = 0
    train_per_species: int = 40
    test_per_species: int = 20

    def __post_init__(self):
        # The name is that of the folder, so two seeds never share one.
        counts = f"{self.train_per_species}_{self.test_per_species}"
        self.name = self.name or f"seed{self.seed}_{counts}"

    def sightings(self, split: str) -> list[Sighting]:
        """Return the pictures of a split in record order: species by species."""
        count = self.train_per_species if split == "train" else self.test_per_species
        return [
            Sighting(split, species, index)
            for species in range(len(SPECIES))
            for index in range(count)
        ]


def sighting_rng(seed: int, sighting: Sighting) -> np.random.Generator:
    """Return the generator of one picture; Philox streams of different keys are independent."""
    split, species, index = sighting
    counter = (_SPLITS.index(split) << 48) | (species << 32) | index
    return np.random.Generator(np.random.Philox(key=np.array([seed, counter], np.uint64)))


def draw_record(seed: int, sighting: Sighting) -> dict[str, Any]:
    """Draw one picture; return its record, with a JPEG and, for the part map, a PNG file."""
    species = SPECIES[sighting.species]
    image, parts = draw_bird(species, sighting_rng(seed, sighting))
    # The feature would encode an array with TensorFlow.
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), _JPEG)
    _, png = cv2.imencode(".png", parts)
    return {
        "image": jpeg.tobytes(),
        "label": sighting.species,
        "file_name": sighting.file_name,
        "genus": species.genus.name,
        "parts": png.tobytes(),
    }


class Birds(tfds.core.GeneratorBasedBuilder):
    """Twelve invented species in four genera; species of a genus differ in one small part.

    `parts` is a PNG file of the size of the picture. Its values are the indices in `part_names` of
    the parts visible at each pixel: 0 for the background and for anything in front of the bird.

    `info.metadata` holds `class_names`, `genera` (one per class), `part_names`, `differing_parts`
    (`[class, class, part name]` for every pair of a genus), `seed`, `fingerprint`, and `labels`
    and `file_names` (lists per split, in record order).
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = (BirdsConfig(),)

    def _info(self) -> tfds.core.DatasetInfo:
        sightings = {split: self.builder_config.sightings(split) for split in _SPLITS}
        class_names = [species.name for species in SPECIES]
        return LocalInfo(
            builder=self,
            description="Procedurally drawn fine-grained birds with visible part masks.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
                    "label": tfds.features.ClassLabel(names=class_names),
                    "file_name": tfds.features.Text(),
                    "genus": tfds.features.ClassLabel(names=[genus.name for genus in GENERA]),
                    # Plain bytes, so that training does not decode masks that it does not use.
                    "parts": tfds.features.Scalar(np.object_),
                }
            ),
            supervised_keys=("image", "label"),
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(
                {
                    "class_names": class_names,
                    "genera": [species.genus.name for species in SPECIES],
                    "part_names": list(PART_NAMES),
                    "differing_parts": [list(pair) for pair in differing_parts()],
                    # A change of the drawing raises VERSION; seed and counts are in the name.
                    "fingerprint": f"birds {self.VERSION} {self.builder_config.name}",
                    "seed": self.builder_config.seed,
                    "labels": {
                        split: [sighting.species for sighting in drawn]
                        for split, drawn in sightings.items()
                    },
                    "file_names": {
                        split: [sighting.file_name for sighting in drawn]
                        for split, drawn in sightings.items()
                    },
                }
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager  # nothing is downloaded
        return {split: self._generate_examples(split) for split in _SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        config = self.builder_config
        sightings = config.sightings(split)
        drawing = tracked(sightings, f"Drawing the birds ({split})", len(sightings))
        for index, sighting in enumerate(drawing):
            yield index, draw_record(config.seed, sighting)

    # TFDS logs downloads that do not happen.
    def _log_download_bytes(self) -> None:
        pass

    def _log_download_done(self) -> None:
        pass
