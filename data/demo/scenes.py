"""The scenes of the demo dataset: rooms, gyms and parks, painted with OpenCV, and the furniture in them."""

import cv2
import numpy as np

from data.demo.drawing import (
    CANVAS_HEIGHT,
    CANVAS_WIDTH,
    Colour,
    Image,
    Points,
    Solid,
    block,
    random_colour,
    shaded,
)

FLOOR_LINE = 390  # canvas row where the floor meets the wall or the sky
BLUR = 3.0  # standard deviation in canvas pixels


def paint_scene(kind: int, rng: np.random.Generator) -> Image:
    """Paint a background, uint8 [CANVAS_HEIGHT, CANVAS_WIDTH, 3]: wall or sky above FLOOR_LINE, floor or grass below.

    ``kind`` is any integer; rooms, parks and gyms alternate. The background is slightly out of focus, as in a film.
    """
    canvas = np.zeros((CANVAS_HEIGHT, CANVAS_WIDTH, 3), np.uint8)
    (paint_room, paint_park, paint_room, paint_gym)[kind % 4](canvas, rng)
    paint_jumble(canvas, rng)
    return add_grain(cv2.GaussianBlur(canvas, (0, 0), BLUR), rng)


def paint_room(canvas: Image, rng: np.random.Generator) -> None:
    """Paint a living room: patterned wall, floor boards, window, picture and shelf."""
    wall = random_colour(rng, (0.08, 0.35), (0.55, 0.92))
    fill_gradient(canvas, 0, FLOOR_LINE, shaded(wall, 1.15), shaded(wall, 0.85))
    paint_wallpaper(canvas, shaded(wall, 0.9), rng)
    wood = (int(rng.integers(40, 110)), int(rng.integers(85, 150)), int(rng.integers(130, 200)))
    paint_boards(canvas, wood, rng)
    cv2.rectangle(canvas, (0, FLOOR_LINE - 16), (CANVAS_WIDTH, FLOOR_LINE), shaded(wall, 1.6), -1)
    cv2.line(canvas, (0, FLOOR_LINE), (CANVAS_WIDTH, FLOOR_LINE), shaded(wood, 0.5), 2)
    furnishings = (paint_window, paint_picture, paint_shelf)
    for place, kind in enumerate(rng.permutation(len(furnishings))):
        furnishings[kind](canvas, 40 + 250 * place + int(rng.integers(-20, 21)), rng)


def paint_gym(canvas: Image, rng: np.random.Generator) -> None:
    """Paint a sports hall: bricks, wall bars and a floor with court lines."""
    brick = random_colour(rng, (0.1, 0.4), (0.5, 0.85))
    canvas[:FLOOR_LINE] = shaded(brick, 1.25)
    for row, top in enumerate(range(0, FLOOR_LINE, 26)):
        for left in range(-30 * (row % 2), CANVAS_WIDTH, 60):
            tone = shaded(brick, float(rng.uniform(0.9, 1.08)))
            cv2.rectangle(canvas, (left, top), (left + 57, min(top + 23, FLOOR_LINE)), tone, -1)
    floor = random_colour(rng, (0.25, 0.6), (0.5, 0.8))
    fill_gradient(canvas, FLOOR_LINE, CANVAS_HEIGHT, shaded(floor, 0.8), shaded(floor, 1.1))
    for row in (FLOOR_LINE + 30, FLOOR_LINE + 120):
        cv2.line(canvas, (0, row), (CANVAS_WIDTH, row + int(rng.integers(-25, 25))), (235, 235, 235), 4, cv2.LINE_AA)
    left = int(rng.integers(20, CANVAS_WIDTH - 200))
    for rung in range(60, FLOOR_LINE - 10, 24):
        cv2.line(canvas, (left, rung), (left + 150, rung), (70, 120, 170), 6, cv2.LINE_AA)
    for post in (left, left + 150):
        cv2.line(canvas, (post, 45), (post, FLOOR_LINE), (50, 90, 135), 9, cv2.LINE_AA)


