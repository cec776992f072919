"""A small painter: smooth shapes, soft alpha, and a part index for every pixel."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

SIZE = 256
SUPERSAMPLING = 2
CANVAS = SIZE * SUPERSAMPLING
_SHIFT = 4  # OpenCV's fixed-point coordinates: a sixteenth of a pixel

Points = Float[np.ndarray, "_ 2"]
Point = Float[np.ndarray, "2"]
Colour = Float[np.ndarray, "3"]
# Shapes written as literals are easier to read as tuples than as arrays.
PointLike = Point | tuple[float | int, float | int]
PointsLike = Points | Sequence[PointLike]
ColourLike = Colour | tuple[float, float, float]
Number = float | int


class Region(NamedTuple):
    """A rectangle of the canvas and how much of each of its pixels a shape covers."""

    rows: slice
    columns: slice
    alpha: Float[np.ndarray, "h w"]


def between(rng: np.random.Generator, low: Number, high: Number) -> float:
    """Draw a uniform number; all randomness here uses `random()`, whose stream is stable."""
    return low + (high - low) * float(rng.random())


def count_between(rng: np.random.Generator, low: int, high: int) -> int:
    """Draw an integer in [low, high], both included."""
    return low + min(int(rng.random() * (high - low + 1)), high - low)


def vary(rng: np.random.Generator, colour: tuple, amount: float) -> Colour:
    """Return the colour, slightly changed in brightness and hue."""
    shift = between(rng, -amount, amount) + (rng.random(3) - 0.5) * amount
    return np.clip(np.asarray(colour) + shift, 0, 1)


def scatter(rng: np.random.Generator, size: Number, margin: float = 0.1) -> Point:
    """Draw a point of a square, or up to a fraction `margin` of its side outside."""
    return (rng.random(2) * (1 + 2 * margin) - margin) * size


def rotation(degrees: Number) -> Float[np.ndarray, "2 2"]:
    """Return the matrix that turns row vectors clockwise on the screen (y points down)."""
    angle = np.deg2rad(degrees)
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def moved(
    points: Float[np.ndarray, "*N 2"], right: Number, down: Number
) -> Float[np.ndarray, "*N 2"]:
    """Return points, or one point, shifted on the canvas or in a bird's frame."""
    return points + np.array([right, down])


def smooth_closed(points: PointsLike, samples: int = 8) -> Points:
    """Return a closed Catmull-Rom curve through the points."""
    points = np.asarray(points, np.float64)
    before, after = np.roll(points, 1, axis=0), np.roll(points, -1, axis=0)
    beyond = np.roll(points, -2, axis=0)
    t = (np.arange(samples) / samples)[:, None, None]
    curve = 0.5 * (
        2 * points
        + (after - before) * t
        + (2 * before - 5 * points + 4 * after - beyond) * t**2
        + (3 * points - before - 3 * after + beyond) * t**3
    )  # [samples N 2]
    return curve.transpose(1, 0, 2).reshape(-1, 2)


def ellipse(centre: PointLike, radii: tuple[Number, Number], degrees: Number = 0.0) -> Points:
    """Return a polygon of 40 corners along an ellipse."""
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    ring = np.stack([np.cos(turn) * radii[0], np.sin(turn) * radii[1]], axis=1)
    return ring @ rotation(degrees) + np.asarray(centre)


def bezier(start: PointLike, bend: PointLike, end: PointLike, samples: int = 14) -> Points:
    """Return a quadratic curve from start to end, pulled towards bend."""
    t = np.linspace(0, 1, samples)[:, None]
    return (
        (1 - t) ** 2 * np.asarray(start)
        + 2 * t * (1 - t) * np.asarray(bend)
        + t**2 * (np.asarray(end))
    )


