"""What hides the actor and distracts from them: things in front, and people who pass by.

Nothing here knows the direction of time: whatever moves is as likely to move the other way, and passers-by have neither
a face nor toes, so they look the same walking backwards.
"""

from dataclasses import dataclass

import numpy as np

from data.demo.drawing import (
    CANVAS_WIDTH,
    Colour,
    Image,
    Points,
    Polygon,
    Solid,
    View,
    block,
    capsule,
    fill,
    polygons_of,
    random_colour,
    shaded,
    solid,
)


@dataclass(frozen=True)
class Passer:
    """Somebody who crosses the picture at an even pace.

    Attributes:
        middle: canvas column where they are in the middle of the take.
        pace: canvas columns per second; negative to the left.
        height: of the body, in canvas pixels.
        floor: canvas row of their feet.
        steps: swings of their legs per second.
        phase: of the legs, in [0, 1).
    """

    middle: float
    pace: float
    height: float
    floor: float
    steps: float
    phase: float
    skin: Colour
    shirt: Colour
    trousers: Colour

    def draw(self, canvas: Image, seconds: float) -> None:
        """Draw them at a time counted from the middle of the take."""
        h, x = self.height, self.middle + self.pace * seconds
        if not -h / 2 < x < CANVAS_WIDTH + h / 2:
            return
        swing = np.sin(2 * np.pi * (self.steps * seconds + self.phase))
        hips, shoulders = np.array([x, self.floor - 0.5 * h]), np.array([x, self.floor - 0.8 * h])
        feet, hands = (
            [start + length * h * _hanging(side * spread * swing) for side in (-1, 1)]
            for start, length, spread in ((hips, 0.48, 0.42), (shoulders, 0.34, 0.5))
        )
        parts = (
            (shaded(self.trousers, 0.8), (hips, 0.05), (feet[0], 0.03)),
            (self.trousers, (hips, 0.05), (feet[1], 0.03)),
            (shaded(self.shirt, 0.7), (shoulders, 0.035), (hands[0], 0.022)),
            (self.shirt, (hips, 0.065), (shoulders, 0.06)),
            (shaded(self.shirt, 0.85), (shoulders, 0.035), (hands[1], 0.022)),
            (self.skin, (np.array([x, self.floor - 0.92 * h]), 0.07)),
        )
        for colour, *ends in parts:
            centres, radii = zip(*ends, strict=True)
            fill(canvas, [capsule(colour, np.stack(centres), h * np.array(radii))])


def _hanging(angle: float) -> Points:
    """Return the unit vector on canvas [2] of a limb that hangs down at 0, in radians."""
    return np.array([np.sin(angle), np.cos(angle)])


def random_obstacles(rng: np.random.Generator) -> list[Polygon]:
    """Draw one or two things in front of the actor: a pole, a plant or a crate. They hide parts of the actor."""
    makers = (pole, plant, crate)
    polygons = []
    for kind in rng.choice(len(makers), rng.integers(1, 3), replace=False):
        place = (CANVAS_WIDTH / 2 + rng.uniform(-190, 190), rng.uniform(520, 570))
        view = View(yaw=rng.uniform(-60, 60), scale=rng.uniform(175, 215), origin=place)
        polygons += polygons_of(makers[kind](rng), view)
    return polygons


def pole(rng: np.random.Generator) -> list[Solid]:
    """Make a pole from the floor to above the picture."""
    radius = rng.uniform(0.03, 0.07)
    return [
        solid(random_colour(rng, (0.0, 0.6), (0.2, 0.9)), (np.zeros(3), radius), (np.array([0.0, 3.2, 0.0]), radius))
    ]


def plant(rng: np.random.Generator) -> list[Solid]:
    """Make a pot with a plant of long leaves."""
    pot = random_colour(rng, (0.3, 0.8), (0.4, 0.8))
    leaf = (int(rng.integers(30, 80)), int(rng.integers(90, 170)), int(rng.integers(30, 110)))
    top = np.array([0.0, 0.25, 0.0])
    leaves = []
    for _ in range(rng.integers(6, 10)):
        bend = top + (rng.uniform(-0.25, 0.25), rng.uniform(0.25, 0.6), rng.uniform(-0.25, 0.25))
        tip = bend + (bend - top) * (0.9, 0.4, 0.9)
        green = shaded(leaf, rng.uniform(0.75, 1.2))
        leaves += [solid(green, (top, 0.015), (bend, 0.05)), solid(green, (bend, 0.05), (tip, 0.01))]
    return [solid(pot, (np.array([0.0, 0.1, 0.0]), 0.1), (top, 0.13)), *leaves]


def crate(rng: np.random.Generator) -> list[Solid]:
    """Make a crate that hides the feet of who stands behind it."""
    width, height = rng.uniform(0.2, 0.4), rng.uniform(0.2, 0.5)
    return block(random_colour(rng, (0.1, 0.7), (0.3, 0.85)), (-width, 0.0, -width), (width, height, width))


def random_passers(num: int, is_near: bool, rng: np.random.Generator) -> list[Passer]:
    """Draw people who pass by, in front of the actor (``is_near``) or far behind."""
    skins: list[Colour] = [(180, 205, 235), (110, 150, 205), (50, 75, 120)]
    return [
        Passer(
            middle=CANVAS_WIDTH * rng.uniform(0.1, 0.9),
            pace=rng.choice((-1, 1)) * (rng.uniform(250, 450) if is_near else rng.uniform(30, 140)),
            height=rng.uniform(430, 500) if is_near else rng.uniform(170, 250),
            floor=rng.uniform(600, 640) if is_near else rng.uniform(405, 430),
            steps=rng.uniform(0.5, 1.2),
            phase=rng.random(),
            skin=skins[rng.integers(len(skins))],
            shirt=random_colour(rng, (0.1, 0.8), (0.25, 0.9)),
            trousers=random_colour(rng, (0.1, 0.6), (0.2, 0.6)),
        )
        for _ in range(num)
    ]