def paint_park(canvas: Image, rng: np.random.Generator) -> None:
    """Paint sky, clouds, hills, trees and grass."""
    skies: list[Colour] = [(235, 180, 110), (225, 165, 135), (200, 150, 190), (205, 195, 170)]
    fill_gradient(canvas, 0, FLOOR_LINE, skies[rng.integers(len(skies))], (245, 235, 225))
    for _ in range(rng.integers(2, 5)):
        x, y = int(rng.integers(0, CANVAS_WIDTH)), int(rng.integers(30, 170))
        for _ in range(5):
            puff = (x + int(rng.integers(-50, 51)), y + int(rng.integers(-10, 11)))
            cv2.ellipse(canvas, puff, (int(rng.integers(25, 50)), 17), 0, 0, 360, (250, 248, 246), -1, cv2.LINE_AA)
    for tone in (0.9, 0.72):
        columns = np.arange(0, CANVAS_WIDTH + 8, 8)
        crest = FLOOR_LINE - 60 * tone - 25 * np.sin(columns / rng.uniform(60, 130) + rng.uniform(0, 6))
        ridge = np.stack([columns, crest], axis=1).astype(np.int32)
        corners = np.array([[CANVAS_WIDTH, FLOOR_LINE], [0, FLOOR_LINE]], np.int32)
        cv2.fillPoly(canvas, [np.concatenate([ridge, corners])], shaded((120, 170, 120), tone), cv2.LINE_AA)
    for _ in range(rng.integers(2, 5)):
        x, top = int(rng.integers(0, CANVAS_WIDTH)), int(rng.integers(110, 240))
        cv2.rectangle(canvas, (x - 8, top), (x + 8, FLOOR_LINE + 6), (45, 70, 95), -1)
        leaf = (int(rng.integers(30, 80)), int(rng.integers(100, 160)), int(rng.integers(40, 110)))
        for _ in range(7):
            clump = (x + int(rng.integers(-42, 43)), top + int(rng.integers(-35, 36)))
            green = shaded(leaf, float(rng.uniform(0.8, 1.15)))
            cv2.circle(canvas, clump, int(rng.integers(24, 42)), green, -1, cv2.LINE_AA)
    grass = (int(rng.integers(40, 90)), int(rng.integers(130, 180)), int(rng.integers(80, 130)))
    fill_gradient(canvas, FLOOR_LINE, CANVAS_HEIGHT, shaded(grass, 0.85), shaded(grass, 1.1))
    for _ in range(500):
        x, y = int(rng.integers(0, CANVAS_WIDTH)), int(rng.integers(FLOOR_LINE + 4, CANVAS_HEIGHT))
        blade = (x + int(rng.integers(-3, 4)), y - int(rng.integers(4, 11)))
        cv2.line(canvas, (x, y), blade, shaded(grass, float(rng.uniform(0.75, 1.2))), 2)


