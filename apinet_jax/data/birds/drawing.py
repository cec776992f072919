"""One bird in its scene: `draw_bird(species, rng) -> (picture, part map)`.

The same random numbers are drawn for all species of a genus: with equal generators, their pictures
differ only in the diagnostic part.
"""

import cv2
import numpy as np
from jaxtyping import UInt8

from apinet_jax.data.birds import plumage, scene
from apinet_jax.data.birds import species as tuning
from apinet_jax.data.birds.canvas import (
    SIZE,
    SUPERSAMPLING,
    Canvas,
    Point,
    Points,
    PointsLike,
    between,
    bezier,
    moved,
    rotation,
    to_uint8,
)
from apinet_jax.data.birds.species import (
    PART,
    Bird,
    Genus,
    Pose,
    Species,
    sample_plumage,
    sample_pose,
)


def draw_bird(
    species: Species, rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "H W"]]:
    """Draw one picture of a species.

    Args:
        species: What to draw.
        rng: Source of pose, light, plumage, perch, background and occluders.

    Returns:
        The picture, and the index in `PART_NAMES` of the part visible at each of its pixels.
    """
    genus = species.genus
    canvas, theme = scene.paint_background(rng)
    pose = sample_pose(genus, rng)
    palette, marks = sample_plumage(genus.palette, rng)
    scene.paint_distractors(canvas, rng)
    legs = _place_perch(canvas, genus, pose, rng)
    _paint_bird(Bird(canvas, species, pose, palette, marks), legs, rng)
    scene.occlude(canvas, pose.centre, 1.3 * pose.unit, theme, rng)
    image = _develop(canvas, rng)
    parts = canvas.parts[::SUPERSAMPLING, ::SUPERSAMPLING]
    if rng.random() < 0.5:
        image, parts = image[:, ::-1], parts[:, ::-1]
    return np.ascontiguousarray(image), np.ascontiguousarray(parts)


def _place_perch(
    canvas: Canvas, genus: Genus, pose: Pose, rng: np.random.Generator
) -> list[tuple[Point, Point]]:
    """Paint the perch; return hip and foot of both legs, the far one first."""
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
    """Paint the parts from the far side to the near one."""
    _paint_tail(bird)
    for (hip, foot), shade in zip(legs, (0.72, 1.0), strict=True):
        _paint_leg(bird, hip, foot, shade)
    _paint_bill(bird)
    silhouette = plumage.paint_body(bird, rng)
    plumage.paint_head(bird, silhouette)
    plumage.paint_feathers(bird, silhouette, rng)
    plumage.light_body(bird, silhouette, rng)
    plumage.paint_wing(bird, rng)
    plumage.paint_eye(bird)


def _paint_leg(bird: Bird, hip: Point, foot: Point, shade: float) -> None:
    """Paint a leg from hip to foot, and the toes around the perch."""
    canvas, genus, pose = bird.canvas, bird.species.genus, bird.pose
    colour = bird.palette.legs * shade
    unit = pose.unit
    knee = (hip + foot) / 2 + np.array([-0.08, -0.02]) * unit * min(genus.leg_length * 2, 1.2)
    thickness = unit * (0.065 if genus.leg_length < 0.8 else 0.055)
    line = np.stack([hip, knee, foot])
    canvas.paint(canvas.strokes([line], thickness), colour, part=PART["legs"])
    ahead = np.array([0.05, -0.17]) if genus.perch == "trunk" else np.array([0.18, 0.03])
    toes = [np.stack([foot, foot + ahead * unit * scale]) for scale in (1.0, -0.55)]
    side = np.array([0.11, -0.02]) if genus.perch == "trunk" else np.array([0.13, 0.07])
    toes.append(np.stack([foot, foot + side * unit]))
    canvas.paint(canvas.strokes(toes, thickness * 0.85), colour, part=PART["legs"])


