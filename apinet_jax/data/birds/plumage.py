"""Body, head and wing: the feathered parts, and the light on them."""

from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Float

from apinet_jax.data.birds.canvas import (
    Colour,
    Number,
    Points,
    PointsLike,
    Region,
    between,
    bezier,
    ellipse,
    moved,
    ribbon,
    rotation,
    smooth_closed,
    smooth_union,
)
from apinet_jax.data.birds.species import PART, Bird

Silhouette = Float[np.ndarray, "H W"]


def _box(silhouette: Silhouette) -> tuple[slice, slice]:
    """Return the bounding box of a silhouette."""
    rows, columns = np.flatnonzero(silhouette.any(axis=1)), np.flatnonzero(silhouette.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def paint_body(bird: Bird, rng: np.random.Generator) -> Silhouette:
    """Paint body and head as one smooth shape: back above, belly below, breast in front."""
    canvas, species, pose, palette, _ = bird
    genus, unit = species.genus, pose.unit
    depth, head, radius = genus.depth, np.array(genus.head), pose.head_radius
    egg = smooth_closed(
        np.array([(1.02, -0.02), (0.72, -0.70), (0.10, -0.94), (-0.55, -0.62), (-1.02, 0.02),
                  (-0.82, 0.38), (-0.25, 0.92), (0.40, 1.04), (0.88, 0.66)]) * (1, depth)
    )  # fmt: skip
    along = head - (0.3, 0)
    across = np.array([along[1], -along[0]]) / np.linalg.norm(along)
    neck = np.stack([head + across * radius * 0.86, head - across * radius * 0.86,
                     np.array([0.35, 0]) - across * depth * 0.95,
                     np.array([0.15, 0]) + across * depth * 0.90])  # fmt: skip
    skull = pose.head(ellipse((0, 0), (1.02, 0.92)), genus)
    silhouette = smooth_union(canvas, [pose.body(egg), pose.body(neck), skull], 0.085 * unit)

    def patch(points: PointsLike, colour: Colour, soft: Number, part: str | None, opacity=1.0):
        region = canvas.clipped(canvas.fill(pose.body(points), soft * unit), silhouette)
        canvas.paint(region, colour, opacity, PART[part] if part else None)

    patch([(-2, -2), (2.5, -2), (2.5, 2), (-2, 2)], palette.back, 0, "back")
    level = between(rng, -0.04, 0.06)
    front = np.array([(1.5, 0.0), (1.2, 1.2)])
    waterline = np.array([(1.3, -0.25), (0.5, 0.05), (-0.5, 0.20)]) * (1, depth)
    belly = np.concatenate([moved(waterline, 0, level), [(-1.3, 0.05), (-1.3, 1.3), (1.3, 1.3)]])
    patch(belly, palette.belly, 0.10, "belly")
    curve = np.array([(0.95, 1.3), (0.45, 0.75), (0.42, 0.15), (0.62, -0.30)]) * (1, depth)
    breast = np.concatenate([front, smooth_closed(curve)])
    breast = cv2.convexHull(breast.astype(np.float32))[:, 0]
    patch(breast, palette.breast, 0.11, "breast")
    patch([(-0.2, 0.2 * depth), (0.5, 0.6 * depth), (0.1, 0.9 * depth), (-0.7, 0.6 * depth)],
          palette.breast, 0.12, None, 0.35)  # fmt: skip
    _paint_pattern(bird, silhouette, rng)
    return silhouette


def _paint_pattern(bird: Bird, silhouette: Silhouette, rng: np.random.Generator) -> None:
    """Paint streaks, spots or bars, which differ between individuals."""
    canvas, species, pose, palette, _ = bird
    genus, unit = species.genus, pose.unit
    count = {"plain": 10, "streaked": 20, "spotted": 34, "barred": 12}[genus.pattern]
    marks = []
    for _ in range(count):
        at = np.array([between(rng, -0.45, 0.85), genus.depth * between(rng, 0.0, 0.85)])
        length = {"spotted": 0.03, "plain": 0.09}.get(genus.pattern, 0.13) * between(rng, 0.7, 1.3)
        marks.append(pose.body(np.stack([at, moved(at, -length, 0.25 * length)])))
    thickness = unit * (0.05 if genus.pattern == "spotted" else 0.03)
    opacity = 0.30 if genus.pattern == "plain" else 0.50
    region = canvas.clipped(canvas.strokes(marks, thickness, 0.7), silhouette)
    canvas.paint(region, palette.streaks, opacity)
    if genus.pattern == "barred":
        bars = []
        for place in np.linspace(-0.75, 0.62, 8):
            x = place + between(rng, -0.03, 0.03)
            bar = bezier((x, -0.95), (x + 0.06, -0.70), (x, -0.40), 8)
            bars.append(pose.body(bar * (1, genus.depth)))
        region = canvas.clipped(canvas.strokes(bars, 0.065 * unit, 0.8), silhouette)
        canvas.paint(region, palette.feather_edge, 0.9)


def paint_head(bird: Bird, silhouette: Silhouette) -> None:
    """Paint face, throat, crown and the line through the eye."""
    canvas, species, pose, palette, _ = bird
    genus, scale = species.genus, pose.unit * pose.head_radius

    def patch(points: PointsLike, colour: Colour, soft: Number, part: str | None = None) -> None:
        region = canvas.fill(pose.head(points, genus), soft * scale)
        canvas.paint(canvas.clipped(region, silhouette), colour, 1.0, PART[part] if part else None)

    patch(ellipse((0.05, 0.12), (1.05, 0.90)), palette.face, 0.14, "face")
    throat = smooth_closed([(0.98, 0.24), (0.55, 0.36), (0.18, 0.62), (0.05, 1.15), (0.60, 1.15),
                            (1.05, 0.75)])  # fmt: skip
    patch(throat, palette.throat, 0.09, "throat")
    cheek = smooth_closed([(0.30, 0.10), (-0.15, -0.05), (-0.62, 0.10), (-0.60, 0.45),
                           (-0.15, 0.60), (0.22, 0.42)])  # fmt: skip
    patch(cheek, palette.face * 0.86, 0.10)
    outline = [(0.98, -0.12), (0.84, -0.60), (0.45, -0.98), (-0.10, -1.15), (-0.70, -1.05),
               (-1.12, -0.62), (-1.25, -0.02), (-0.98, 0.22), (-0.72, -0.16), (-0.20, -0.38),
               (0.32, -0.44), (0.72, -0.26)]  # fmt: skip
    crown = canvas.clipped(
        canvas.fill(pose.head(smooth_closed(outline), genus), 0.03 * scale), silhouette
    )
    canvas.paint(crown, palette.crown, part=PART["crown"])
    sections = {"nape": (-110, -30), "whole": (-110, 95)}
    trait = species.trait_of("crown")
    if trait in sections:
        # A sector of the cap around its centre: the back of it, or all of it.
        start, stop = sections[trait]
        angles = np.deg2rad(np.linspace(start, stop, 9))
        fan = moved(2 * np.stack([np.sin(angles), -np.cos(angles)], 1), -0.05, 0.1)
        sector = canvas.fill(pose.head([(-0.05, 0.1), *fan], genus), 0.05 * scale)
        clip = canvas.silhouette(crown)
        canvas.paint(canvas.clipped(sector, clip), bird.marked(palette.crown, "ruby"))
    line = bezier((0.92, 0.06), (0.30, -0.22), (-0.85, 0.08))
    stripe = pose.head(ribbon(line, 0.16 * np.sin(np.linspace(0.5, 2.9, len(line)))), genus)
    canvas.paint(
        canvas.clipped(canvas.fill(stripe, 0.03 * scale), silhouette), palette.eye_line, 0.85
    )


def paint_eye(bird: Bird) -> None:
    """Paint a dark eye with a pale rim and a reflection of the sky."""
    canvas, species, pose, palette, _ = bird
    genus = species.genus
    middle = np.array((0.34, -0.10))
    for radius, colour in ((0.205, np.minimum(palette.face * 1.2, 1)), (0.165, np.full(3, 0.06))):
        shape = pose.head(ellipse(middle, (radius, radius)), genus)
        canvas.paint(canvas.fill(shape), colour, part=PART["eye"])
    lower = pose.head(moved(bezier((-0.10, 0.06), (0, 0.15), (0.10, 0.06)), *middle), genus)
    canvas.paint(canvas.strokes([lower], 1.5, 0.6), np.array([0.45, 0.30, 0.18]), 0.7)
    glint = pose.head(ellipse(moved(middle, 0.05, -0.07), (0.055, 0.05)), genus)
    canvas.paint(canvas.fill(glint), np.ones(3), 0.95)


def paint_feathers(bird: Bird, silhouette: Silhouette, rng: np.random.Generator) -> None:
    """Paint barbs: short strokes along the body, some lighter and some darker."""
    canvas, pose = bird.canvas, bird.pose
    start = moved((rng.random((340, 2)) * 2 - 1) * (1.7, 1.3), 0.4, -0.1)
    bend = (rng.random((340, 2)) - 0.5) * 0.05
    middle, end = moved(start + bend * 0.5, -0.06, 0.012), moved(start + bend, -0.13, 0.04)
    lines = np.stack([start, middle, end], 1)
    lines = pose.body(lines.reshape(-1, 2)).reshape(-1, 3, 2)
    for some, colour, opacity in ((lines[::2], np.zeros(3), 0.16), (lines[1::2], np.ones(3), 0.20)):
        region = canvas.clipped(canvas.strokes(list(some), 1.6, 0.7), silhouette)
        canvas.paint(region, colour, opacity)


def light_body(bird: Bird, silhouette: Silhouette, rng: np.random.Generator) -> None:
    """Shade the body: bright towards the light, dark away from it and along its edge."""
    rows, columns = _box(silhouette)
    small = cv2.resize(
        silhouette[rows, columns], None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA
    )
    padded = cv2.copyMakeBorder(small, 24, 24, 24, 24, cv2.BORDER_CONSTANT)
    wide, narrow = bird.pose.unit * 0.075, bird.pose.unit * 0.03
    height = cv2.GaussianBlur(padded, (0, 0), wide) + 0.5 * cv2.GaussianBlur(padded, (0, 0), narrow)
    down, right = np.gradient(height)
    angle = np.deg2rad(between(rng, -60, 60))
    towards = right * -np.sin(angle) + down * np.cos(angle)  # the gradient points inwards
    gain = 0.86 + towards * wide * 0.62 + 0.17 * (height - 0.7)
    gain = gain[24 : 24 + small.shape[0], 24 : 24 + small.shape[1]].astype(np.float32)
    size = (columns.stop - columns.start, rows.stop - rows.start)
    gain = cv2.resize(gain, size, interpolation=cv2.INTER_LINEAR)
    grain = cv2.resize(rng.random((24, 24), np.float32), size, interpolation=cv2.INTER_CUBIC)
    gain = np.clip(gain + (grain - 0.5) * 0.10, 0.5, 1.4)
    bird.canvas.shade(Region(rows, columns, silhouette[rows, columns]), gain)


def paint_wing(bird: Bird, rng: np.random.Generator) -> None:
    """Paint the folded wing: primaries to the tip, two rows of coverts and their bars."""
    canvas, species, pose, palette, _ = bird
    genus, unit = species.genus, pose.unit
    length, deep = genus.wing_length, genus.wing_depth
    turn = rotation(between(rng, -4, 5) - 3)
    shoulder = np.array([0.50, -0.12 * genus.depth])

    def placed(points: PointsLike) -> Points:
        # The wing's frame: 0 at the shoulder, -1 at the tip; -1 upper edge, 1 lower edge.
        return pose.body((np.asarray(points, np.float64) * (length, deep)) @ turn + shoulder)

    outline = placed(smooth_closed([(0.04, 0.05), (-0.08, -0.62), (-0.34, -0.82), (-0.68, -0.50),
                                    (-1.0, 0.02), (-0.98, 0.14), (-0.72, 0.42), (-0.42, 0.80),
                                    (-0.14, 0.72)]))  # fmt: skip
    shadow = canvas.fill(moved(outline, 0, 0.05 * unit), 0.045 * unit)
    shadow = shadow._replace(alpha=shadow.alpha * (canvas.parts[shadow.rows, shadow.columns] > 0))
    canvas.shade(shadow, 0.66)
    region = canvas.fill(outline)
    canvas.paint(region, palette.wing, part=PART["wing"])
    clip = canvas.silhouette(region)

    def draw(lines: list, thickness: float, colour: Colour, opacity: float, soft: Number = 0.6):
        drawn = canvas.strokes([placed(line) for line in lines], thickness * unit, soft)
        canvas.paint(canvas.clipped(drawn, clip), colour, opacity)

    coverts = placed(smooth_closed([(0.1, 0.0), (-0.05, -0.9), (-0.30, -1.0), (-0.47, -0.5),
                                    (-0.53, 0.2), (-0.42, 0.95), (-0.05, 1.0)]))  # fmt: skip
    canvas.paint(canvas.clipped(canvas.fill(coverts, 0.03 * unit), clip),
                 palette.wing * 0.55 + palette.back * 0.45, 0.9)  # fmt: skip
    quills = [bezier((-0.42, y), (-0.68, y * 0.75 + 0.03), (-1.0, 0.10 + 0.06 * y), 10)
              for y in np.linspace(-0.55, 0.72, 8)]  # fmt: skip
    draw(quills, 0.022, palette.feather_edge, 0.75)
    draw([moved(line, 0.004, 0.055) for line in quills], 0.022, palette.wing * 0.45, 0.7)
    for at, count, reach in ((-0.16, 6, 0.12), (-0.30, 7, 0.13), (-0.45, 7, 0.12)):
        places = np.linspace(-0.72, 0.66, count + 1)
        scallops = [
            bezier((at + 0.03 * (1 - 2 * abs(y)), y), (at - reach * 1.3, y + 0.10),
                   (at + 0.03, y + 1.4 / count), 7)
            for y in places[:-1]
        ]  # fmt: skip
        draw([line - (0.012, 0) for line in scallops], 0.030, palette.wing * 0.5, 0.55)
        draw(scallops, 0.026, palette.feather_edge, 0.75)
    _paint_wing_bars(bird, placed, clip)
    top = placed([(0.1, -0.2), (-0.5, -0.5), (-0.5, -1.1), (0.1, -1.1)])
    canvas.shade(canvas.clipped(canvas.fill(top, 0.07 * unit), clip), 1.18)
    low = placed([(0.1, 0.5), (-0.9, 0.30), (-0.9, 1.2), (0.1, 1.2)])
    canvas.shade(canvas.clipped(canvas.fill(low, 0.06 * unit), clip), 0.80)


def _paint_wing_bars(bird: Bird, placed: Callable, clip: Silhouette) -> None:
    """Paint bars on the tips of the two rows of coverts, which are a part even without them."""
    canvas, species, palette = bird.canvas, bird.species, bird.palette
    bars = []
    for at in (-0.26, -0.44):
        line = bezier((at + 0.05, -0.62), (at - 0.07, 0.05), (at + 0.05, 0.66), 16)
        profile = 0.068 * np.sin(np.linspace(0.35, 2.8, 16)) ** 0.5
        bars.append(placed(ribbon(line * (1, 0.3), profile) * (1, 1 / 0.3)))
    region = canvas.clipped(canvas.fill(cv2.convexHull(
        np.concatenate(bars).astype(np.float32))[:, 0]), clip)  # fmt: skip
    inside = canvas.parts[region.rows, region.columns]
    inside[region.alpha > 0.5] = PART["wing_bar"]
    shown = {"single": bars[:1], "twin": bars}.get(species.trait_of("wing_bar"), [])
    for bar in shown:
        drawn = canvas.clipped(canvas.fill(bar, 0.7), clip)
        canvas.paint(drawn, bird.marked(palette.wing, "cream"), 0.95)
