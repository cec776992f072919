"""The birds of the demo: four genera of three species, and the individuals that are drawn.

A genus fixes silhouette, palette and the traits of every part; a species overrides the trait of the
genus' *one* diagnostic part. Two species of a genus therefore differ in exactly one place, which
is stored with every picture. Individuals vary in pose and colour.
"""

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from apinet_jax.data.birds.canvas import (
    CANVAS,
    Canvas,
    Colour,
    Point,
    Points,
    PointsLike,
    between,
    moved,
    rotation,
)

# The difficulty of the data set.
PART_CONTRAST = 1.0  # 1: diagnostic marks at full contrast; 0: all species of a genus alike
PLUMAGE_HUE_JITTER = 9.0  # degrees, shared by the whole bird, so absolute colour says little
PLUMAGE_VALUE_JITTER = 0.13  # relative brightness and saturation, shared by the whole bird
FEATHER_JITTER = 0.05  # per part, on top of the shared jitter
BIRD_EXTENT = (0.58, 0.80)  # the bird's mean side as a fraction of the picture's
POSE_TILT = 11.0  # degrees either way
HEAD_TILT = 14.0
OCCLUDERS = (0, 2)  # sprays, reeds and near leaves in front of the bird
DISTRACTORS = (3, 9)  # berries, petals and chips in the colours of diagnostic marks
LIGHT_STRENGTH = 0.26  # exposure, white balance and shadow depth
SENSOR_BLUR = (0.0, 0.8)  # pixels
SENSOR_NOISE = (0.006, 0.020)

PART_NAMES = (
    "none",
    "bill",
    "eye",
    "crown",
    "throat",
    "face",
    "breast",
    "belly",
    "back",
    "wing",
    "wing_bar",
    "tail",
    "tail_tip",
    "legs",
)
PART = {name: index for index, name in enumerate(PART_NAMES)}

Rgb = tuple[float, float, float]
Tone = Rgb | Float[np.ndarray, "3"]

HORN: Rgb = (0.89, 0.71, 0.45)
SLATE: Rgb = (0.24, 0.25, 0.29)
RUBY: Rgb = (0.78, 0.11, 0.13)
CREAM: Rgb = (0.96, 0.92, 0.80)
SOOT: Rgb = (0.13, 0.12, 0.13)
MARK_COLOURS = (HORN, SLATE, RUBY, CREAM, SOOT)


class Palette(NamedTuple):
    """The plumage colours of a genus or of an individual; sRGB in [0, 1]."""

    back: Tone
    breast: Tone
    belly: Tone
    face: Tone
    crown: Tone
    throat: Tone
    wing: Tone
    feather_edge: Tone
    tail: Tone
    eye_line: Tone
    bill: Tone
    legs: Tone
    streaks: Tone


@dataclass(frozen=True)
class Genus:
    """Silhouette, palette and perch; lengths in half body lengths, head to the right, y down."""

    name: str
    perch: str
    palette: Palette
    diagnostic_part: str
    posture: float  # degrees the body axis rises
    depth: float  # half the body's depth
    head: tuple[float, float]  # centre of the head, in the body's frame
    head_radius: float
    gaze: float  # degrees the bill rises
    bill_length: float  # in head radii
    bill_depth: float
    bill_curve: float
    tail_length: float
    tail_width: float
    tail_angle: float
    tail_fork: float
    wing_length: float
    wing_depth: float
    leg_length: float
    pattern: str


@dataclass(frozen=True)
class Species:
    """One class: its genus and the trait of the genus' diagnostic part."""

    name: str
    genus: Genus
    trait: str

    def trait_of(self, part: str) -> str:
        """Return the species' trait at the diagnostic part, `plain` elsewhere."""
        return self.trait if part == self.genus.diagnostic_part else "plain"


