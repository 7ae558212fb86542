"""The actions of the demo dataset, and how a take of one is filmed.

Everything in a take but the stage is random: tempo, waiting times, angles, place, zoom, camera shake. Nothing in the
frames may reveal the direction of time (no motion blur, no trail), because half of the classes are takes played
backwards.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from data.demo.drawing import (
    CANVAS_HEIGHT,
    CANVAS_WIDTH,
    Colour,
    Image,
    Points,
    View,
    draw_shadow,
    draw_solids,
    draw_standing,
    random_colour,
)
from data.demo.people import Actor, body_solids, joints, random_actor
from data.demo.scenes import chair, mat, paint_scene, parcel

WIDTH, HEIGHT, FPS = 320, 240, 25
SUPERSAMPLING = 2  # canvas pixels per video pixel


def posture(
    torso: float,
    head: float,
    upper_arm: tuple[float, float],
    forearm: tuple[float, float],
    thigh: tuple[float, float],
    shin: tuple[float, float],
) -> Points:
    """Return the angles of one side of the body, float [6, 2]; ``data.demo.people`` explains them."""
    return np.array([(torso, 0), (head, 0), upper_arm, forearm, thigh, shin], dtype=np.float64)


STANDING = posture(0, 0, (0, 9), (10, 6), (0, 4), (0, 3))


@dataclass(frozen=True, eq=False)
class Action:
    """A movement and its reversal.

    Attributes:
        forward, backward: the two class names.
        keyframes: postures at even steps of the movement.
        yaw: range of the angle between actor and camera, to either side, in degrees.
        prop: what the movement needs: ``"chair"``, ``"parcel"``, ``"mat"`` or nothing.
    """

    forward: str
    backward: str
    keyframes: tuple[Points, ...]
    yaw: tuple[float, float]
    prop: str | None = None


ACTIONS = (
    Action(
        "SitDown",
        "StandUp",
        (
            STANDING,
            posture(38, 20, (25, 8), (45, 2), (52, 6), (-18, 4)),
            posture(4, 4, (22, 8), (72, 0), (88, 8), (2, 4)),
        ),
        yaw=(40, 75),
        prop="chair",
    ),
    Action(
        "RaiseArms",
        "LowerArms",
        (STANDING, posture(0, 0, (0, 85), (5, 85), (0, 6), (0, 4)), posture(0, -6, (0, 142), (0, 156), (0, 8), (0, 6))),
        yaw=(0, 30),
    ),
    Action(
        "LiftBox",
        "PutDownBox",
        (
            posture(62, 48, (8, 0), (12, 0), (84, 10), (-26, 4)),
            posture(30, 20, (22, 0), (48, 0), (42, 8), (-14, 4)),
            posture(-5, 2, (28, 0), (92, 0), (2, 5), (0, 4)),
        ),
        yaw=(40, 75),
        prop="parcel",
    ),
    Action(
        "LieDown",
        "GetUp",
        (
            STANDING,
            posture(40, 20, (60, 8), (70, 4), (112, 8), (-32, 4)),
            posture(-18, 0, (68, 10), (80, 4), (128, 8), (48, 4)),
            posture(-88, -80, (86, 10), (88, 8), (92, 5), (90, 5)),
        ),
        yaw=(55, 80),
        prop="mat",
    ),
)


@dataclass(frozen=True, eq=False)
class Stage:
    """An actor, a scene and the props. ``parcel_half`` is half the length of the parcel's edge, in metres."""

    actor: Actor
    scene: Image
    chair_colour: Colour
    mat_colour: Colour
    parcel_colour: Colour
    parcel_half: float


def random_stage(scene_kind: int, rng: np.random.Generator) -> Stage:
    """Draw an actor and a scene, in which there may be a chair or a parcel that the action does not use."""
    stage = Stage(
        actor=random_actor(rng),
        scene=paint_scene(scene_kind, rng),
        chair_colour=random_colour(rng, (0.2, 0.7), (0.35, 0.75)),
        mat_colour=random_colour(rng, (0.4, 0.8), (0.5, 0.9)),
        parcel_colour=random_colour(rng, (0.3, 0.6), (0.5, 0.8)),
        parcel_half=rng.uniform(0.17, 0.2),
    )
    place = (CANVAS_WIDTH / 2 + rng.choice((-1, 1)) * rng.uniform(200, 280), rng.uniform(415, 435))
    view = View(yaw=rng.uniform(-80, 80), scale=rng.uniform(130, 155), origin=place)
    colour = random_colour(rng, (0.2, 0.7), (0.4, 0.8))
    leftover = rng.choice(("chair", "parcel", "nothing"))
    if leftover == "chair":
        draw_standing(stage.scene, chair(colour, 0, 0, 0.45), view)
    elif leftover == "parcel":
        draw_standing(stage.scene, parcel(colour, np.zeros(3), rng.uniform(0.13, 0.2)), view)
    return stage


