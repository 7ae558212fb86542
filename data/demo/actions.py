"""The actions of the demo dataset, and how an actor moves in a take of one.

Each action has two classes. Their takes are drawn by the same random process, so nothing in the pictures tells them
apart but the order: either the second class is a take played backwards, or the movement is a cycle, repeated at a slow
and at a fast tempo.
"""

import math
from dataclasses import dataclass

import numpy as np

from data.demo.drawing import Points

FPS = 25
NOISE = 5.0  # degrees: standard deviation of a keyframe's angles
SLOW, FAST = (0.5, 1.0), (1.5, 2.25)  # cycles per second
ROUNDING = np.linspace(-0.3, 0.3, 5)  # in keyframes: a cycle is averaged over these, so that joints move smoothly


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
STRIDING = posture(2, 0, (-30, 9), (20, 5), (64, 4), (-22, 3)), posture(2, 0, (36, 9), (98, 2), (-4, 4), (-8, 3))
PASSING = posture(2, 0, (2, 9), (58, 4), (8, 4), (-12, 3))


@dataclass(frozen=True, eq=False)
class Action:
    """A movement, and the two classes that it is shown as.

    Attributes:
        classes: the names of the two classes.
        keyframes: postures at even steps of the movement, float [6, 2] for both sides or [2, 6, 2].
        yaw: range of the angle between actor and camera, to either side, in degrees.
        prop: what the movement needs: ``"chair"``, ``"parcel"``, ``"mat"`` or nothing.
        is_cycle: the keyframes are a cycle, which the second class repeats faster than the first. Otherwise the second
            class is the movement backwards.
    """

    classes: tuple[str, str]
    keyframes: tuple[Points, ...]
    yaw: tuple[float, float]
    prop: str | None = None
    is_cycle: bool = False


# A smaller dataset has the first of these. Their order is part of what the random numbers depend on.
ACTIONS = (
    Action(
        ("SitDown", "StandUp"),
        (
            STANDING,
            posture(38, 20, (25, 8), (45, 2), (52, 6), (-18, 4)),
            posture(4, 4, (22, 8), (72, 0), (88, 8), (2, 4)),
        ),
        yaw=(40, 75),
        prop="chair",
    ),
    Action(
        ("RaiseArms", "LowerArms"),
        (STANDING, posture(0, 0, (0, 85), (5, 85), (0, 6), (0, 4)), posture(0, -6, (0, 142), (0, 156), (0, 8), (0, 6))),
        yaw=(0, 30),
    ),
    Action(
        ("LiftBox", "PutDownBox"),
        (
            posture(62, 48, (8, 0), (12, 0), (84, 10), (-26, 4)),
            posture(30, 20, (22, 0), (48, 0), (42, 8), (-14, 4)),
            posture(-5, 2, (28, 0), (92, 0), (2, 5), (0, 4)),
        ),
        yaw=(40, 75),
        prop="parcel",
    ),
    Action(
        ("LieDown", "GetUp"),
        (
            STANDING,
            posture(40, 20, (60, 8), (70, 4), (112, 8), (-32, 4)),
            posture(-18, 0, (68, 10), (80, 4), (128, 8), (48, 4)),
            posture(-88, -80, (86, 10), (88, 8), (92, 5), (90, 5)),
        ),
        yaw=(55, 80),
        prop="mat",
    ),
    Action(
        ("WalkInPlace", "RunInPlace"),
        (np.stack(STRIDING), PASSING, np.stack(STRIDING[::-1]), PASSING),
        yaw=(35, 75),
        is_cycle=True,
    ),
    Action(
        ("Bow", "StraightenUp"),
        (STANDING, posture(80, 66, (22, 8), (26, 4), (-6, 4), (-2, 3))),
        yaw=(30, 75),
    ),
    Action(
        ("KneelDown", "RiseFromKnees"),
        (
            STANDING,
            posture(16, 10, (14, 9), (30, 5), (42, 6), (-58, 4)),
            posture(2, 2, (6, 9), (30, 4), (2, 6), (-88, 4)),
        ),
        yaw=(35, 75),
    ),
    Action(
        ("SquatDown", "RiseFromSquat"),
        (STANDING, posture(36, 16, (78, 6), (86, 0), (98, 14), (-42, 8))),
        yaw=(25, 70),
    ),
    Action(
        ("CrossArms", "UncrossArms"),
        (
            STANDING,
            posture(0, 0, (22, 14), (62, -10), (0, 4), (0, 3)),
            posture(-2, 2, (28, 6), (84, -64), (0, 4), (0, 3)),
        ),
        yaw=(0, 45),
    ),
    Action(
        ("CoverFace", "UncoverFace"),
        (
            STANDING,
            posture(4, 6, (52, 10), (110, -10), (0, 4), (0, 3)),
            posture(6, 14, (78, 6), (186, -24), (0, 4), (0, 3)),
        ),
        yaw=(0, 45),
    ),
    Action(
        ("OpenArms", "CloseArms"),
        (
            posture(0, 0, (84, -8), (88, -10), (0, 4), (0, 3)),
            posture(0, 0, (46, 48), (48, 48), (0, 4), (0, 3)),
            posture(-4, -2, (0, 88), (0, 92), (0, 5), (0, 4)),
        ),
        yaw=(0, 45),
    ),
    Action(
        ("RaiseLeg", "LowerLeg"),
        (
            STANDING,
            np.stack(
                [
                    posture(-8, 0, (10, 42), (16, 44), (86, 4), (66, 3)),
                    posture(-8, 0, (10, 42), (16, 44), (-3, 4), (-3, 3)),
                ]
            ),
        ),
        yaw=(35, 75),
    ),
    Action(
        ("PushBox", "PullBox"),
        (
            posture(-4, 2, (-18, 14), (86, -10), (2, 5), (0, 4)),
            posture(14, 6, (78, 2), (84, -2), (-4, 5), (-6, 4)),
        ),
        yaw=(40, 75),
        prop="parcel",
    ),
    Action(
        ("ClapSlowly", "ClapFast"),
        (posture(0, 0, (58, 30), (74, 42), (0, 4), (0, 3)), posture(0, 2, (62, -4), (76, -30), (0, 4), (0, 3))),
        yaw=(0, 45),
        is_cycle=True,
    ),
    Action(
        ("WaveSlowly", "WaveFast"),
        (
            np.stack([STANDING, posture(0, 0, (6, 96), (6, 112), (0, 4), (0, 3))]),
            np.stack([STANDING, posture(0, 0, (6, 96), (6, 206), (0, 4), (0, 3))]),
        ),
        yaw=(0, 35),
        is_cycle=True,
    ),
    Action(
        ("FlapArmsSlowly", "FlapArmsFast"),
        (posture(0, 2, (0, 16), (0, 10), (0, 4), (0, 3)), posture(0, -2, (0, 108), (0, 118), (0, 4), (0, 3))),
        yaw=(0, 35),
        is_cycle=True,
    ),
)