BRAMBLEFINCH = Genus(
    name="Bramblefinch",
    perch="branch",
    palette=Palette(
        back=(0.50, 0.35, 0.24), breast=(0.83, 0.46, 0.34), belly=(0.93, 0.82, 0.69),
        face=(0.74, 0.40, 0.30), crown=(0.45, 0.37, 0.38), throat=(0.85, 0.52, 0.38),
        wing=(0.30, 0.24, 0.22), feather_edge=(0.71, 0.55, 0.39), tail=(0.27, 0.22, 0.21),
        eye_line=(0.36, 0.26, 0.25), bill=HORN, legs=(0.50, 0.34, 0.29),
        streaks=(0.62, 0.34, 0.25),
    ),
    diagnostic_part="bill", posture=33.0, depth=0.66, head=(0.90, -0.36), head_radius=0.50,
    gaze=4.0, bill_length=1.10, bill_depth=0.98, bill_curve=0.06, tail_length=1.05,
    tail_width=0.36, tail_angle=-4.0, tail_fork=0.16, wing_length=1.55, wing_depth=0.44,
    leg_length=0.34, pattern="plain",
)  # fmt: skip
FENWARBLER = Genus(
    name="Fenwarbler",
    perch="branch",
    palette=Palette(
        back=(0.45, 0.47, 0.25), breast=(0.90, 0.80, 0.32), belly=(0.95, 0.91, 0.70),
        face=(0.72, 0.68, 0.32), crown=(0.40, 0.43, 0.26), throat=(0.95, 0.84, 0.36),
        wing=(0.32, 0.33, 0.25), feather_edge=(0.60, 0.60, 0.36), tail=(0.34, 0.34, 0.25),
        eye_line=(0.28, 0.29, 0.19), bill=(0.24, 0.22, 0.20), legs=(0.57, 0.42, 0.33),
        streaks=(0.52, 0.48, 0.22),
    ),
    diagnostic_part="wing_bar", posture=24.0, depth=0.52, head=(0.94, -0.28), head_radius=0.41,
    gaze=8.0, bill_length=0.80, bill_depth=0.24, bill_curve=0.02, tail_length=1.30,
    tail_width=0.27, tail_angle=3.0, tail_fork=0.07, wing_length=1.60, wing_depth=0.40,
    leg_length=0.46, pattern="streaked",
)  # fmt: skip
STRANDPIPER = Genus(
    name="Strandpiper",
    perch="shore",
    palette=Palette(
        back=(0.56, 0.50, 0.43), breast=(0.77, 0.71, 0.63), belly=(0.95, 0.94, 0.91),
        face=(0.74, 0.68, 0.60), crown=(0.43, 0.38, 0.33), throat=(0.93, 0.91, 0.86),
        wing=(0.49, 0.44, 0.38), feather_edge=(0.80, 0.75, 0.66), tail=(0.55, 0.50, 0.44),
        eye_line=(0.33, 0.29, 0.26), bill=(0.20, 0.18, 0.18), legs=(0.60, 0.50, 0.24),
        streaks=(0.47, 0.41, 0.35),
    ),
    diagnostic_part="tail_tip", posture=11.0, depth=0.47, head=(1.12, -0.50), head_radius=0.33,
    gaze=-6.0, bill_length=2.1, bill_depth=0.26, bill_curve=0.14, tail_length=1.05,
    tail_width=0.50, tail_angle=2.0, tail_fork=-0.10, wing_length=1.42, wing_depth=0.38,
    leg_length=1.05, pattern="spotted",
)  # fmt: skip
BARKPECKER = Genus(
    name="Barkpecker",
    perch="trunk",
    palette=Palette(
        back=(0.20, 0.20, 0.22), breast=(0.86, 0.82, 0.74), belly=(0.91, 0.87, 0.78),
        face=(0.91, 0.88, 0.81), crown=(0.19, 0.18, 0.20), throat=(0.90, 0.87, 0.80),
        wing=(0.17, 0.17, 0.19), feather_edge=(0.86, 0.84, 0.78), tail=(0.16, 0.16, 0.17),
        eye_line=(0.16, 0.15, 0.17), bill=(0.33, 0.33, 0.35), legs=(0.40, 0.38, 0.37),
        streaks=(0.42, 0.39, 0.36),
    ),
    diagnostic_part="crown", posture=68.0, depth=0.47, head=(1.14, -0.06), head_radius=0.38,
    gaze=8.0, bill_length=1.15, bill_depth=0.36, bill_curve=0.0, tail_length=1.10,
    tail_width=0.30, tail_angle=-15.0, tail_fork=-0.16, wing_length=1.50, wing_depth=0.36,
    leg_length=0.26, pattern="barred",
)  # fmt: skip

GENERA = (BRAMBLEFINCH, FENWARBLER, STRANDPIPER, BARKPECKER)
SPECIES = (
    Species("Horn-billed Bramblefinch", BRAMBLEFINCH, "horn"),
    Species("Dusky-tipped Bramblefinch", BRAMBLEFINCH, "dusky_tip"),
    Species("Slate-billed Bramblefinch", BRAMBLEFINCH, "slate"),
    Species("Plain-winged Fenwarbler", FENWARBLER, "plain"),
    Species("Single-barred Fenwarbler", FENWARBLER, "single"),
    Species("Twin-barred Fenwarbler", FENWARBLER, "twin"),
    Species("Plain-tailed Strandpiper", STRANDPIPER, "plain"),
    Species("White-tipped Strandpiper", STRANDPIPER, "white"),
    Species("Band-tailed Strandpiper", STRANDPIPER, "banded"),
    Species("Sooty-crowned Barkpecker", BARKPECKER, "plain"),
    Species("Ruby-naped Barkpecker", BARKPECKER, "nape"),
    Species("Ruby-crowned Barkpecker", BARKPECKER, "whole"),
)


