"""Cartoon people in cartoon places: what ``data.demo`` films.

A figure is posed by forward kinematics in three dimensions. Everything solid (limbs, head, chair, parcel) is drawn as a
``Solid``: the convex hull of a few spheres, projected and painted from back to front. Lengths are metres, angles
degrees, colours BGR.

Three frames of reference:
    body    x forward, y up, z to the figure's right; the floor is y = 0, the ankles stand at x = 0
    camera  x right, y up, z towards the camera; the body frame turned by the yaw (0: it faces the camera)
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

CANVAS_WIDTH, CANVAS_HEIGHT = 768, 576
FLOOR_LINE = 390  # canvas row where the floor meets the wall or the sky
CAMERA_PITCH = 9.0  # looking down on the figure a little

# Rows of a posture: float array [6, 2] of (pitch, spread). Pitch turns a segment forward from hanging straight down
# (for torso and head: from straight up), spread turns it away from the body's middle.
TORSO, HEAD, UPPER_ARM, FOREARM, THIGH, SHIN = range(6)

SUBPIXEL_BITS = 4
CIRCLE = np.stack([np.cos(np.linspace(0, 2 * np.pi, 20, False)), np.sin(np.linspace(0, 2 * np.pi, 20, False))], axis=1)


@dataclass(frozen=True)
class Actor:
    """A body and its clothes. ``girth`` scales the thickness of all limbs, 1 being average."""

    height: float
    girth: float
    skin: Colour
    hair: Colour
    shirt: Colour
    trousers: Colour
    shoes: Colour
    long_hair: bool
    long_sleeves: bool
    long_trousers: bool


@dataclass(frozen=True)
class View:
    """How the camera sees the body frame: ``scale`` in pixels per metre, ``origin`` the canvas point of (0, 0, 0)."""

    yaw: float
    scale: float
    origin: tuple[float, float]

    def project(self, points: Points) -> tuple[Points, Points]:
        """Body frame [n, 3] -> canvas pixels [n, 2] and nearness to the camera [n]."""
        yaw, pitch = np.radians(self.yaw), np.radians(CAMERA_PITCH)
        forward, up, right = points.T
        x = forward * np.sin(yaw) - right * np.cos(yaw)
        z = forward * np.cos(yaw) + right * np.sin(yaw)
        screen_up = up * np.cos(pitch) - z * np.sin(pitch)
        pixels = np.stack([self.origin[0] + self.scale * x, self.origin[1] - self.scale * screen_up], axis=1)
        return pixels, z * np.cos(pitch) + up * np.sin(pitch)


@dataclass(frozen=True)
class Solid:
    """The convex hull of spheres: ``centres`` [n, 3] in the body frame and their ``radii`` [n]."""

    centres: Points
    radii: Points
    colour: Colour
    rounded: bool = True  # lit like a limb
    outlined: bool = True


def solid(colour: Colour, *spheres: tuple[Points, float], rounded: bool = True, outlined: bool = True) -> Solid:
    """A ``Solid`` from (centre, radius) pairs."""
    centres, radii = zip(*spheres, strict=True)
    return Solid(np.array(centres), np.array(radii), colour, rounded, outlined)


def random_colour(rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]) -> Colour:
    """Any hue, with saturation and value drawn from the ranges given, in [0, 1]."""
    red, green, blue = colorsys.hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(*value))
    return round(255 * blue), round(255 * green), round(255 * red)


def shaded(colour: Colour, factor: float) -> Colour:
    """Darker for a factor below 1, towards white above."""
    if factor <= 1:
        blue, green, red = (round(channel * factor) for channel in colour)
    else:
        blue, green, red = (round(255 - (255 - channel) / factor) for channel in colour)
    return blue, green, red


def random_actor(rng: np.random.Generator) -> Actor:
    skins: list[Colour] = [(190, 215, 245), (150, 185, 230), (110, 150, 205), (75, 110, 165), (45, 70, 115)]
    hairs: list[Colour] = [(25, 25, 30), (30, 50, 80), (60, 110, 170), (110, 180, 225), (150, 150, 155), (30, 60, 140)]
    return Actor(
        height=rng.uniform(1.55, 1.9),
        girth=rng.uniform(0.85, 1.25),
        skin=skins[rng.integers(len(skins))],
        hair=hairs[rng.integers(len(hairs))],
        shirt=random_colour(rng, (0.45, 0.9), (0.55, 1.0)),
        trousers=random_colour(rng, (0.2, 0.7), (0.2, 0.7)),
        shoes=random_colour(rng, (0.0, 0.7), (0.1, 0.95)),
        long_hair=bool(rng.random() < 0.5),
        long_sleeves=bool(rng.random() < 0.5),
        long_trousers=bool(rng.random() < 0.7),
    )


def direction(angles: Points, side: float) -> Points:
    """Unit vector [3] of a segment at (pitch, spread) [2]; it hangs down at (0, 0). Right ``side`` +1, left -1."""
    pitch, spread = np.radians(angles)
    return np.array([np.sin(pitch) * np.cos(spread), -np.cos(pitch) * np.cos(spread), side * np.sin(spread)])


def upward(angles: Points) -> Points:
    """Unit vector [3] of a segment that stands up at (0, 0) and leans forward with the pitch."""
    return direction(np.array([180 - angles[0], angles[1]]), 1)


def joints(actor: Actor, postures: Points) -> dict[str, Points]:
    """Forward kinematics: left and right posture [2, 6, 2] -> body-frame points [3] by joint name.

    The lowest of feet, hips, shoulders and head rests on the floor and the ankles stay over x = 0, so a keyframe
    needs angles only.
    """
    h = actor.height
    torso, head = postures[:, TORSO].mean(axis=0), postures[:, HEAD].mean(axis=0)
    hips = np.zeros(3)
    shoulders = hips + 0.28 * h * upward(torso)
    skull = shoulders + 0.135 * h * upward(head)
    points = {"hips": hips, "shoulders": shoulders, "head": skull}
    for name, side, posture in (("left", -1, postures[0]), ("right", 1, postures[1])):
        across = np.array([0.0, 0.0, side])
        hip, shoulder = hips + 0.055 * h * across, shoulders + 0.105 * h * across
        upper_arm, forearm, thigh, shin = (direction(posture[row], side) for row in (UPPER_ARM, FOREARM, THIGH, SHIN))
        elbow = shoulder + 0.165 * h * upper_arm
        hand = elbow + 0.165 * h * forearm
        knee = hip + 0.245 * h * thigh
        ankle = knee + 0.235 * h * shin
        # a foot stays flat under a shin that leans back, and points up on one that lies on the floor
        toe = ankle + 0.1 * h * direction(np.array([90 + max(0.0, posture[SHIN, 0]), 12]), side)
        limb = {
            "hip": hip,
            "shoulder": shoulder,
            "elbow": elbow,
            "hand": hand,
            "knee": knee,
            "ankle": ankle,
            "toe": toe,
        }
        points |= {f"{name}_{joint}": point for joint, point in limb.items()}
    thickness = {"hips": 0.06, "shoulders": 0.05, "head": 0.075, "left_ankle": 0.03, "right_ankle": 0.03}
    floor = min(points[joint][1] - radius * h for joint, radius in thickness.items())
    ankles = (points["left_ankle"][0] + points["right_ankle"][0]) / 2
    return {joint: point - (ankles, floor, 0) for joint, point in points.items()}


def figure(actor: Actor, at: dict[str, Points]) -> list[Solid]:
    """The actor's solids, for joints as ``joints`` gives them."""
    h, g = actor.height, actor.girth * actor.height
    solids = [
        solid(actor.skin, (at["shoulders"], 0.03 * g), (at["head"], 0.03 * g)),
        solid(
            actor.shirt,
            *((at[f"{side}_shoulder"] * 0.85 + at["shoulders"] * 0.15, 0.042 * g) for side in ("left", "right")),
            *((at[f"{side}_hip"], 0.046 * g) for side in ("left", "right")),
        ),
        solid(actor.trousers, *((at[f"{side}_hip"], 0.048 * g) for side in ("left", "right"))),
        *head(actor, at),
    ]
    sleeve = actor.shirt if actor.long_sleeves else actor.skin
    leg = actor.trousers if actor.long_trousers else actor.skin
    for side in ("left", "right"):
        shoulder, elbow, hand = at[f"{side}_shoulder"], at[f"{side}_elbow"], at[f"{side}_hand"]
        hip, knee, ankle, toe = (at[f"{side}_{joint}"] for joint in ("hip", "knee", "ankle", "toe"))
        solids += [
            solid(actor.shirt, (shoulder, 0.036 * g), (elbow, 0.028 * g)),
            solid(sleeve, (elbow, 0.026 * g), (hand, 0.02 * g)),
            solid(actor.skin, (hand, 0.026 * h), (hand + (hand - elbow) * 0.15, 0.02 * h)),
            solid(actor.trousers, (hip, 0.05 * g), (knee, 0.036 * g)),
            solid(leg, (knee, 0.035 * g), (ankle, 0.025 * g)),
            solid(actor.shoes, (ankle, 0.028 * h), (toe, 0.018 * h)),
        ]
    return solids


