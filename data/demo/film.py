"""How a take of an action is filmed.

Everything in a take but the stage is random: the movement, place, zoom, camera shake, light, what stands in front and
who passes by. Nothing in the frames may reveal the direction of time or the tempo (no motion blur, no trail), because
the classes of an action differ in nothing else.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from data.demo.actions import FPS, Action, postures
from data.demo.clutter import random_obstacles, random_passers
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
    fill,
    random_colour,
)
from data.demo.people import Actor, body_solids, joints, random_actor
from data.demo.scenes import chair, mat, paint_scene, parcel

WIDTH, HEIGHT = 320, 240
SUPERSAMPLING = 2  # canvas pixels per video pixel


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


def film(action: Action, is_second: bool, stage: Stage, rng: np.random.Generator) -> list[Image]:
    """Film a take of one of the action's two classes: its frames, BGR uint8 [HEIGHT, WIDTH, 3].

    Everything random is drawn from ``rng``. Where the second class is the first one backwards, the same ``rng`` gives
    the same frames in reverse.
    """
    num_frames = int(rng.integers(2 * FPS, 4 * FPS + 1))
    bodies = [joints(stage.actor, both_sides) for both_sides in postures(action, is_second, num_frames, rng)]

    yaw = rng.uniform(*action.yaw) * rng.choice((-1, 1))
    view = View(yaw, scale=rng.uniform(265, 340) / stage.actor.height, origin=(0.0, 0.0))
    reach, _ = view.project(np.concatenate([list(body.values()) for body in bodies]))
    middle = (reach[:, 0].min() + reach[:, 0].max()) / 2
    origin = (CANVAS_WIDTH / 2 - middle + rng.uniform(-50, 50), rng.uniform(455, 490))
    view = dataclasses.replace(view, origin=origin)

    scenery = stage.scene.copy()
    if action.prop == "chair":
        lowest = min((body["hips"] for body in bodies), key=lambda hips: float(hips[1]))
        seat_height = lowest[1] - 0.045 * stage.actor.girth * stage.actor.height
        draw_standing(scenery, chair(stage.chair_colour, lowest[0] + 0.1, 0, seat_height), view)
    elif action.prop == "mat":
        along = [point[0] for body in bodies for point in body.values()]
        draw_standing(scenery, mat(stage.mat_colour, min(along) - 0.15, max(along) + 0.1), view)
    behind = random_passers(int(rng.integers(0, 3)), False, rng)
    obstacles = random_obstacles(rng)
    in_front = random_passers(int(rng.integers(0, 2)), True, rng)
    frames = []
    times = (np.arange(num_frames) - (num_frames - 1) / 2) / FPS  # from the middle, so that both directions are alike
    light = 1 + rng.uniform(-0.15, 0.15) + 0.08 * np.sin(2 * np.pi * (times * rng.uniform(0.2, 1.0) + rng.random()))
    for body, seconds, gain, crop in zip(bodies, times, light, camera_path(times, rng), strict=True):
        canvas = scenery.copy()
        for passer in behind:
            passer.draw(canvas, seconds)
        solids = body_solids(stage.actor, body)
        if action.prop == "parcel":
            between_hands = (body["left_hand"] + body["right_hand"]) / 2 + (0.08, 0, 0)
            solids += parcel(stage.parcel_colour, between_hands, stage.parcel_half)
        draw_shadow(canvas, [body["left_toe"], body["right_toe"], body["hips"], body["head"]], view)
        draw_solids(canvas, solids, view)
        fill(canvas, obstacles)
        for passer in in_front:
            passer.draw(canvas, seconds)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        frame = cv2.warpAffine(canvas, crop, (WIDTH, HEIGHT), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        frames.append(cv2.convertScaleAbs(frame, alpha=gain))
    return frames[::-1] if is_second and not action.is_cycle else frames


def camera_path(times: Points, rng: np.random.Generator) -> Iterator[Points]:
    """Yield for every frame the affine map [2, 3] from video to canvas pixels of a drifting, shaking camera.

    Args:
        times: in seconds from the middle of the take, [num_frames].
    """
    share = times / (times[-1] - times[0])
    shake = np.sin(2 * np.pi * (np.outer(times, rng.uniform(0.4, 3.0, 5)) + rng.random(5)))  # [num_frames, 5]
    strength = rng.uniform(0.3, 1.0)
    zoom = rng.uniform(0.92, 1.1) + share * rng.uniform(-0.1, 0.1)
    roll = np.radians(rng.uniform(-3, 3) + share * rng.uniform(-3, 3) + strength * shake[:, 0])
    shift = np.outer(share, rng.uniform(-40, 40, 2)) + strength * (5 * shake[:, 1:3] + 4 * shake[:, 3:5])
    for z, angle, (x, y) in zip(zoom, roll, shift, strict=True):
        cosine, sine = np.cos(angle) * SUPERSAMPLING / z, np.sin(angle) * SUPERSAMPLING / z
        turn = np.array([[cosine, -sine], [sine, cosine]])
        centre = np.array([CANVAS_WIDTH / 2 + x, CANVAS_HEIGHT / 2 + y])
        yield np.column_stack([turn, centre - turn @ ((WIDTH - 1) / 2, (HEIGHT - 1) / 2)])