def differing_parts() -> list[tuple[int, int, str]]:
    """Return every pair of species of one genus, by index, and the part in which they differ."""
    return [
        (first, second, SPECIES[first].genus.diagnostic_part)
        for first, second in itertools.combinations(range(len(SPECIES)), 2)
        if SPECIES[first].genus is SPECIES[second].genus
    ]


class Pose(NamedTuple):
    """Position of a bird: the frames of body and head, in canvas pixels."""

    centre: Point
    unit: float
    body_angle: float
    head_angle: float
    head_radius: float
    turn: float

    def body(self, points: PointsLike) -> Points:
        """Map points from the body's frame (half body lengths) to the canvas."""
        return np.asarray(points, np.float64) @ rotation(self.body_angle) * self.unit + self.centre

    def head(self, points: PointsLike, genus: Genus) -> Points:
        """Map points from the head's frame (head radii) to the canvas, foreshortened by a turn."""
        points = np.asarray(points, np.float64) * (self.turn, 1) * (self.head_radius * self.unit)
        return points @ rotation(self.head_angle) + self.body([genus.head])


class Bird(NamedTuple):
    """One individual on its canvas."""

    canvas: Canvas
    species: Species
    pose: Pose
    palette: Palette
    marks: dict[str, Colour]

    def marked(self, plain: Colour, mark: str) -> Colour:
        """Return the colour of a diagnostic mark, `PART_CONTRAST` away from the plain plumage."""
        return plain + (self.marks[mark] - plain) * PART_CONTRAST


def sample_pose(genus: Genus, rng: np.random.Generator) -> Pose:
    """Draw tilt, turn and size, and a position that keeps the bird in the picture."""
    tilt = POSE_TILT * (0.5 if genus.perch == "trunk" else 1.0)
    pose = Pose(
        centre=np.zeros(2),
        unit=1.0,
        body_angle=-genus.posture + between(rng, -tilt, tilt),
        head_angle=-genus.gaze + between(rng, -1, 1) * HEAD_TILT,
        head_radius=genus.head_radius * between(rng, 0.95, 1.05),
        turn=between(rng, 0.80, 1.0),
    )
    outline = np.concatenate(
        [
            pose.body([(-0.85 - genus.tail_length, 0.1), (0, -genus.depth), (0, genus.depth)]),
            pose.head([(0.8 + genus.bill_length, 0.1), (0, -1)], genus),
            moved(pose.body([(0, genus.depth)]), 0, genus.leg_length),
        ]
    )
    low, high = outline.min(axis=0), outline.max(axis=0)
    extent = between(rng, *BIRD_EXTENT) * CANVAS
    # The mean side, so that an upright bird is not drawn smaller than a horizontal one.
    unit = extent / (1.25 * np.sqrt(np.prod(high - low)))
    free = np.maximum(CANVAS - (high - low) * unit, 0) / 2
    middle = CANVAS / 2 + (rng.random(2) * 2 - 1) * free * 0.8
    return pose._replace(unit=unit, centre=middle - (low + high) / 2 * unit)


def sample_plumage(palette: Palette, rng: np.random.Generator) -> tuple[Palette, dict[str, Colour]]:
    """Draw an individual's colours: one shift for the bird and a smaller one per part."""
    hue = np.deg2rad(between(rng, -1, 1) * PLUMAGE_HUE_JITTER)
    value = 1 + between(rng, -1, 1) * PLUMAGE_VALUE_JITTER
    saturation = 1 + between(rng, -1, 1) * PLUMAGE_VALUE_JITTER
    # Rodrigues' rotation about the grey axis turns the hue and keeps the brightness.
    c, s = np.cos(hue), np.sin(hue)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    turn = c * np.eye(3) + (1 - c) / 3 + s * cross
    own = 1 + (rng.random((len(palette), 1)) * 2 - 1) * FEATHER_JITTER

    def vary(colours: np.ndarray) -> np.ndarray:
        grey = colours.mean(axis=1, keepdims=True)
        return np.clip((grey + (colours - grey) * saturation) @ turn.T * value, 0, 1)

    marks = np.array([HORN, SLATE, RUBY, CREAM, SOOT])
    names = ("horn", "slate", "ruby", "cream", "soot")
    plumage = Palette(*np.clip(vary(np.array(palette)) * own, 0, 1))
    return plumage, dict(zip(names, vary(marks), strict=True))