def paint_jumble(canvas: Image, rng: np.random.Generator) -> None:
    """Paint bags, balls and striped boards anywhere behind the actor."""
    for _ in range(rng.integers(6, 13)):
        x, size = int(rng.integers(0, CANVAS_WIDTH)), int(rng.integers(14, 50))
        y = int(rng.integers(120, FLOOR_LINE + 40))
        colour, other = (random_colour(rng, (0.1, 0.8), (0.2, 0.95)) for _ in range(2))
        kind = rng.integers(3)
        if kind == 0:
            cv2.circle(canvas, (x, y), size // 2, colour, -1, cv2.LINE_AA)
            cv2.circle(canvas, (x, y), size // 4, other, 3, cv2.LINE_AA)
        elif kind == 1:
            cv2.rectangle(canvas, (x - size, y - size), (x + size, y + size // 2), colour, -1)
            for stripe in range(x - size, x + size, 14):
                cv2.line(canvas, (stripe, y - size), (stripe + 7, y + size // 2), other, 4, cv2.LINE_AA)
        else:
            cv2.ellipse(canvas, (x, y), (size // 3, size), rng.uniform(0, 180), 0, 360, colour, -1, cv2.LINE_AA)


def paint_wallpaper(canvas: Image, colour: Colour, rng: np.random.Generator) -> None:
    """Paint stripes, dots, a dado rail, or nothing."""
    pattern = rng.integers(4)
    pitch = int(rng.integers(36, 72))
    if pattern == 0:
        for x in range(0, CANVAS_WIDTH, pitch):
            cv2.rectangle(canvas, (x, 0), (x + pitch // 2, FLOOR_LINE), colour, -1)
    elif pattern == 1:
        for row, y in enumerate(range(0, FLOOR_LINE, pitch // 2)):
            for x in range((row % 2) * pitch // 2, CANVAS_WIDTH, pitch):
                cv2.circle(canvas, (x, y), 6, colour, -1, cv2.LINE_AA)
    elif pattern == 2:
        cv2.rectangle(canvas, (0, FLOOR_LINE - 120), (CANVAS_WIDTH, FLOOR_LINE), colour, -1)
        cv2.line(canvas, (0, FLOOR_LINE - 120), (CANVAS_WIDTH, FLOOR_LINE - 120), shaded(colour, 0.7), 5)


def paint_boards(canvas: Image, wood: Colour, rng: np.random.Generator) -> None:
    """Paint floor boards that run away from the camera, to a vanishing point above the foot of the wall."""
    fill_gradient(canvas, FLOOR_LINE, CANVAS_HEIGHT, shaded(wood, 0.8), shaded(wood, 1.1))
    vanishing_x = CANVAS_WIDTH / 2 + rng.uniform(-120, 120)
    for near_x in range(-600, CANVAS_WIDTH + 600, 70):
        far_x = near_x + (vanishing_x - near_x) * 0.45
        ends = (round(far_x), FLOOR_LINE), (near_x, CANVAS_HEIGHT)
        cv2.line(canvas, *ends, shaded(wood, 0.65), 2, cv2.LINE_AA)


def paint_window(canvas: Image, left: int, rng: np.random.Generator) -> None:
    """Paint a window with the sky behind it."""
    width, top, bottom = int(rng.integers(130, 190)), int(rng.integers(60, 90)), int(rng.integers(210, 270))
    fill_gradient(canvas, top, bottom, (235, 190, 140), (245, 235, 220), left, left + width)
    middle_x, middle_y = left + width // 2, (top + bottom) // 2
    for start, end in (((middle_x, top), (middle_x, bottom)), ((left, middle_y), (left + width, middle_y))):
        cv2.line(canvas, start, end, (240, 242, 245), 6)
    cv2.rectangle(canvas, (left, top), (left + width, bottom), (240, 242, 245), 9)
    cv2.rectangle(canvas, (left - 12, bottom), (left + width + 12, bottom + 10), (215, 220, 225), -1)


def paint_picture(canvas: Image, left: int, rng: np.random.Generator) -> None:
    """Paint a framed picture of a hill."""
    width, height, top = int(rng.integers(90, 150)), int(rng.integers(80, 130)), int(rng.integers(70, 130))
    sky, land = random_colour(rng, (0.2, 0.6), (0.6, 0.9)), random_colour(rng, (0.3, 0.7), (0.3, 0.7))
    cv2.rectangle(canvas, (left, top), (left + width, top + height), sky, -1)
    hill = (left + width // 2, top + height)
    cv2.ellipse(canvas, hill, (width // 2, height // 2), 0, 180, 360, land, -1, cv2.LINE_AA)
    frame = random_colour(rng, (0.2, 0.6), (0.2, 0.6))
    cv2.rectangle(canvas, (left, top), (left + width, top + height), frame, 8)


def paint_shelf(canvas: Image, left: int, rng: np.random.Generator) -> None:
    """Paint a bookcase that stands on the floor."""
    width, top = int(rng.integers(120, 170)), int(rng.integers(130, 190))
    wood = (int(rng.integers(30, 70)), int(rng.integers(60, 110)), int(rng.integers(90, 150)))
    cv2.rectangle(canvas, (left, top), (left + width, FLOOR_LINE + 8), shaded(wood, 0.6), -1)
    for board in range(top + 56, FLOOR_LINE + 8, 56):
        x = left + 8
        while x < left + width - 22:
            thick, tall = int(rng.integers(9, 17)), int(rng.integers(28, 44))
            cv2.rectangle(canvas, (x, board - tall), (x + thick, board), random_colour(rng, (0.3, 0.7), (0.4, 0.8)), -1)
            x += thick + int(rng.integers(1, 8))
        cv2.rectangle(canvas, (left, board), (left + width, board + 6), wood, -1)
    cv2.rectangle(canvas, (left, top), (left + width, FLOOR_LINE + 8), wood, 7)


def fill_gradient(
    canvas: Image, top: int, bottom: int, above: Colour, below: Colour, left: int = 0, right: int = CANVAS_WIDTH
) -> None:
    """Fill a rectangle with a vertical gradient."""
    share = np.linspace(0, 1, bottom - top)[:, None, None]
    rows = (1 - share) * np.array(above, np.float64) + share * np.array(below, np.float64)
    canvas[top:bottom, max(0, left) : right] = np.round(rows).astype(np.uint8)


def add_grain(canvas: Image, rng: np.random.Generator) -> Image:
    """Add uneven light and a little grain, the same in every frame."""
    light = cv2.resize(rng.normal(1.0, 0.06, (5, 7)), (CANVAS_WIDTH, CANVAS_HEIGHT), interpolation=cv2.INTER_CUBIC)
    grain = cv2.GaussianBlur(rng.normal(0.0, 9.0, (CANVAS_HEIGHT, CANVAS_WIDTH)), (0, 0), 1.2)
    lit = canvas * light[:, :, None] + grain[:, :, None]
    return np.clip(np.round(lit), 0, 255).astype(np.uint8)


def chair(colour: Colour, x: float, z: float, seat_height: float) -> list[Solid]:
    """Make a chair that faces forward, its seat centred on (x, z)."""
    half, leg, slab = 0.21, 0.025, 0.05
    solids = block(colour, (x - half, seat_height - slab, z - half), (x + half, seat_height, z + half))
    solids += block(colour, (x - half - 0.04, seat_height + 0.12, z - half), (x - half, seat_height + 0.5, z + half))
    for side in (-1, 1):
        post = z + side * (half - leg)
        solids += block(colour, (x - half - 0.04, 0, post - leg), (x - half, seat_height + 0.12, post + leg))
        solids += block(colour, (x + half - 2 * leg, 0, post - leg), (x + half, seat_height - slab, post + leg))
    return solids


def parcel(colour: Colour, centre: Points, half: float) -> list[Solid]:
    """Make a parcel with a strip of tape over its top and sides; it never sinks into the floor."""
    middle = np.array([centre[0], max(centre[1], half), centre[2]])
    tape = np.array([half * 1.02, half * 1.02, half * 0.18])
    return block(colour, middle - half, middle + half) + block(shaded(colour, 1.9), middle - tape, middle + tape)


def mat(colour: Colour, back: float, front: float) -> list[Solid]:
    """Make a mat on the floor, from ``back`` to ``front`` along the body's forward axis."""
    return block(colour, (back, 0.0, -0.38), (front, 0.01, 0.38))