def ribbon(line: Float[np.ndarray, "N 2"], widths: Float[np.ndarray, " N"]) -> Points:
    """Return the outline of a line drawn with a brush of varying width."""
    along = np.gradient(line, axis=0)
    normal = np.stack([-along[:, 1], along[:, 0]], axis=1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9
    offset = normal * (np.asarray(widths)[:, None] / 2)
    return np.concatenate([line + offset, (line - offset)[::-1]])


def leaf(base: PointLike, length: Number, width: Number, degrees: Number) -> Points:
    """Return the outline of a pointed leaf that grows from its base."""
    line = bezier((0, 0), (length * 0.5, -width * 0.25), (length, 0), 13)
    profile = np.sin(np.linspace(0, np.pi, 13)) ** 0.8 * width
    return ribbon(line, profile) @ rotation(degrees) + np.asarray(base)


def blossom(centre: Point, radius: float, degrees: float) -> Points:
    """Return the outline of five petals around a point."""
    turn = np.linspace(0, 2 * np.pi, 50, endpoint=False)
    reach = radius * (0.45 + 0.55 * np.abs(np.sin(2.5 * turn)) ** 0.7)
    ring = np.stack([np.cos(turn) * reach, np.sin(turn) * reach * 0.85], axis=1)
    return ring @ rotation(degrees) + centre


class Canvas:
    """An RGB picture in [0, 1] at twice the final size, with the part visible at each pixel."""

    def __init__(self, image: Float[np.ndarray, "H W 3"]):
        # Separate colour planes: numpy blends long rows many times faster than triples.
        self.planes = np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)
        self.parts = np.zeros(image.shape[:2], np.uint8)

    @property
    def image(self) -> Float[np.ndarray, "H W 3"]:
        """A copy of the picture."""
        return np.ascontiguousarray(self.planes.transpose(1, 2, 0))

    def _window(self, points: Points, margin: Number) -> tuple[slice, slice]:
        height, width = self.parts.shape
        left, top = np.floor(points.min(axis=0) - margin).astype(int)
        right, bottom = np.ceil(points.max(axis=0) + margin).astype(int) + 1
        # At least one pixel, so that a shape off the canvas is an empty region, not a special case.
        top, left = min(max(top, 0), height - 1), min(max(left, 0), width - 1)
        bottom, right = max(min(bottom, height), top + 1), max(min(right, width), left + 1)
        return slice(top, bottom), slice(left, right)

    def fill(self, points: PointsLike, soft: Number = 0.0) -> Region:
        """Return the inside of a polygon; `soft` blurs its edge, in canvas pixels."""
        return self._draw([np.asarray(points, np.float64)], soft, 0)

    def strokes(self, lines: Sequence[PointsLike], thickness: Number, soft: Number = 0.0) -> Region:
        """Return several open lines of one thickness."""
        return self._draw([np.asarray(line, np.float64) for line in lines], soft, thickness)

    def _draw(self, lines: list[Points], soft: Number, thickness: Number) -> Region:
        rows, columns = self._window(np.concatenate(lines), 3 * soft + thickness + 2)
        mask = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.uint8)
        origin = np.array([columns.start, rows.start])
        fixed = [np.round((line - origin) * (1 << _SHIFT)).astype(np.int32) for line in lines]
        if thickness:
            width = max(1, round(thickness))
            cv2.polylines(mask, fixed, False, 255, width, cv2.LINE_AA, _SHIFT)
        else:
            cv2.fillPoly(mask, fixed, 255, cv2.LINE_AA, _SHIFT)
        alpha = mask.astype(np.float32) / 255
        if soft > 0:
            alpha = cv2.GaussianBlur(alpha, (0, 0), soft, borderType=cv2.BORDER_REPLICATE)
        return Region(rows, columns, alpha)

    def silhouette(self, *regions: Region) -> Float[np.ndarray, "H W"]:
        """Return the union of the regions at the size of the canvas, to clip others with."""
        union = np.zeros(self.parts.shape, np.float32)
        for region in regions:
            window = union[region.rows, region.columns]
            np.maximum(window, region.alpha, out=window)
        return union

    def clipped(self, region: Region, silhouette: Float[np.ndarray, "H W"]) -> Region:
        """Return the part of a region inside a silhouette of the size of the canvas."""
        return region._replace(alpha=region.alpha * silhouette[region.rows, region.columns])

    def paint(
        self, region: Region, colour: ColourLike, opacity: Number = 1.0, part: int | None = None
    ) -> None:
        """Blend a colour over the region; a part index is written to the covered pixels."""
        alpha = region.alpha if opacity == 1 else region.alpha * np.float32(opacity)
        window = self.planes[:, region.rows, region.columns]
        window += alpha * (np.asarray(colour, np.float32)[:, None, None] - window)
        if part is not None:
            self.parts[region.rows, region.columns][region.alpha > 0.5] = part

    def shade(self, region: Region, gain: Float[np.ndarray, "h w"] | Number) -> None:
        """Multiply the light on a region; a gain below one is a shadow."""
        factor = 1 + region.alpha * (np.asarray(gain, np.float32) - 1)
        self.planes[:, region.rows, region.columns] *= factor


def smooth_union(
    canvas: Canvas, shapes: Sequence[Points], soft: Number
) -> Float[np.ndarray, "H W"]:
    """Return the silhouette of overlapping shapes with rounded inner corners."""
    silhouette = np.zeros(canvas.parts.shape, np.float32)
    rows, columns = canvas._window(np.concatenate(shapes), 3 * soft)
    mask = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.uint8)
    origin = np.array([columns.start, rows.start])
    for shape in shapes:
        corners = np.round((shape - origin) * (1 << _SHIFT)).astype(np.int32)
        cv2.fillPoly(mask, [corners], 255, cv2.LINE_AA, _SHIFT)
    blurred = cv2.GaussianBlur(mask.astype(np.float32) / 255, (0, 0), soft)
    # The blurred edge crosses one half at the outline; steepened, it blends over a pixel.
    silhouette[rows, columns] = np.clip((blurred - 0.5) * soft * 1.6 + 0.5, 0, 1)
    return silhouette


def to_uint8(image: Float[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """Round a picture in [0, 1] to bytes."""
    return np.clip(np.rint(image * 255), 0, 255).astype(np.uint8)
