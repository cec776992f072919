"""Tail, legs and bill."""

import numpy as np

from apinet_jax.data.birds.canvas import Point, Points, PointsLike, bezier, moved, rotation
from apinet_jax.data.birds.pose import Bird
from apinet_jax.data.birds.species import PART


def paint_leg(bird: Bird, hip: Point, foot: Point, shade: float) -> None:
    """A leg from hip to foot, and the toes that hold on to the perch."""
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


def paint_tail(bird: Bird) -> None:
    """Overlapping feathers from the rump; the last third is the tip."""
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
    whole = canvas.silhouette(region)

    def band(start: float, stop: float) -> Points:
        edge = np.linspace(-1.4, 1.4, 7)
        reach = length * (1 - genus.tail_fork * (1 - np.minimum(abs(edge), 1)))
        near, far = -reach * start, -reach * stop
        left, right = np.stack([near, edge * half], 1), np.stack([far, edge * half], 1)
        return placed(np.concatenate([left, right[::-1]]))

    tip_region = canvas.clipped(canvas.fill(band(0.66, 1.1)), whole)
    canvas.paint(tip_region, palette.tail, part=PART["tail_tip"])
    trait = species.trait_of("tail_tip")
    if trait == "white":
        stripe = canvas.clipped(canvas.fill(band(0.80, 1.1)), whole)
        canvas.paint(stripe, bird.marked(palette.tail, "cream"))
    elif trait == "banded":
        stripe = canvas.clipped(canvas.fill(band(0.70, 0.88)), whole)
        canvas.paint(stripe, bird.marked(palette.tail, "soot"))
    shafts = [placed(np.stack([np.array([0, tip[1] * 0.5]), tip * (0.97, 0.86)])) for tip in tips]
    edges = [
        placed(np.stack([np.array([0, y * 0.55]), (x * 0.98, y + half * 0.2)])) for x, y in tips
    ]
    canvas.paint(canvas.clipped(canvas.strokes(edges, 1.5, 0.5), whole), palette.tail * 0.5, 0.75)
    canvas.paint(canvas.clipped(canvas.strokes(shafts, 1.2, 0.5), whole), palette.feather_edge, 0.3)
    under = canvas.clipped(
        canvas.fill(placed([(0.2, half * 0.1), (-length * 1.1, half * 0.4), (-length, half * 1.8),
                            (0.2, half * 1.8)]), 4), whole)  # fmt: skip
    canvas.shade(under, 0.75)


def paint_bill(bird: Bird) -> None:
    """Two mandibles; horn, slate or horn with a dark tip where bills tell the species apart."""
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