def _paint_tail(bird: Bird) -> None:
    """Paint overlapping feathers from the rump; the last third is the tip."""
    canvas, species, pose, palette, _ = bird
    genus = species.genus
    root = np.array([-0.72, 0.06])
    turn = rotation(genus.tail_angle)
    length, half = genus.tail_length + 0.13, genus.tail_width / 2
    tips, outline = [], []
    for place in np.linspace(-1, 1, 6):
        reach = length * (1 - genus.tail_fork * (1 - abs(place)))
        tip = np.array([-reach, place * half])
        tips.append(tip)
        outline += [
            moved(tip, 0.05, -half * 0.17),
            moved(tip, -0.01, 0),
            moved(tip, 0.05, half * 0.17),
        ]

    def placed(points: PointsLike) -> Points:
        return pose.body(np.asarray(points) @ turn + root)

    shape = placed([(0.1, -half * 0.55), *outline, (0.1, half * 0.55)])
    region = canvas.fill(shape)
    canvas.paint(region, palette.tail, part=PART["tail"])
    clip = canvas.silhouette(region)

    def band(start: float, stop: float) -> Points:
        edge = np.linspace(-1.4, 1.4, 7)
        reach = length * (1 - genus.tail_fork * (1 - np.minimum(abs(edge), 1)))
        near, far = -reach * start, -reach * stop
        left, right = np.stack([near, edge * half], 1), np.stack([far, edge * half], 1)
        return placed(np.concatenate([left, right[::-1]]))

    tip_region = canvas.clipped(canvas.fill(band(0.66, 1.1)), clip)
    canvas.paint(tip_region, palette.tail, part=PART["tail_tip"])
    trait = species.trait_of("tail_tip")
    if trait == "white":
        stripe = canvas.clipped(canvas.fill(band(0.80, 1.1)), clip)
        canvas.paint(stripe, bird.marked(palette.tail, "cream"))
    elif trait == "banded":
        stripe = canvas.clipped(canvas.fill(band(0.70, 0.88)), clip)
        canvas.paint(stripe, bird.marked(palette.tail, "soot"))
    shafts = [placed(np.stack([np.array([0, tip[1] * 0.5]), tip * (0.97, 0.86)])) for tip in tips]
    edges = [
        placed(np.stack([np.array([0, y * 0.55]), (x * 0.98, y + half * 0.2)])) for x, y in tips
    ]
    canvas.paint(canvas.clipped(canvas.strokes(edges, 1.5, 0.5), clip), palette.tail * 0.5, 0.75)
    canvas.paint(canvas.clipped(canvas.strokes(shafts, 1.2, 0.5), clip), palette.feather_edge, 0.3)
    under = canvas.clipped(
        canvas.fill(placed([(0.2, half * 0.1), (-length * 1.1, half * 0.4), (-length, half * 1.8),
                            (0.2, half * 1.8)]), 4), clip)  # fmt: skip
    canvas.shade(under, 0.75)


def _paint_bill(bird: Bird) -> None:
    """Paint two mandibles: plain, horn, slate, or horn with a dark tip."""
    canvas, species, pose, palette, _ = bird
    genus = species.genus
    length, deep, curve = genus.bill_length, genus.bill_depth / 2, genus.bill_curve
    trait = species.trait_of("bill")
    base = tip = palette.bill
    if trait != "plain":
        base = bird.marked(palette.bill, "slate" if trait == "slate" else "horn")
        tip = bird.marked(palette.bill, "horn" if trait == "horn" else "slate")
    end = np.array([0.74 + length, 0.10 + curve * length])
    gape = np.array([0.60, 0.10])
    ridge = bezier((0.58, 0.10 - deep * 1.15), (0.74 + length * 0.55, 0.06 - deep), end)
    parting = bezier(gape, (0.74 + length * 0.5, 0.10), end)
    keel = bezier(moved(end, -0.06, 0), (0.74 + length * 0.45, 0.12 + deep), (0.58, 0.10 + deep))
    upper = np.concatenate([ridge, parting[::-1]])
    lower = np.concatenate([parting, keel])
    mandibles = [canvas.fill(pose.head(outline, genus)) for outline in (lower, upper)]
    for region, gain in zip(mandibles, (0.82, 1.0), strict=True):
        canvas.paint(region, np.minimum(base * gain, 1), part=PART["bill"])
    inside = canvas.silhouette(*mandibles)
    start = 0.74 + length * 0.50
    front = pose.head(
        [(start, -1), (start + length, -1), (start + length, 1.4), (start, 1.4)], genus
    )
    soft = 0.05 * genus.head_radius * pose.unit
    canvas.paint(canvas.clipped(canvas.fill(front, soft), inside), tip)
    shine = pose.head(bezier((0.7, -deep * 0.55), (0.74 + length * 0.5, -deep * 0.55), end), genus)
    canvas.paint(canvas.clipped(canvas.strokes([shine], 2, 1.2), inside), np.ones(3), 0.30)
    line = canvas.strokes([pose.head(parting, genus)], 1.4)
    canvas.paint(canvas.clipped(line, inside), np.full(3, 0.12), 0.65)


def _develop(canvas: Canvas, rng: np.random.Generator) -> UInt8[np.ndarray, "H W 3"]:
    """Apply light and camera: cast shadows, white balance, lens and sensor."""
    strength = tuning.LIGHT_STRENGTH
    coarse = rng.random((5, 5)).astype(np.float32)
    dapple = cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    dapple = 1 - strength * 0.9 * np.clip(dapple - 0.45, 0, 1)
    warmth = between(rng, -1, 1) * strength * 0.32
    balance = (1 + between(rng, -0.9, 0.35) * strength) * np.array(
        [1 + warmth, 1 + between(rng, -0.04, 0.04), 1 - warmth]
    )
    image = cv2.resize(canvas.image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    image = image * dapple[..., None] * balance.astype(np.float32)
    gamma = np.exp2(between(rng, -1, 1) * strength * 0.8)
    image = np.power(np.clip(image, 0, 1), np.float32(gamma))
    blur = between(rng, *tuning.SENSOR_BLUR)
    image = cv2.GaussianBlur(image, (0, 0), max(blur, 0.05))
    noise = rng.random((SIZE, SIZE, 3), np.float32) - rng.random((SIZE, SIZE, 3), np.float32)
    return to_uint8(image + noise * np.float32(between(rng, *tuning.SENSOR_NOISE) * 2.4))
