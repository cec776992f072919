"""What comes between the bird and the picture: leaves in front, the light, and the sensor."""

import cv2
import numpy as np
from jaxtyping import UInt8

from apinet_jax.data.birds import species as tuning
from apinet_jax.data.birds.canvas import (
    CANVAS,
    SIZE,
    Canvas,
    Point,
    between,
    bezier,
    count_between,
    leaf,
    moved,
    ribbon,
    to_uint8,
)
from apinet_jax.data.birds.scene import vary


def occlude(
    canvas: Canvas, centre: Point, reach: float, theme: tuple, rng: np.random.Generator
) -> None:
    """Leaves, reeds and near, blurred leaves before the bird; where they cover, no part is seen."""
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
    """A thin stem that reaches in from the nearest side, with leaves along its end."""
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
    """One to three blades from below, bent by the wind."""
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


def develop(canvas: Canvas, rng: np.random.Generator) -> UInt8[np.ndarray, "H W 3"]:
    """Light the scene and take the photograph: cast shadows, white balance, lens and sensor."""
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