def postures(action: Action, is_fast: bool, num_frames: int, rng: np.random.Generator) -> Points:
    """Return the left and right posture in every frame, [num_frames, 2, 6, 2]. Left and right may be exchanged.

    Args:
        is_fast: the tempo of a cycle; of no meaning for other actions.
    """
    keyframes = np.stack([np.broadcast_to(frame, (2, 6, 2)) for frame in action.keyframes])
    keyframes = keyframes + rng.normal(0, NOISE, (len(keyframes), 1, 6, 2))
    if rng.random() < 0.5:
        keyframes = keyframes[:, ::-1]
    angles = repeat(keyframes, is_fast, num_frames, rng) if action.is_cycle else move_once(keyframes, num_frames, rng)
    angles += rng.normal(0, 2.0, (1, 2, 6, 2))
    seconds = np.arange(num_frames) / FPS
    sway = 1.2 * np.sin(2 * np.pi * (seconds * rng.uniform(0.3, 0.6) + rng.random()))
    return angles + sway[:, None, None, None]


def move_once(keyframes: Points, num_frames: int, rng: np.random.Generator) -> Points:
    """Wait, move and wait: [K, 2, 6, 2] -> [num_frames, 2, 6, 2].

    The waiting times before and after the movement have the same distribution.
    """
    moving = rng.uniform(0.35, 0.7)
    start = (1 - moving) * rng.uniform(0.2, 0.8)
    lags = rng.normal(0, 0.015, 2)
    progress = np.clip((np.linspace(0, 1, num_frames)[:, None] - start - lags) / moving, 0, 1)
    eased = progress * progress * (3 - 2 * progress)
    return smooth(between(keyframes, eased * (len(keyframes) - 1)), reach=3)


def repeat(keyframes: Points, is_fast: bool, num_frames: int, rng: np.random.Generator) -> Points:
    """Repeat a cycle at an even tempo: [K, 2, 6, 2] -> [num_frames, 2, 6, 2].

    A video has a whole number of cycles and begins anywhere in one, so at both tempos its frames are spread evenly over
    the cycle: their set says nothing about the tempo.
    """
    slowest, fastest = (bound * num_frames / FPS for bound in (FAST if is_fast else SLOW))
    num_cycles = math.floor(rng.uniform(math.ceil(slowest), math.floor(fastest) + 1))
    phases = rng.random() + num_cycles * np.arange(num_frames)[:, None] / num_frames + rng.normal(0, 0.02, 2)
    closed = np.concatenate([keyframes, keyframes[:1]])
    steps = [(phases * len(keyframes) + offset) % len(keyframes) for offset in ROUNDING]
    return np.mean([between(closed, step) for step in steps], axis=0)


def between(keyframes: Points, steps: Points) -> Points:
    """Interpolate [K, 2, 6, 2] at ``steps`` in [0, K - 1], [num_frames, 2] for left and right."""
    before = np.minimum(steps.astype(int), len(keyframes) - 2)
    share = (steps - before)[:, :, None, None]
    side = np.arange(2)
    return (1 - share) * keyframes[before, side] + share * keyframes[before + 1, side]


def smooth(values: Points, reach: int) -> Points:
    """Average over 2 * reach + 1 frames along the first axis, so that joints move smoothly."""
    padded = np.concatenate([values[:1].repeat(reach, 0), values, values[-1:].repeat(reach, 0)])
    return np.mean([padded[offset : offset + len(values)] for offset in range(2 * reach + 1)], axis=0)
