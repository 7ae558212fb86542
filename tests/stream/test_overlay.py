"""The overlay video, drawn on frames of one colour."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.stream.overlay import Overlay


def last_frame(path: Path, label: str, current: int | None) -> np.ndarray:
    """The last frame of an overlay of three answers, gray."""
    overlay = Overlay(path, 5.0, [label, "other"])
    for step in range(3):
        frame = SimpleNamespace(pixels=np.full((240, 320, 3), 90, np.uint8), step=step)
        answer: Any = SimpleNamespace(probabilities=np.float32([0.25, 0.75]), frame=frame)
        overlay.add(answer, current)
    overlay.close()
    video = cv2.VideoCapture(str(path))
    frames = []
    while (read := video.read())[0]:
        frames.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2GRAY))
    assert len(frames) == 3
    return frames[-1]


@pytest.mark.parametrize("label", ["прыжок", "ύψος", "größe"])
def test_letters_beyond_ascii_are_drawn(label: str, tmp_path: Path) -> None:
    """A class name in another alphabet is drawn in its letters: no two of them look alike, as empty boxes do."""
    line = slice(180, 200)  # the name of the action
    pictures = [
        last_frame(tmp_path / f"{number}.mp4", text, 0)[line] for number, text in enumerate((label, label[::-1]))
    ]
    assert np.abs(pictures[0].astype(int) - pictures[1]).max() > 60


def test_between_actions_there_is_a_dash(tmp_path: Path) -> None:
    """Where no action goes on, a short bright line is drawn, not a box."""
    name = last_frame(tmp_path / "a.mp4", "run", None)[180:200, :40]
    rows = np.flatnonzero((name > 150).any(1))
    assert 1 <= len(rows) <= 4
