"""Cartoon people: random actors, and the solids of one in a given posture. Units and frames: ``data.demo.drawing``."""

from dataclasses import dataclass

import numpy as np

from data.demo.drawing import Colour, Points, Solid, random_colour, shaded, solid

# Rows of a posture: float array [6, 2] of (pitch, spread). Pitch turns a segment forward from hanging straight down
# (torso and head: from straight up); spread turns it away from the middle of the body.
TORSO, HEAD, UPPER_ARM, FOREARM, THIGH, SHIN = range(6)


@dataclass(frozen=True)
class Actor:
    """A body and its clothes. ``height`` is in metres; ``girth`` scales the thickness of all limbs, 1 is average."""

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


def random_actor(rng: np.random.Generator) -> Actor:
    """Draw an actor."""
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
    """Return the unit vector [3] of a segment at (pitch, spread) [2], which hangs down at (0, 0).

    ``side`` is +1 for the right of the body, -1 for the left.
    """
    pitch, spread = np.radians(angles)
    return np.array([np.sin(pitch) * np.cos(spread), -np.cos(pitch) * np.cos(spread), side * np.sin(spread)])


def upward(angles: Points) -> Points:
    """Return the unit vector [3] of a segment that points up at (0, 0) and leans forward with the pitch."""
    return direction(np.array([180 - angles[0], angles[1]]), 1)


def joints(actor: Actor, postures: Points) -> dict[str, Points]:
    """Compute body-frame points [3] by joint name from the left and right posture [2, 6, 2] (forward kinematics).

    The lowest of feet, hips, shoulders and head rests on the floor, and the ankles stay at x = 0, so that keyframes
    consist of angles only.
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
        # The foot stays flat if the shin leans back, and points up if the shin lies on the floor.
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


def body_solids(actor: Actor, at: dict[str, Points]) -> list[Solid]:
    """Make the actor's solids from the points that ``joints`` returns."""
    h, g = actor.height, actor.girth * actor.height
    solids = [
        solid(actor.skin, (at["shoulders"], 0.03 * g), (at["head"], 0.03 * g)),
        solid(
            actor.shirt,
            *((at[f"{side}_shoulder"] * 0.85 + at["shoulders"] * 0.15, 0.042 * g) for side in ("left", "right")),
            *((at[f"{side}_hip"], 0.046 * g) for side in ("left", "right")),
        ),
        solid(actor.trousers, *((at[f"{side}_hip"], 0.048 * g) for side in ("left", "right"))),
        *head_solids(actor, at),
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


def head_solids(actor: Actor, at: dict[str, Points]) -> list[Solid]:
    """Make skull, hair, eyes, nose and mouth; those on the far side are painted before the skull, so it hides them."""
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