def head(actor: Actor, at: dict[str, Points]) -> list[Solid]:
    """Skull, hair, eyes and nose; what is on the far side of the skull is painted before it and so hidden."""
    centre, radius = at["head"], 0.072 * actor.height
    up = centre - at["shoulders"]
    up /= np.linalg.norm(up)
    forward, right = np.array([up[1], -up[0], 0.0]), np.array([0.0, 0.0, 1.0])

    def on_skull(ahead: float, above: float, aside: float) -> Points:
        return centre + radius * (ahead * forward + above * up + aside * right)

    crown = [(on_skull(-0.15, 0.55, aside), 0.62 * radius) for aside in (-0.35, 0.35)]
    nape = [(on_skull(-0.5, -1.1 if actor.long_hair else 0.0, aside), 0.5 * radius) for aside in (-0.45, 0.45)]
    fringe = [(on_skull(0.62, 0.72, aside), 0.22 * radius) for aside in (-0.5, 0.0, 0.5)]
    return [
        solid(actor.skin, (centre, radius)),
        solid(actor.hair, *crown, *nape),
        solid(
            actor.hair, *fringe, (on_skull(0.1, 0.95, -0.3), 0.25 * radius), (on_skull(0.1, 0.95, 0.3), 0.25 * radius)
        ),
        *(
            solid(colour, (on_skull(*place), size * radius), rounded=False, outlined=False)
            for colour, place, size in (
                ((30, 25, 25), (0.93, 0.12, -0.36), 0.12),
                ((30, 25, 25), (0.93, 0.12, 0.36), 0.12),
                (shaded(actor.skin, 0.8), (1.02, -0.12, 0.0), 0.14),
                ((60, 50, 140), (0.9, -0.45, 0.0), 0.1),
            )
        ),
    ]


