"""Small video files, among them files whose every frame encodes its index and the number of its file."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

_SIDE = 4  # a frame has 4 x 4 squares, black or white: the bits of a number
_INDEX_BITS = 10


def make_clip(path: Path, num_frames: int = 20, number: int = 0) -> Path:
    """Write the video with this number (below 64): Motion JPEG, 64 x 64 pixels, 25 frames per second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 64))
    assert writer.isOpened(), path
    for index in range(num_frames):
        code = (number << _INDEX_BITS) + index % (1 << _INDEX_BITS)
        bits = np.array([code >> bit & 1 for bit in range(_SIDE**2)], dtype=np.uint8)
        board = np.kron(bits.reshape(_SIDE, _SIDE), np.full((16, 16), 255, dtype=np.uint8))
        writer.write(cv2.cvtColor(board, cv2.COLOR_GRAY2BGR))
    writer.release()
    return path


def render_moving_squares(root: Path) -> None:
    """Render two classes, ``left`` and ``right``, which a frame average can't tell apart: a square moves left or right.

    Each class folder has 8 videos ``v_g<group>_<class>.avi`` of 8 frames, 64 x 48 pixels. Both videos of a group have
    the same background.
    """
    for name in ("left", "right"):
        (root / name).mkdir(parents=True)
        for group in range(1, 9):
            background = np.random.default_rng(group).integers(0, 256, (6, 8, 3), dtype=np.uint8)
            codec = cv2.VideoWriter.fourcc(*"XVID")
            writer = cv2.VideoWriter(str(root / name / f"v_g{group}_{name}.avi"), codec, 25.0, (64, 48))
            assert writer.isOpened()
            for step in range(8):
                frame = cv2.resize(background, (64, 48), interpolation=cv2.INTER_LINEAR) // 2
                x = 6 * (step if name == "right" else 7 - step) + 2
                frame[16:32, x : x + 16] = (255, 255, 0)
                writer.write(frame)
            writer.release()


def board_means(frames: NDArray[np.uint8]) -> NDArray[np.float16]:
    """A network that keeps the code: uint8 ``[N, crop, crop, 3]`` -> brightness of the squares, float16 ``[N, 16]``."""
    num_frames, height, width, _ = frames.shape
    squares = frames.reshape(num_frames, _SIDE, height // _SIDE, _SIDE, width // _SIDE, 3)
    return squares.mean(axis=(2, 4, 5)).reshape(num_frames, _SIDE**2).astype(np.float16)


def decode_board(features: NDArray[np.float16]) -> list[tuple[int, int]]:
    """Decode ``board_means``: for each frame the number of its file and its index (modulo 1024)."""
    codes = ((features > 128) << np.arange(_SIDE**2)).sum(axis=1)
    return [(int(code) >> _INDEX_BITS, int(code) % (1 << _INDEX_BITS)) for code in codes]
