"""The embedded dataset: short videos of cartoon people, rendered on the spot in UCF101's layout.

    python -m data.demo --root datasets/demo

Its classes come in pairs that are each other's time reversal (SitDown / StandUp, ...). A clip of the second class is
drawn by the same random process as one of the first and its frames are played backwards, so within a pair the
distribution of a video's *set* of frames is exactly the same: a classifier that averages frames can tell the pairs
apart and gets half of the videos right, whatever its features. To do better it must know the order.

A group is one actor (body and clothes) in one scene who performs every class, so what an actor or a scene looks like
says nothing about the class, and no group stands on two sides of a split. As in UCF101, some groups are in no test
list; they are for validation.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from data.figures import (
    CANVAS_HEIGHT,
    CANVAS_WIDTH,
    Actor,
    Image,
    Points,
    Solid,
    View,
    box,
    chair,
    draw_shadow,
    draw_solids,
    figure,
    joints,
    random_actor,
    random_colour,
)
from data.records import DatasetError
from data.scenes import paint_scene

VERSION = 1  # of the pictures: to be raised whenever a seed would give other bytes
WIDTH, HEIGHT, FPS = 320, 240, 25
SUPERSAMPLING = 2  # canvas pixels per video pixel
VALIDATION_GROUPS = (9, 10)
TEST_GROUPS = {"1": (1, 2, 3), "2": (4, 5, 6), "3": (7, 8)}
MARKER, UNFINISHED_MARKER = "demo.json", "demo.unfinished.json"


def posture(
    torso: float,
    head: float,
    upper_arm: tuple[float, float],
    forearm: tuple[float, float],
    thigh: tuple[float, float],
    shin: tuple[float, float],
) -> Points:
    """Angles of one side of the body, float [6, 2]; see ``data.figures`` for their meaning."""
    return np.array([(torso, 0), (head, 0), upper_arm, forearm, thigh, shin], dtype=np.float64)


STANDING = posture(0, 0, (0, 9), (10, 6), (0, 4), (0, 3))


@dataclass(frozen=True)
class Action:
    """A movement and its reversal.

    Attributes:
        forward, backward: the two class names.
        keyframes: postures at even steps of the movement.
        yaw: range of how far the figure is turned from the camera, to either side, in degrees.
        prop: what the movement needs: ``"chair"``, ``"box"`` or nothing.
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
        yaw=(35, 80),
        prop="chair",
    ),
    Action(
        "RaiseArms",
        "LowerArms",
        (STANDING, posture(0, 0, (0, 85), (5, 85), (0, 6), (0, 4)), posture(0, -6, (0, 158), (0, 170), (0, 8), (0, 6))),
        yaw=(0, 40),
    ),
    Action(
        "LiftBox",
        "PutDownBox",
        (
            posture(62, 48, (8, 0), (12, 0), (84, 10), (-26, 4)),
            posture(30, 20, (22, 0), (48, 0), (42, 8), (-14, 4)),
            posture(-5, 2, (28, 0), (92, 0), (2, 5), (0, 4)),
        ),
        yaw=(30, 80),
        prop="box",
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
        yaw=(55, 85),
    ),
)


@dataclass(frozen=True)
class Clip:
    """One video of the dataset; ``group`` and ``number`` count from 1."""

    action: Action
    reversed: bool
    group: int
    number: int

    @property
    def class_name(self) -> str:
        return self.action.backward if self.reversed else self.action.forward

    @property
    def list_path(self) -> str:
        """As the official lists write it: ``<Class>/v_<Class>_g01_c01.avi``."""
        return f"{self.class_name}/v_{self.class_name}_g{self.group:02d}_c{self.number:02d}.avi"


