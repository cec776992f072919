"""Everything around the bird: a cluttered background, its perch, and leaves in front of it."""

import cv2
import numpy as np
from jaxtyping import Float

from apinet_jax.data.birds import species as tuning
from apinet_jax.data.birds.canvas import (
    CANVAS,
    SIZE,
    Canvas,
    Point,
    between,
    bezier,
    blossom,
    count_between,
    ellipse,
    leaf,
    moved,
    ribbon,
    scatter,
    smooth_closed,
    vary,
)

# Sky or depth, ground, two tones of leaves and lights, and the tone of the leaves in front.
_THEMES = (
    ((0.62, 0.72, 0.52), (0.22, 0.32, 0.17), (0.35, 0.50, 0.22),
     (0.80, 0.84, 0.50), (0.27, 0.43, 0.16)),
    ((0.90, 0.82, 0.58), (0.50, 0.47, 0.24), (0.72, 0.60, 0.28),
     (0.97, 0.88, 0.66), (0.47, 0.50, 0.18)),
    ((0.62, 0.75, 0.86), (0.78, 0.83, 0.83), (0.61, 0.72, 0.72),
     (0.97, 0.97, 0.94), (0.30, 0.45, 0.27)),
    ((0.58, 0.69, 0.73), (0.30, 0.42, 0.46), (0.42, 0.54, 0.52),
     (0.83, 0.89, 0.88), (0.38, 0.47, 0.27)),
    ((0.84, 0.60, 0.38), (0.40, 0.26, 0.17), (0.70, 0.38, 0.16),
     (0.97, 0.78, 0.46), (0.66, 0.34, 0.13)),
    ((0.78, 0.66, 0.74), (0.40, 0.36, 0.47), (0.57, 0.47, 0.58),
     (0.96, 0.83, 0.80), (0.36, 0.41, 0.33)),
)  # fmt: skip
_BARK = ((0.41, 0.32, 0.25), (0.50, 0.45, 0.40), (0.34, 0.28, 0.25), (0.58, 0.52, 0.44))


def paint_background(rng: np.random.Generator) -> tuple[Canvas, tuple]:
    """Paint a cluttered background, out of focus in the distance; return it and its theme."""
    theme = _THEMES[count_between(rng, 0, len(_THEMES) - 1)]
    far, ground, leaves, lights, _ = theme
    height = np.linspace(0, 1, SIZE)[:, None, None] ** between(rng, 0.6, 1.8)
    image = np.empty((SIZE, SIZE, 3), np.float32)
    image[:] = vary(rng, far, 0.07) * (1 - height) + vary(rng, ground, 0.07) * height
    canvas = Canvas(image)
    for _ in range(count_between(rng, 9, 18)):
        tone = (far, ground, leaves, lights)[count_between(rng, 0, 3)]
        radii = (between(rng, 14, 60), between(rng, 10, 40))
        shape = ellipse(scatter(rng, SIZE), radii, between(rng, 0, 180))
        canvas.paint(canvas.fill(shape), vary(rng, tone, 0.09), between(rng, 0.25, 0.7))
    canvas = Canvas(cv2.GaussianBlur(canvas.image, (0, 0), 9))
    for _ in range(count_between(rng, 4, 16)):  # lights, spread into discs by the lens
        radius = between(rng, 4, 15)
        disc, centre = vary(rng, lights, 0.08), scatter(rng, SIZE)
        canvas.paint(
            canvas.fill(ellipse(centre, (radius, radius)), 0.7), disc, between(rng, 0.10, 0.40)
        )
    for _ in range(count_between(rng, 5, 16)):  # leaves in the middle distance
        shape = leaf(
            scatter(rng, SIZE), between(rng, 22, 55), between(rng, 8, 20), between(rng, 0, 360)
        )
        tone = (leaves, ground, lights)[count_between(rng, 0, 2)]
        canvas.paint(
            canvas.fill(shape, between(rng, 0.8, 3.5)),
            vary(rng, tone, 0.10),
            between(rng, 0.4, 0.85),
        )
    for _ in range(count_between(rng, 0, 4)):  # twigs
        start, end = scatter(rng, SIZE, 0.2), scatter(rng, SIZE, 0.2)
        line = bezier(start, scatter(rng, SIZE), end)
        tone = _BARK[count_between(rng, 0, len(_BARK) - 1)]
        shape = ribbon(line, np.linspace(between(rng, 2, 6), 1, len(line)))
        canvas.paint(
            canvas.fill(shape, between(rng, 0.6, 2.0)),
            vary(rng, tone, 0.08),
            between(rng, 0.5, 0.9),
        )
    large = cv2.resize(canvas.image, (CANVAS, CANVAS), interpolation=cv2.INTER_LINEAR)
    return Canvas(large), theme