def block(colour: Colour, low: Iterable[float], high: Iterable[float]) -> list[Solid]:
    """A cuboid between two body-frame corners, as its six faces, each with its own light."""
    ends = np.array([list(low), list(high)], dtype=np.float64)
    faces = []
    for axis, light in ((0, 0.85), (1, 1.35), (2, 0.68)):
        for end in (0, 1):
            picks = np.roll([(end, 0, 0), (end, 0, 1), (end, 1, 1), (end, 1, 0)], axis, axis=1)
            corners = ends[picks, range(3)]
            faces.append(Solid(corners, np.full(4, 0.006), shaded(colour, light), rounded=False))
    return faces


def chair(colour: Colour, x: float, z: float, seat_height: float) -> list[Solid]:
    """A chair that faces forward, its seat centred on (x, z)."""
    half, leg, slab = 0.21, 0.025, 0.05
    solids = block(colour, (x - half, seat_height - slab, z - half), (x + half, seat_height, z + half))
    solids += block(colour, (x - half - 0.04, seat_height + 0.12, z - half), (x - half, seat_height + 0.5, z + half))
    for side in (-1, 1):
        post = z + side * (half - leg)
        solids += block(colour, (x - half - 0.04, 0, post - leg), (x - half, seat_height + 0.12, post + leg))
        solids += block(colour, (x + half - 2 * leg, 0, post - leg), (x + half, seat_height - slab, post + leg))
    return solids


def parcel(colour: Colour, centre: Points, half: float) -> list[Solid]:
    """A parcel with a strip of tape over its top and sides; it never sinks into the floor."""
    middle = np.array([centre[0], max(centre[1], half), centre[2]])
    tape = np.array([half * 1.02, half * 1.02, half * 0.18])
    return block(colour, middle - half, middle + half) + block(shaded(colour, 1.9), middle - tape, middle + tape)


def mat(colour: Colour, back: float, front: float) -> list[Solid]:
    """A mat on the floor, from ``back`` to ``front`` along the figure's forward axis."""
    return block(colour, (back, 0.0, -0.38), (front, 0.01, 0.38))


def draw_solids(canvas: Image, solids: Iterable[Solid], view: View) -> None:
    """Paint ``solids`` onto ``canvas``, the farthest first."""
    items = list(solids)
    all_pixels, all_nearness = view.project(np.concatenate([item.centres for item in items]))
    ends = np.cumsum([len(item.centres) for item in items])[:-1]
    pixels_of, nearness_of = np.split(all_pixels, ends), np.split(all_nearness, ends)
    for index in sorted(range(len(items)), key=lambda index: float(nearness_of[index].mean())):
        item, pixels = items[index], pixels_of[index]
        radii = item.radii * view.scale
        if item.outlined:
            fill_hull(canvas, pixels, radii + 1.6, shaded(item.colour, 0.5))
        fill_hull(canvas, pixels, radii, item.colour)
        if item.rounded:
            fill_hull(canvas, pixels - 0.3 * radii[:, None], 0.45 * radii, shaded(item.colour, 1.22))


def draw_standing(canvas: Image, solids: list[Solid], view: View) -> None:
    """Paint a thing that stands on the floor, with its shadow."""
    draw_shadow(canvas, np.concatenate([item.centres for item in solids]), view)
    draw_solids(canvas, solids, view)


def fill_hull(canvas: Image, centres: Points, radii: Points, colour: Colour) -> None:
    """Fill the convex hull of circles (``centres`` [n, 2], ``radii`` [n], pixels), antialiased."""
    outline = (centres[:, None, :] + radii[:, None, None] * CIRCLE).reshape(-1, 2) * 2**SUBPIXEL_BITS
    hull = cv2.convexHull(np.round(outline).astype(np.int32))
    cv2.fillConvexPoly(canvas, hull, colour, cv2.LINE_AA, SUBPIXEL_BITS)


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
