"""Training windows of made streams: what they show, and what is asked at every step."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from pipeline.training.streams import NO_CLASS, num_stream_batches, stream_batches
from tests.helpers.synthetic import make_table, make_table_of_views

LENGTHS = (4, 7, 3)
TABLE = make_table([[[video, frame] for frame in range(count)] for video, count in enumerate(LENGTHS)], [0, 1, 2])


def windows(num_frames: int, pause: int, epochs: int = 40) -> list[tuple[list[tuple[int, int]], list[int]]]:
    """Windows of many epochs: the video and frame at each step, and the label at each step."""
    found = []
    for epoch in range(epochs):
        for batch in stream_batches(TABLE, num_frames, pause, 2, np.random.default_rng(epoch)):
            assert batch.lengths is None
            for column in range(batch.inputs.shape[1]):
                frames = [(int(video), int(frame)) for video, frame in batch.inputs[:, column].tolist()]
                found.append((frames, batch.targets[:, column].tolist()))
    return found


def test_a_window_shows_videos_one_after_another() -> None:
    """Within a video the frames are consecutive or held; another video begins with its first after the last one."""
    for frames, _ in windows(30, pause=5):
        assert len(frames) == 30
        for (video, frame), (next_video, next_frame) in pairwise(frames):
            last = LENGTHS[video] - 1
            is_next = (next_video, next_frame) == (video, frame + 1)
            is_held = (next_video, next_frame) == (video, frame) and frame in (0, last)
            assert is_next or is_held or (frame == last and next_frame == 0)


def test_a_pause_has_no_class() -> None:
    """Each frame of a video has its label once; where the first or the last frame is held, no class is right."""
    pauses = 0
    for frames, labels in windows(30, pause=5):
        for (video, frame), label in zip(frames, labels, strict=True):
            assert label == video or (label == NO_CLASS and frame in (0, LENGTHS[video] - 1))
        for step, (first, second) in enumerate(pairwise(frames)):
            if first == second:  # one of two equal frames at most is the video itself
                assert NO_CLASS in labels[step : step + 2]
        pauses += labels.count(NO_CLASS)
    assert pauses > 1000
    assert all(NO_CLASS not in labels for _, labels in windows(30, pause=0))


def test_a_window_begins_anywhere() -> None:
    """Streams are met in mid-action, so a window begins with every frame, and with a pause, about equally often."""
    begins = [frames[0] for frames, _ in windows(5, pause=0, epochs=400)]
    for video, count in enumerate(LENGTHS):
        counts = np.bincount([frame for number, frame in begins if number == video], minlength=count)
        assert counts.sum() == 400 and counts.min() > 0.6 * 400 / count
    assert any(labels[0] == NO_CLASS for _, labels in windows(5, pause=5))


def test_an_epoch_begins_once_in_each_video() -> None:
    """Every video counts alike, whatever its length, and the epoch has the announced number of batches."""
    batches = list(stream_batches(TABLE, 6, 0, 2, np.random.default_rng(0)))
    assert sorted(video for batch in batches for video in batch.inputs[0, :, 0].tolist()) == [0, 1, 2]
    assert len(batches) == num_stream_batches(TABLE, 6, 2)
    assert [tuple(batch.targets.shape) for batch in batches] == [(6, 2), (6, 1)]


def test_a_video_is_shown_in_one_view() -> None:
    """A view is drawn for each video, not for each frame: a stream has one camera at a time."""
    table = make_table_of_views([[[[view, frame] for frame in range(4)] for view in range(3)]] * 2, [0, 1])
    seen = set()
    for epoch in range(20):
        (batch,) = stream_batches(table, 12, 2, 2, np.random.default_rng(epoch))
        for column in range(2):
            for (view, frame), (next_view, next_frame) in pairwise(batch.inputs[:, column].tolist()):
                assert view == next_view or (frame, next_frame) == (3, 0)
                seen.add(view)
    assert seen == {0, 1, 2}


@pytest.mark.parametrize("pause", [0, 10**9])
def test_absurd_lengths_do_not_exhaust_the_memory(pause: int) -> None:
    """A batch has at most 2**15 frames, and a pause is no longer than a window, whatever the settings say."""
    batch = next(stream_batches(TABLE, 10**9, pause, 32, np.random.default_rng(0)))
    assert batch.inputs.shape == torch.Size([2**15, 1, 2])