def film(action: Action, stage: Stage, rng: np.random.Generator) -> list[Image]:
    """Film one take and return its frames, BGR uint8 [HEIGHT, WIDTH, 3]. Everything random is drawn from ``rng``."""
    num_frames = int(rng.integers(2 * FPS, 4 * FPS + 1))
    bodies = [joints(stage.actor, both_sides) for both_sides in postures(action, num_frames, rng)]

    yaw = rng.uniform(*action.yaw) * rng.choice((-1, 1))
    view = View(yaw, scale=rng.uniform(295, 340) / stage.actor.height, origin=(0.0, 0.0))
    reach, _ = view.project(np.concatenate([list(body.values()) for body in bodies]))
    middle = (reach[:, 0].min() + reach[:, 0].max()) / 2
    origin = (CANVAS_WIDTH / 2 - middle + rng.uniform(-25, 25), rng.uniform(465, 485))
    view = dataclasses.replace(view, origin=origin)

    scenery = stage.scene.copy()
    if action.prop == "chair":
        lowest = min((body["hips"] for body in bodies), key=lambda hips: float(hips[1]))
        seat_height = lowest[1] - 0.045 * stage.actor.girth * stage.actor.height
        draw_standing(scenery, chair(stage.chair_colour, lowest[0] + 0.1, 0, seat_height), view)
    elif action.prop == "mat":
        along = [point[0] for body in bodies for point in body.values()]
        draw_standing(scenery, mat(stage.mat_colour, min(along) - 0.15, max(along) + 0.1), view)
    frames = []
    for body, crop in zip(bodies, camera_path(num_frames, rng), strict=True):
        canvas = scenery.copy()
        solids = body_solids(stage.actor, body)
        if action.prop == "parcel":
            between_hands = (body["left_hand"] + body["right_hand"]) / 2 + (0.08, 0, 0)
            solids += parcel(stage.parcel_colour, between_hands, stage.parcel_half)
        draw_shadow(canvas, [body["left_toe"], body["right_toe"], body["hips"], body["head"]], view)
        draw_solids(canvas, solids, view)
        frames.append(cv2.warpAffine(canvas, crop, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP))
    return frames


def postures(action: Action, num_frames: int, rng: np.random.Generator) -> Points:
    """Return the left and right posture in every frame, [num_frames, 2, 6, 2].

    The actor waits, moves and waits. The waiting times before and after the movement have the same distribution.
    """
    time = np.linspace(0, 1, num_frames)
    moving = rng.uniform(0.5, 0.7)
    start = (1 - moving) * rng.uniform(0.35, 0.65)
    keyframes = np.stack(action.keyframes) + rng.normal(0, 3.0, (len(action.keyframes), 6, 2))
    sides = []
    for lag in rng.normal(0, 0.015, 2):
        progress = np.clip((time - start - lag) / moving, 0, 1)
        eased = progress * progress * (3 - 2 * progress)
        steps = eased * (len(keyframes) - 1)
        before = np.minimum(steps.astype(int), len(keyframes) - 2)
        share = (steps - before)[:, None, None]
        angles = (1 - share) * keyframes[before] + share * keyframes[before + 1]
        sides.append(smooth(angles, reach=3) + rng.normal(0, 2.0, (6, 2)))
    sway = 1.2 * np.sin(2 * np.pi * (time * num_frames / FPS * rng.uniform(0.3, 0.6) + rng.random()))
    return np.stack(sides, axis=1) + sway[:, None, None, None]


def smooth(values: Points, reach: int) -> Points:
    """Average over 2 * reach + 1 frames along the first axis, so that joints move smoothly."""
    padded = np.concatenate([values[:1].repeat(reach, 0), values, values[-1:].repeat(reach, 0)])
    return np.mean([padded[offset : offset + len(values)] for offset in range(2 * reach + 1)], axis=0)


def camera_path(num_frames: int, rng: np.random.Generator) -> Iterator[Points]:
    """Yield for every frame the affine map [2, 3] from video to canvas pixels of a drifting hand-held camera."""
    time = np.linspace(-0.5, 0.5, num_frames)
    zoom = rng.uniform(0.95, 1.05) + time * rng.uniform(-0.05, 0.05)
    roll = np.radians(rng.uniform(-1.5, 1.5) + time * rng.uniform(-1.0, 1.0))
    tremble = np.sin(2 * np.pi * (np.outer(time, rng.uniform(1.5, 3.5, 2)) + rng.random(2)))
    shift = np.outer(time, rng.uniform(-20, 20, 2)) + 1.5 * tremble
    for z, angle, (x, y) in zip(zoom, roll, shift, strict=True):
        cosine, sine = np.cos(angle) * SUPERSAMPLING / z, np.sin(angle) * SUPERSAMPLING / z
        turn = np.array([[cosine, -sine], [sine, cosine]])
        centre = np.array([CANVAS_WIDTH / 2 + x, CANVAS_HEIGHT / 2 + y])
        yield np.column_stack([turn, centre - turn @ ((WIDTH - 1) / 2, (HEIGHT - 1) / 2)])
