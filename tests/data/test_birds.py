"""The demo data set: its pictures, parts and metadata."""

import itertools
import subprocess
import sys

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from apinet_jax.data.birds import scene
from apinet_jax.data.birds.builder import Birds, BirdsConfig, Sighting, draw_record, sighting_rng
from apinet_jax.data.birds.drawing import draw_bird
from apinet_jax.data.birds.species import (
    GENERA,
    PART,
    PART_NAMES,
    SPECIES,
    differing_parts,
)

UNDECODED = {"image": tfds.decode.SkipDecoding()}
TINY = {"train_per_species": 2, "test_per_species": 1}


def draw(species_index: int, seed: int = 0, index: int = 0, split: str = "train"):
    rng = sighting_rng(seed, Sighting(split, species_index, index))
    return draw_bird(SPECIES[species_index], rng)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> tuple[str, subprocess.CompletedProcess]:
    """Prepare in a separate process, to check what that imports."""
    folder = str(tmp_path_factory.mktemp("birds"))
    program = (
        "import sys\n"
        "from apinet_jax.data.birds.builder import Birds, BirdsConfig\n"
        f"config = BirdsConfig(**{TINY})\n"
        f"builder = Birds(config=config, data_dir={folder!r}, file_format='array_record')\n"
        "builder.download_and_prepare()\n"
        "record = builder.as_data_source(split='train')[11]\n"
        "assert record['image'].shape == (256, 256, 3)\n"
        "assert record['parts'].startswith(b'\\x89PNG')\n"
        "assert not {'tensorflow', 'jax'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    return folder, done


@pytest.fixture(scope="module")
def builder(prepared) -> Birds:
    return Birds(config=BirdsConfig(**TINY), data_dir=prepared[0], file_format="array_record")


@pytest.fixture(scope="module")
def records(builder) -> dict[str, list[dict]]:
    sources = {
        split: builder.as_data_source(split=split, decoders=UNDECODED)
        for split in ("train", "test")
    }
    return {split: [source[i] for i in range(len(source))] for split, source in sources.items()}


def test_default_size():
    config = BirdsConfig()
    assert len(SPECIES) >= 12
    assert len(GENERA) >= 4
    assert len({species.name for species in SPECIES}) == len(SPECIES)
    assert config.train_per_species >= 40
    assert config.test_per_species >= 20
    assert len(config.sightings("train")) == len(SPECIES) * config.train_per_species


def test_counts_and_sizes(records):
    assert len(records["train"]) == 2 * len(SPECIES)
    assert len(records["test"]) == len(SPECIES)
    for record in records["train"] + records["test"]:
        image = cv2.imdecode(np.frombuffer(record["image"], np.uint8), cv2.IMREAD_UNCHANGED)
        parts = cv2.imdecode(np.frombuffer(record["parts"], np.uint8), cv2.IMREAD_UNCHANGED)
        assert image.shape == (256, 256, 3)
        assert parts.shape == (256, 256)
        assert parts.max() < len(PART_NAMES)
        # Every bird is at least partly visible, and there is background.
        assert 0.01 < (parts > 0).mean() < 0.6
        assert record["genus"] == GENERA.index(SPECIES[record["label"]].genus)


def test_stored_colours_are_not_swapped(records):
    record = records["train"][0]
    stored = cv2.imdecode(np.frombuffer(record["image"], np.uint8), cv2.IMREAD_COLOR_RGB)
    difference = np.abs(stored.astype(int) - draw(0)[0].astype(int))
    assert difference.mean() < 6


def test_metadata_agrees_with_the_records(builder, records):
    metadata = builder.info.metadata
    for split, stored in records.items():
        assert metadata["labels"][split] == [record["label"] for record in stored]
        names = [record["file_name"].decode() for record in stored]
        assert metadata["file_names"][split] == names
        assert len(set(names)) == len(names)
    assert metadata["class_names"] == builder.info.features["label"].names
    assert metadata["part_names"] == list(PART_NAMES)
    assert len(metadata["genera"]) == len(SPECIES)
    within = [
        pair
        for pair in itertools.combinations(range(len(SPECIES)), 2)
        if metadata["genera"][pair[0]] == metadata["genera"][pair[1]]
    ]
    assert [(first, second) for first, second, _ in metadata["differing_parts"]] == within
    assert {part for _, _, part in metadata["differing_parts"]} <= set(PART_NAMES[1:])


def test_bytes_depend_on_the_seed_only():
    def encoded(seed: int) -> list[dict]:
        return [draw_record(seed, Sighting("train", species, 0)) for species in (0, 5)]

    assert encoded(0) == encoded(0)
    for first, second in zip(encoded(0), encoded(1), strict=True):
        assert first["image"] != second["image"]


def test_pictures_do_not_depend_on_their_number():
    some, more = BirdsConfig(train_per_species=2), BirdsConfig(train_per_species=3)
    assert set(some.sightings("train")) < set(more.sightings("train"))
    assert some.name != more.name


def test_no_picture_appears_twice(records):
    images = [record["image"] for stored in records.values() for record in stored]
    assert len(set(images)) == len(images)
    assert not np.array_equal(draw(0, split="train")[0], draw(0, split="test")[0])


@pytest.mark.parametrize(("first", "second", "part"), differing_parts())
def test_species_of_a_genus_differ_in_one_part(first, second, part, monkeypatch):
    monkeypatch.setattr(scene, "occlude", lambda *_: None)
    rngs = [sighting_rng(0, Sighting("train", first, 0)) for _ in range(2)]
    one, one_parts = draw_bird(SPECIES[first], rngs[0])
    other, other_parts = draw_bird(SPECIES[second], rngs[1])
    changed = (one != other).any(axis=2)
    place = one_parts == PART[part]
    # The lens spreads a mark over its neighbours by a few pixels.
    near = cv2.dilate(place.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    assert changed.sum() > 20
    assert not (changed & ~near).any()
    assert 0.002 < place.mean() < 0.02
    assert np.array_equal(one_parts, other_parts)


def test_occluded_pixels_belong_to_no_part():
    def opaque(canvas, centre, reach, theme, rng):
        square = centre + np.array([(-60, -60), (60, -60), (60, 60), (-60, 60)])
        canvas.paint(canvas.fill(square), np.array([1.0, 0.0, 1.0]), part=0)

    clear, covered = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scene, "occlude", lambda *_: None)
        clear = [draw(species) for species in (0, 4)]
        patch.setattr(scene, "occlude", opaque)
        covered = [draw(species) for species in (0, 4)]
    for (_, before), (image, after) in zip(clear, covered, strict=True):
        hidden = (before > 0) & (after == 0)
        assert hidden.sum() > 200
        assert np.array_equal(before[~hidden], after[~hidden])
        red, green, blue = image[hidden].astype(int).mean(axis=0)
        assert min(red, blue) > green + 60


def test_diagnostic_part_is_mostly_visible():
    visible = []
    for species, index in itertools.product((1, 4, 7, 10), range(3)):
        part = PART[SPECIES[species].genus.diagnostic_part]
        visible.append((draw(species, index=index)[1] == part).sum() > 20)
    assert np.mean(visible) >= 0.75


def test_tensorflow_and_jax_are_not_imported(prepared):
    _, done = prepared
    assert done.returncode == 0, done.stderr
