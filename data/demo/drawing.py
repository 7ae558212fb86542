"""Drawing in three dimensions: what the demo's people and furniture are made of, and how it is painted.

Everything solid is a ``Solid``: the convex hull of a few spheres, projected and painted from back to front. Lengths are
in metres, angles in degrees, colours in BGR.

There are three frames of reference:
    body    x forward, y up, z to the person's right; the floor is y = 0, the ankles are at x = 0
    camera  x right, y up, z towards the camera; the body frame turned by the yaw (0: the person faces the camera)
    canvas  pixels, y down
"""

import colorsys
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Colour = tuple[int, int, int]
Image = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float64]
Outline = npt.NDArray[np.int32]
Polygon = tuple[Outline, Colour]
"""Corners, in fractions of a pixel (``SUBPIXEL_BITS``), and what they are filled with."""

CANVAS_WIDTH, CANVAS_HEIGHT = 768, 576
CAMERA_PITCH = 9.0  # the camera looks slightly down

SUBPIXEL_BITS = 4
CIRCLE = np.stack([np.cos(np.linspace(0, 2 * np.pi, 20, False)), np.sin(np.linspace(0, 2 * np.pi, 20, False))], axis=1)


@dataclass(frozen=True)
class View:
    """A camera's view of the body frame: ``scale`` in pixels per metre; ``origin`` is where (0, 0, 0) is on canvas."""

    yaw: float
    scale: float
    origin: tuple[float, float]

    def project(self, points: Points) -> tuple[Points, Points]:
        """Project body-frame points [n, 3]: return canvas pixels [n, 2] and the nearness to the camera [n]."""
        yaw, pitch = np.radians(self.yaw), np.radians(CAMERA_PITCH)
        forward, up, right = points.T
        x = forward * np.sin(yaw) - right * np.cos(yaw)
        z = forward * np.cos(yaw) + right * np.sin(yaw)
        screen_up = up * np.cos(pitch) - z * np.sin(pitch)
        pixels = np.stack([self.origin[0] + self.scale * x, self.origin[1] - self.scale * screen_up], axis=1)
        return pixels, z * np.cos(pitch) + up * np.sin(pitch)


@dataclass(frozen=True)
class Solid:
    """The convex hull of spheres with ``centres`` [n, 3] in the body frame and ``radii`` [n]."""

    centres: Points
    radii: Points
    colour: Colour
    rounded: bool = True  # painted with a highlight, as a limb is
    outlined: bool = True


def solid(colour: Colour, *spheres: tuple[Points, float], rounded: bool = True, outlined: bool = True) -> Solid:
    """Make a ``Solid`` from (centre, radius) pairs."""
    centres, radii = zip(*spheres, strict=True)
    return Solid(np.array(centres), np.array(radii), colour, rounded, outlined)


def random_colour(rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]) -> Colour:
    """Draw a colour of any hue, with saturation and value from the given ranges within [0, 1]."""
    red, green, blue = colorsys.hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(*value))
    return round(255 * blue), round(255 * green), round(255 * red)


def shaded(colour: Colour, factor: float) -> Colour:
    """Return a darker colour for a factor below 1, one closer to white for a factor above 1."""
    if factor <= 1:
        blue, green, red = (round(channel * factor) for channel in colour)
    else:
        blue, green, red = (round(255 - (255 - channel) / factor) for channel in colour)
    return blue, green, red


def block(colour: Colour, low: Iterable[float], high: Iterable[float]) -> list[Solid]:
    """Make a cuboid between two body-frame corners: six faces, shaded by their direction."""
    ends = np.array([list(low), list(high)], dtype=np.float64)
    faces = []
    for axis, light in ((0, 0.85), (1, 1.35), (2, 0.68)):
        for end in (0, 1):
            picks = np.roll([(end, 0, 0), (end, 0, 1), (end, 1, 1), (end, 1, 0)], axis, axis=1)
            corners = ends[picks, range(3)]
            faces.append(Solid(corners, np.full(4, 0.006), shaded(colour, light), rounded=False))
    return faces


def draw_solids(canvas: Image, solids: Iterable[Solid], view: View) -> None:
    """Paint ``solids`` onto ``canvas``, the farthest first."""
    fill(canvas, polygons_of(solids, view))


def polygons_of(solids: Iterable[Solid], view: View) -> list[Polygon]:
    """Return what ``solids`` are on canvas, the farthest first."""
    items = list(solids)
    pixels, nearness = view.project(np.concatenate([item.centres for item in items]))
    radii = np.concatenate([item.radii for item in items]) * view.scale
    starts = np.cumsum([0, *(len(item.centres) for item in items)])
    edges, bodies = circles(pixels, radii + 1.6), circles(pixels, radii)
    highlights = circles(pixels - 0.3 * radii[:, None], 0.45 * radii)
    means = np.add.reduceat(nearness, starts[:-1]) / np.diff(starts)
    polygons = []
    for index in np.argsort(means, kind="stable"):
        item, part = items[index], slice(starts[index], starts[index + 1])
        if item.outlined:
            polygons.append((hull(edges[part]), shaded(item.colour, 0.5)))
        polygons.append((hull(bodies[part]), item.colour))
        if item.rounded:
            polygons.append((hull(highlights[part]), shaded(item.colour, 1.22)))
    return polygons


def draw_standing(canvas: Image, solids: list[Solid], view: View) -> None:
    """Paint something that stands on the floor, with its shadow."""
    draw_shadow(canvas, np.concatenate([item.centres for item in solids]), view)
    draw_solids(canvas, solids, view)


def draw_shadow(canvas: Image, points: Iterable[Points], view: View) -> None:
    """Darken the floor under body-frame ``points``, each [3]."""
    ground = np.array(list(points)) * (1.0, 0.0, 1.0)
    pixels, _ = view.project(ground)
    left, right = pixels[:, 0].min(), pixels[:, 0].max()
    centre = (round(float(left + right) / 2), round(float(pixels[:, 1].mean())))
    for grow in (26, 17, 8):
        axes = (round(float(right - left) / 2) + grow, 8 + grow // 2)
        x0, y0 = max(0, centre[0] - axes[0] - 1), max(0, centre[1] - axes[1] - 1)
        patch = canvas[y0 : centre[1] + axes[1] + 2, x0 : centre[0] + axes[0] + 2]
        dark = patch.copy()
        cv2.ellipse(dark, (centre[0] - x0, centre[1] - y0), axes, 0, 0, 360, (20, 20, 20), -1, cv2.LINE_AA)
        cv2.addWeighted(dark, 0.16, patch, 0.84, 0, dst=patch)


def capsule(colour: Colour, centres: Points, radii: Points) -> Polygon:
    """Return the convex hull of circles on canvas: ``centres`` [n, 2] and ``radii`` [n] in pixels."""
    return hull(circles(centres, radii)), colour


def circles(centres: Points, radii: Points) -> Outline:
    """Return points on circles, in fractions of a pixel: [n, 2] and [n] -> int32 [n, 20, 2]."""
    outline = (centres[:, None, :] + radii[:, None, None] * CIRCLE) * 2**SUBPIXEL_BITS
    return np.round(outline).astype(np.int32)


def hull(outline: Outline) -> Outline:
    """Return the corners of the convex hull of points [..., 2]."""
    return cv2.convexHull(outline.reshape(-1, 2)).astype(np.int32, copy=False)


def fill(canvas: Image, polygons: Iterable[Polygon]) -> None:
    """Paint convex polygons one after another, antialiased."""
    for corners, colour in polygons:
        cv2.fillConvexPoly(canvas, corners, colour, cv2.LINE_AA, SUBPIXEL_BITS)