def paint_distractors(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint berries, petals and chips behind the bird in the colours of diagnostic marks.

    Without them, a patch of ruby or cream anywhere in the picture would reveal the species.
    """
    for _ in range(count_between(rng, *tuning.DISTRACTORS)):
        colour = tuning.MARK_COLOURS[count_between(rng, 0, len(tuning.MARK_COLOURS) - 1)]
        centre, size = scatter(rng, CANVAS), between(rng, 6, 15)
        kind, degrees, soft = count_between(rng, 0, 2), between(rng, 0, 360), between(rng, 0.5, 3.0)
        if kind == 0:
            shape = ellipse(centre, (size, size * 0.93), degrees)
        elif kind == 1:
            shape = leaf(centre, size * 2.4, size * 0.9, degrees)
        else:
            shape = blossom(centre, size * 1.25, degrees)
        colour = vary(rng, colour, 0.07)
        canvas.paint(canvas.fill(shape, soft), colour, 0.92)
        if kind == 2:
            heart = canvas.fill(ellipse(centre, (size * 0.3, size * 0.3)), soft)
            canvas.paint(heart, np.array([0.85, 0.68, 0.25]), 0.9)
        if kind == 0:
            glint = canvas.fill(ellipse(centre - size * 0.3, (size * 0.26, size * 0.22)), soft)
            canvas.paint(glint, np.minimum(colour + 0.35, 1), 0.7)


def _paint_bark(
    canvas: Canvas,
    line: Float[np.ndarray, "N 2"],
    widths: Float[np.ndarray, " N"],
    rng: np.random.Generator,
) -> None:
    """Paint a branch or trunk: a round body in the light, with furrows and lichen."""
    tone = vary(rng, _BARK[count_between(rng, 0, len(_BARK) - 1)], 0.06)
    region = canvas.fill(ribbon(line, widths))
    canvas.paint(region, tone)
    wood = canvas.silhouette(region)
    along = np.gradient(line, axis=0)
    normal = np.stack([-along[:, 1], along[:, 0]], axis=1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    normal *= np.where(normal[:, 1:] + 0.3 * normal[:, :1] > 0, 1, -1)  # towards the shaded side
    for side, gain, breadth in ((0.33, 0.62, 0.45), (0.42, 0.70, 0.25), (-0.34, 1.25, 0.30)):
        shadow = canvas.fill(
            ribbon(line + normal * (widths * side)[:, None], widths * breadth), widths.mean() * 0.12
        )
        canvas.shade(canvas.clipped(shadow, wood), gain)
    furrows, lichen = [], []
    for _ in range(int(widths.mean() * 0.5) + 14):
        start = count_between(rng, 0, len(line) - 4)
        offset = between(rng, -0.42, 0.42)
        wiggle = (rng.random((4, 1)) - 0.5) * 0.1
        furrows.append(line[start : start + 4] + normal[start : start + 4] * (
            (offset + wiggle) * widths[start : start + 4, None]))  # fmt: skip
        if rng.random() < 0.25:
            lichen.append(furrows[-1][1])
    dark, light = canvas.strokes(furrows[::2], 2.2, 0.6), canvas.strokes(furrows[1::2], 1.6, 0.6)
    canvas.paint(dark, tone * 0.55, 0.6)
    canvas.paint(light, np.minimum(tone * 1.35, 1), 0.45)
    for spot in lichen:
        blob = smooth_closed(ellipse(spot, (7, 5))[::5] + (rng.random((8, 2)) - 0.5) * 5)
        canvas.paint(canvas.fill(blob, 0.8), vary(rng, (0.62, 0.66, 0.52), 0.06), 0.55)


def paint_branch(canvas: Canvas, foot: Point, unit: float, rng: np.random.Generator) -> None:
    """Paint a branch across the picture; its upper edge passes under the feet."""
    thickness = unit * between(rng, 0.20, 0.34)
    slope = np.tan(np.deg2rad(between(rng, -14, 14)))
    across = np.linspace(-40, CANVAS + 40, 26)
    sag = between(rng, -1.0, 1.0) * 1.2e-4
    from_foot = across - foot[0]
    height = foot[1] + thickness * 0.42 + slope * from_foot + sag * from_foot**2
    widths = thickness * np.linspace(between(rng, 0.8, 1.3), between(rng, 0.8, 1.3), 26)
    _paint_bark(canvas, np.stack([across, height], axis=1), widths, rng)


def paint_trunk(canvas: Canvas, edge: Point, unit: float, rng: np.random.Generator) -> None:
    """Paint a trunk to the right of the bird; its left edge passes through a point."""
    width = unit * between(rng, 1.3, 2.4)
    down = np.linspace(-40, CANVAS + 40, 26)
    slope = np.tan(np.deg2rad(between(rng, -6, 6)))
    centre = edge[0] + width / 2 + slope * (down - edge[1])
    _paint_bark(canvas, np.stack([centre, down], axis=1), np.full(26, width), rng)


def paint_shore(canvas: Canvas, foot: Point, unit: float, rng: np.random.Generator) -> None:
    """Paint wet sand from behind the feet to the lower edge: ripples, pebbles, a shadow."""
    sand = vary(rng, ((0.74, 0.66, 0.53), (0.58, 0.54, 0.48), (0.47, 0.46, 0.36))[
        count_between(rng, 0, 2)], 0.06)  # fmt: skip
    horizon = foot[1] - unit * between(rng, 0.3, 1.2)
    across = np.linspace(-20, CANVAS + 20, 12)
    edge = np.stack([across, horizon + (rng.random(12) - 0.5) * 16], axis=1)
    corners = [[CANVAS + 20, CANVAS + 20], [-20, CANVAS + 20]]
    canvas.paint(canvas.fill(np.concatenate([edge, corners]), 3.0), sand)
    for tone, count in ((sand * 0.82, 16), (np.minimum(sand * 1.15, 1), 16)):
        lines = []
        for _ in range(count):
            start = np.array([between(rng, -30, CANVAS), between(rng, horizon + 6, CANVAS + 8)])
            length = between(rng, 40, 190)
            lines.append(
                bezier(
                    start, moved(start, length / 2, between(rng, -6, 6)), moved(start, length, 0)
                )
            )
        canvas.paint(canvas.strokes(lines, between(rng, 2, 4), 1.2), tone, 0.6)
    for _ in range(count_between(rng, 8, 22)):
        centre = np.array([between(rng, 0, CANVAS), between(rng, horizon + 8, CANVAS)])
        size = between(rng, 3, 12)
        tone = vary(rng, (0.55, 0.51, 0.46), 0.16)
        canvas.shade(canvas.fill(ellipse(centre + size * 0.4, (size, size * 0.6)), 2), 0.7)
        canvas.paint(canvas.fill(ellipse(centre, (size, size * 0.66))), tone)
        canvas.paint(
            canvas.fill(ellipse(centre - size * 0.2, (size * 0.5, size * 0.3)), 1.5),
            tone + 0.14,
            0.7,
        )
    shadow = canvas.fill(
        ellipse(moved(foot, unit * 0.15, 0), (unit * 1.2, unit * 0.16)), unit * 0.08
    )
    canvas.shade(shadow, 0.68)


def occlude(
    canvas: Canvas, centre: Point, reach: float, theme: tuple, rng: np.random.Generator
) -> None:
    """Paint leaves and reeds in front of the bird; the pixels they cover belong to no part."""
    tone = theme[-1]
    for _ in range(count_between(rng, *tuning.OCCLUDERS)):
        degrees = between(rng, 0, 360)
        target = centre + reach * between(rng, 0.15, 1.0) * np.array(
            [np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))]
        )
        kind = rng.random()
        if kind < 0.5:
            _paint_spray(canvas, target, tone, rng)
        elif kind < 0.85:
            _paint_reeds(canvas, target, tone, rng)
        else:
            start = target + (rng.random(2) - 0.5) * 60
            shape = leaf(start, between(rng, 70, 150), between(rng, 26, 50), between(rng, 0, 360))
            canvas.paint(
                canvas.fill(shape, between(rng, 4, 8)), vary(rng, tone, 0.10), 0.93, part=0
            )


def _paint_spray(canvas: Canvas, tip: Point, tone: tuple, rng: np.random.Generator) -> None:
    """Paint a thin stem from the nearest side, with leaves along its end."""
    side = np.argmin([tip[0], CANVAS - tip[0], tip[1] + 60, CANVAS - tip[1]])
    far = between(rng, -60, 60)
    root = np.array([(-20, tip[1] + far), (CANVAS + 20, tip[1] + far), (tip[0] + far, -20),
                     (tip[0] + far, CANVAS + 20)][side])  # fmt: skip
    line = bezier(root, (root + tip) / 2 + (rng.random(2) - 0.5) * 90, tip, 16)
    soft = between(rng, 0, 1.3)
    canvas.paint(
        canvas.fill(ribbon(line, np.linspace(6, 2.4, 16)), soft), np.asarray(tone) * 0.55, part=0
    )
    for step in range(count_between(rng, 4, 8)):
        base = line[15 - min(step, 12)] if step else tip
        ahead = np.rad2deg(np.arctan2(*(tip - line[12])[::-1]))
        degrees = ahead + (between(rng, 25, 75) * (1 if step % 2 else -1) if step else 0)
        length, width = between(rng, 34, 66), between(rng, 12, 23)
        green = vary(rng, tone, 0.08)
        shape = leaf(base, length, width, degrees)
        canvas.shade(canvas.fill(moved(shape, 3, 6), 4.0), 0.80)
        canvas.paint(canvas.fill(shape, soft), green, part=0)
        half = np.concatenate(
            [shape[:13], bezier(shape[12], (shape[6] + shape[19]) / 2, shape[0], 13)]
        )
        canvas.paint(canvas.fill(half, 0.8 + soft), np.minimum(green * 1.28 + 0.03, 1), 0.8)
        vein = bezier(shape[0], (shape[6] + shape[19]) / 2, shape[12])
        canvas.paint(canvas.strokes([vein], 1.4, 0.5 + soft), green * 0.62, 0.7)


def _paint_reeds(canvas: Canvas, target: Point, tone: tuple, rng: np.random.Generator) -> None:
    """Paint one to three blades from below, bent by the wind."""
    for _ in range(count_between(rng, 1, 3)):
        through = target + (rng.random(2) - 0.5) * (70, 40)
        root = np.array([through[0] + between(rng, -90, 90), CANVAS + 20])
        top = np.array([through[0] + between(rng, -70, 70), through[1] - between(rng, 20, 190)])
        line = bezier(root, 2 * through - (root + top) / 2, top, 22)
        width = between(rng, 7, 15)
        profile = width * (1 - np.linspace(0, 1, 22) ** 2.2) + 0.8
        soft, green = between(rng, 0, 1.5), vary(rng, tone, 0.10)
        canvas.paint(canvas.fill(ribbon(line, profile), soft), green, part=0)
        side = ribbon(line - (width * 0.22, 0), profile * 0.3)
        canvas.paint(canvas.fill(side, 0.8 + soft), np.minimum(green * 1.3 + 0.03, 1), 0.6)