def clips_of(classes: int, groups: int, clips: int) -> list[Clip]:
    """Every clip of a dataset of this size, in a fixed order."""
    return [
        Clip(action, reverse, group, number)
        for action in ACTIONS[: classes // 2]
        for reverse in (False, True)
        for group in range(1, groups + 1)
        for number in range(1, clips + 1)
    ]


@cache
def stage(seed: int, group: int) -> tuple[Actor, Image]:
    """The actor and the scene of a group."""
    rng = np.random.default_rng((seed, group))
    return random_actor(rng), paint_scene(rng)


def clip_frames(clip: Clip, seed: int) -> list[Image]:
    """The clip's frames, BGR uint8 [HEIGHT, WIDTH, 3] each: those of the movement, backwards for the reversed class."""
    take = 2 * clip.number + clip.reversed
    rng = np.random.default_rng((seed, clip.group, ACTIONS.index(clip.action), take))
    frames = film(clip.action, *stage(seed, clip.group), rng)
    return frames[::-1] if clip.reversed else frames


def film(action: Action, actor: Actor, scene: Image, rng: np.random.Generator) -> list[Image]:
    """Frames of one take of the forward movement; everything that varies between takes is drawn from ``rng``."""
    num_frames = int(rng.integers(2 * FPS, 4 * FPS + 1))
    movement = postures(action, num_frames, rng)
    bodies = [joints(actor, both_sides) for both_sides in movement]

    standing_pixels = rng.uniform(285, 350)
    view = View(
        yaw=rng.uniform(*action.yaw) * rng.choice((-1, 1)), scale=standing_pixels / actor.height, origin=(0.0, 0.0)
    )
    reach, _ = view.project(np.concatenate([list(body.values()) for body in bodies]))
    middle = (reach[:, 0].min() + reach[:, 0].max()) / 2
    origin = (CANVAS_WIDTH / 2 - middle + rng.uniform(-35, 35), rng.uniform(475, 500))
    view = View(view.yaw, view.scale, origin)

    scenery = scene.copy()
    draw_furniture(scenery, action, actor, bodies, view, rng)
    parcel = random_colour(rng, (0.3, 0.6), (0.5, 0.8)), rng.uniform(0.15, 0.18)
    frames = []
    for body, crop in zip(bodies, camera_path(num_frames, rng), strict=True):
        canvas = scenery.copy()
        draw_shadow(canvas, [body["left_toe"], body["right_toe"], body["hips"], body["head"]], view)
        solids: list[Solid] = figure(actor, body)
        if action.prop == "box":
            solids += box(parcel[0], (body["left_hand"] + body["right_hand"]) / 2 + (0.08, 0, 0), parcel[1])
        draw_solids(canvas, solids, view)
        frames.append(cv2.warpAffine(canvas, crop, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP))
    return frames


def postures(action: Action, num_frames: int, rng: np.random.Generator) -> Points:
    """Left and right posture of every frame, [num_frames, 2, 6, 2].

    The figure waits, moves and waits; the share of the clip that it waits before and after have one distribution.
    """
    time = np.linspace(0, 1, num_frames)
    moving = rng.uniform(0.6, 0.8)
    start = (1 - moving) * rng.uniform(0.2, 0.8)
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
    """Mean over 2 * reach + 1 frames along the first axis, so that no joint turns a corner."""
    padded = np.concatenate([values[:1].repeat(reach, 0), values, values[-1:].repeat(reach, 0)])
    return np.mean([padded[offset : offset + len(values)] for offset in range(2 * reach + 1)], axis=0)


def camera_path(num_frames: int, rng: np.random.Generator) -> Iterator[Points]:
    """Per frame the affine map [2, 3] from video to canvas pixels of a hand-held camera that drifts a little."""
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


def draw_furniture(
    canvas: Image, action: Action, actor: Actor, bodies: list[dict[str, Points]], view: View, rng: np.random.Generator
) -> None:
    """The chair that the action needs, and in any clip perhaps a chair or a parcel that it doesn't."""
    colour = random_colour(rng, (0.2, 0.7), (0.4, 0.8))
    turn, side = rng.uniform(-80, 80), rng.choice((-1, 1))
    aside = (view.origin[0] + side * rng.uniform(150, 270), view.origin[1] - rng.uniform(30, 60))
    spectator = View(turn, view.scale * 0.9, aside)
    distractor = rng.choice(("chair", "box", "nothing"))
    if distractor == "chair":
        draw_shadow(canvas, [np.array([x, 0, z]) for x in (-0.2, 0.2) for z in (-0.2, 0.2)], spectator)
        draw_solids(canvas, chair(colour, 0, 0, 0.45), spectator)
    elif distractor == "box":
        draw_shadow(canvas, [np.array([x, 0, z]) for x in (-0.1, 0.1) for z in (-0.1, 0.1)], spectator)
        draw_solids(canvas, box(colour, np.zeros(3), rng.uniform(0.13, 0.2)), spectator)
    if action.prop == "chair":
        lowest = min((body["hips"] for body in bodies), key=lambda hips: float(hips[1]))
        seat_height = float(lowest[1]) - 0.045 * actor.girth * actor.height
        x = float(lowest[0]) + 0.1
        draw_shadow(canvas, [np.array([x + dx, 0, dz]) for dx in (-0.2, 0.2) for dz in (-0.2, 0.2)], view)
        draw_solids(canvas, chair(random_colour(rng, (0.2, 0.7), (0.35, 0.75)), x, 0, seat_height), view)


def write_clip(clip: Clip, root: Path, seed: int) -> None:
    """Render one clip to its place under ``root``; a file of the final name is always whole."""
    final = root / "UCF-101" / clip.list_path
    if final.exists():
        return
    unfinished = final.with_name(f".{final.name}")
    frames = clip_frames(clip, seed)
    writer = cv2.VideoWriter(str(unfinished), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"XVID"), FPS, (WIDTH, HEIGHT))
    if not writer.isOpened():
        raise DatasetError(
            f"OpenCV can't write XviD video to {unfinished}. Is the folder writable and the disk not full?"
        )
    for frame in frames:
        writer.write(frame)
    writer.release()
    os.replace(unfinished, final)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` whole or not at all."""
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_text(text)
    os.replace(unfinished, path)
