"""How one bird sits and which colours it wears: all that its parts need to be painted."""

from typing import NamedTuple

import numpy as np

from apinet_jax.data.birds import species as tuning
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
from apinet_jax.data.birds.species import Genus, Palette, Species


class Pose(NamedTuple):
    """How the bird sits: two frames, of body and head, in canvas pixels."""

    centre: Point
    unit: float
    body_angle: float
    head_angle: float
    head_radius: float
    turn: float

    def body(self, points: PointsLike) -> Points:
        """From the body's frame (half body lengths) to the canvas."""
        return np.asarray(points, np.float64) @ rotation(self.body_angle) * self.unit + self.centre

    def head(self, points: PointsLike, genus: Genus) -> Points:
        """From the head's frame (head radii) to the canvas; a turned head is foreshortened."""
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
        """The colour of a diagnostic mark, as far from the plain plumage as the tuning allows."""
        return plain + (self.marks[mark] - plain) * tuning.PART_CONTRAST


def sample_pose(genus: Genus, rng: np.random.Generator) -> Pose:
    """Tilt, turn and size, and a place that keeps the bird in the picture."""
    tilt = tuning.POSE_TILT * (0.5 if genus.perch == "trunk" else 1.0)
    pose = Pose(
        centre=np.zeros(2),
        unit=1.0,
        body_angle=-genus.posture + between(rng, -tilt, tilt),
        head_angle=-genus.gaze + between(rng, -1, 1) * tuning.HEAD_TILT,
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
    extent = between(rng, *tuning.BIRD_EXTENT) * CANVAS
    # The mean side, so that an upright bird is not drawn smaller than one that lies long.
    unit = extent / (1.25 * np.sqrt(np.prod(high - low)))
    free = np.maximum(CANVAS - (high - low) * unit, 0) / 2
    middle = CANVAS / 2 + (rng.random(2) * 2 - 1) * free * 0.8
    return pose._replace(unit=unit, centre=middle - (low + high) / 2 * unit)


def sample_plumage(palette: Palette, rng: np.random.Generator) -> tuple[Palette, dict[str, Colour]]:
    """This individual's colours: one shift for the whole bird, and a little for each part."""
    hue = np.deg2rad(between(rng, -1, 1) * tuning.PLUMAGE_HUE_JITTER)
    value = 1 + between(rng, -1, 1) * tuning.PLUMAGE_VALUE_JITTER
    saturation = 1 + between(rng, -1, 1) * tuning.PLUMAGE_VALUE_JITTER
    # Rodrigues' rotation about the grey axis turns the hue and keeps the brightness.
    c, s = np.cos(hue), np.sin(hue)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    turn = c * np.eye(3) + (1 - c) / 3 + s * cross
    own = 1 + (rng.random((len(palette), 1)) * 2 - 1) * tuning.FEATHER_JITTER

    def vary(colours: np.ndarray) -> np.ndarray:
        grey = colours.mean(axis=1, keepdims=True)
        return np.clip((grey + (colours - grey) * saturation) @ turn.T * value, 0, 1)

    marks = np.array([tuning.HORN, tuning.SLATE, tuning.RUBY, tuning.CREAM, tuning.SOOT])
    names = ("horn", "slate", "ruby", "cream", "soot")
    plumage = Palette(*np.clip(vary(np.array(palette)) * own, 0, 1))
    return plumage, dict(zip(names, vary(marks), strict=True))
