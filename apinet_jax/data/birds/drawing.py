"""One bird in its scene: `draw_bird(species, rng) -> (picture, part map)`.

Every random number is drawn alike for all species of a genus: with the same generator state two of
them give the same picture but for the one part in which they differ.
"""

import numpy as np
from jaxtyping import UInt8

from apinet_jax.data.birds import foreground, plumage, scene
from apinet_jax.data.birds.canvas import SUPERSAMPLING, Canvas, Point, between
from apinet_jax.data.birds.limbs import paint_bill, paint_leg, paint_tail
from apinet_jax.data.birds.pose import Bird, Pose, sample_plumage, sample_pose
from apinet_jax.data.birds.species import Genus, Species


def draw_bird(
    species: Species, rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "H W"]]:
    """Draw one picture of a species.

    Args:
        species: What to draw.
        rng: Where pose, light, plumage, perch, background and occluders come from.

    Returns:
        The picture, and for each of its pixels the index in `PART_NAMES` of the part seen there.
    """
    genus = species.genus
    canvas, theme = scene.paint_background(rng)
    pose = sample_pose(genus, rng)
    palette, marks = sample_plumage(genus.palette, rng)
    scene.paint_distractors(canvas, rng)
    legs = _place_perch(canvas, genus, pose, rng)
    _paint_bird(Bird(canvas, species, pose, palette, marks), legs, rng)
    foreground.occlude(canvas, pose.centre, 1.3 * pose.unit, theme, rng)
    image = foreground.develop(canvas, rng)
    parts = canvas.parts[::SUPERSAMPLING, ::SUPERSAMPLING]
    if rng.random() < 0.5:
        image, parts = image[:, ::-1], parts[:, ::-1]
    return np.ascontiguousarray(image), np.ascontiguousarray(parts)


def _place_perch(
    canvas: Canvas, genus: Genus, pose: Pose, rng: np.random.Generator
) -> list[tuple[Point, Point]]:
    """Paint what the bird sits on; returns hip and foot of both legs, the far one first."""
    unit, legs = pose.unit, []
    swing = between(rng, -0.12, 0.12)
    for offset in (0.16, -0.10):
        hip = pose.body([(offset - 0.05, genus.depth * 0.80)])[0]
        if genus.perch == "trunk":
            foot = hip + np.array([genus.leg_length, -0.22 + 0.9 * offset + swing]) * unit
        else:
            foot = hip + np.array([0.10 + swing, genus.leg_length]) * unit
        legs.append((hip, foot))
    middle = (legs[0][1] + legs[1][1]) / 2
    if genus.perch == "trunk":
        scene.paint_trunk(canvas, middle - (0.06 * unit, 0), unit, rng)
    else:
        legs = [(hip, np.array([foot[0], middle[1]])) for hip, foot in legs]
        paint = scene.paint_shore if genus.perch == "shore" else scene.paint_branch
        paint(canvas, middle, unit, rng)
    return legs


def _paint_bird(bird: Bird, legs: list[tuple[Point, Point]], rng: np.random.Generator) -> None:
    """Part over part, from the far side to the near one."""
    paint_tail(bird)
    for (hip, foot), shade in zip(legs, (0.72, 1.0), strict=True):
        paint_leg(bird, hip, foot, shade)
    paint_bill(bird)
    silhouette = plumage.paint_body(bird, rng)
    plumage.paint_head(bird, silhouette)
    plumage.paint_feathers(bird, silhouette, rng)
    plumage.light_body(bird, silhouette, rng)
    plumage.paint_wing(bird, rng)
    plumage.paint_eye(bird)
