"""Stored features -> batches: contents, padding, clips, statistics."""

from collections import Counter

import numpy as np
import pytest
import torch

from pipeline.batches import (
    ClipSampling,
    FeatureTable,
    UnusableFeaturesError,
    evaluation_batches,
    training_batches,
)
from tests.synthetic import make_table

WHOLE = ClipSampling()


def numbered_table(*num_frames: int) -> FeatureTable:
    """Frame f of video v has the features (v, f, 1); the label is v."""
    videos = [[[video, frame, 1] for frame in range(count)] for video, count in enumerate(num_frames)]
    return make_table(videos, list(range(len(videos))))


def test_a_batch_holds_the_chosen_frames_and_zeros_behind_them() -> None:
    """Each column is one video's clip in order, with its label and length; padding is zero."""
    batch = numbered_table(5, 2, 9).batch(np.array([2, 0, 1]), [np.array([1, 3, 8]), np.array([4]), np.array([0, 1])])
    assert batch.features.dtype == torch.float32
    assert batch.features.tolist() == [
        [[2, 1, 1], [0, 4, 1], [1, 0, 1]],
        [[2, 3, 1], [0, 0, 0], [1, 1, 1]],
        [[2, 8, 1], [0, 0, 0], [0, 0, 0]],
    ]
    assert batch.lengths.tolist() == [3, 1, 2]
    assert batch.labels.tolist() == batch.videos.tolist() == [2, 0, 1]


def test_padding_is_zero_even_where_the_first_video_is_not_finite() -> None:
    """Padding is written, not multiplied: one broken video does not turn its neighbours' padding into NaN."""
    table = make_table([[[np.inf]], [[1.0], [2.0]], [[3.0]]])
    assert table.batch(np.array([1, 2]), [np.arange(2), np.arange(1)]).features.flatten().tolist() == [1, 3, 2, 0]


def test_an_epoch_holds_every_video_once_with_a_short_last_batch() -> None:
    """No video is dropped for not filling a batch, and none is seen twice."""
    table = numbered_table(3, 4, 5, 6, 7, 8, 9)
    batches = list(training_batches(table, WHOLE, 3, np.random.default_rng(0)))
    assert [len(batch.labels) for batch in batches] == [3, 3, 1]
    assert sorted(np.concatenate([batch.videos for batch in batches]).tolist()) == list(range(7))
    for batch in batches:
        assert batch.lengths.tolist() == [table.num_frames[video] for video in batch.videos.tolist()]


def test_epochs_are_shuffled_by_their_generator_alone() -> None:
    """The order differs from epoch to epoch and is the same for the same generator state."""
    table = numbered_table(*range(1, 30))

    def order(seed: int) -> list[int]:
        batches = training_batches(table, WHOLE, 8, np.random.default_rng(seed))
        return [video for batch in batches for video in batch.videos.tolist()]

    assert order(0) == order(0)
    assert order(0) != order(1)
    assert order(0) != list(range(29))


def test_training_draws_one_random_clip_of_each_video() -> None:
    """Clips are neighbouring frames, every start comes up about equally often, a short video is taken whole."""
    table, clips, rng = numbered_table(6, 2), ClipSampling(frames=4), np.random.default_rng(0)
    starts: Counter[float] = Counter()
    for _ in range(300):
        (batch,) = training_batches(table, clips, 8, rng)
        for column, video in enumerate(batch.videos.tolist()):
            frames = batch.features[: batch.lengths[column], column, 1]
            assert (frames.diff() == 1).all()
            assert len(frames) == (4 if video == 0 else 2)
            if video == 0:
                starts[frames[0].item()] += 1
    assert starts.keys() == {0, 1, 2}
    assert min(starts.values()) > 70


def test_evaluation_looks_at_the_same_even_clips_every_time() -> None:
    """Nothing is drawn: the clips of a video reach from its first frame to its last."""
    table, clips = numbered_table(10, 3), ClipSampling(frames=4, per_video=3)

    def seen() -> list[tuple[int, list[float]]]:
        return sorted(
            (video, batch.features[: batch.lengths[column], column, 1].tolist())
            for batch in evaluation_batches(table, clips, 2)
            for column, video in enumerate(batch.videos.tolist())
        )

    assert seen() == [(0, [0, 1, 2, 3]), (0, [3, 4, 5, 6]), (0, [6, 7, 8, 9]), (1, [0, 1, 2])]
    assert seen() == seen()


@pytest.mark.parametrize(
    ("clips", "expected"),
    [
        (ClipSampling(), [[0, 1, 2, 3, 4, 5, 6]]),
        (ClipSampling(frames=3, stride=2, per_video=2), [[0, 2, 4], [2, 4, 6]]),
        (ClipSampling(frames=3, per_video=1), [[2, 3, 4]]),
        (ClipSampling(frames=3, step=3, per_video=1), [[0, 1, 2], [3, 4, 5], [4, 5, 6]]),
        (ClipSampling(frames=20, per_video=5), [[0, 1, 2, 3, 4, 5, 6]]),
    ],
)
def test_clip_settings_choose_the_frames_they_say(clips: ClipSampling, expected: list[list[int]]) -> None:
    """Length, stride, number and step of clips each do what their name says, on a video of seven frames."""
    assert [clip.tolist() for clip in clips.all(7)] == expected


def test_evaluation_counts_every_video_and_pads_little() -> None:
    """All clips of all videos come up exactly once, and sequences of like length share a batch."""
    table = numbered_table(9, 1, 8, 2, 9, 1)
    batches = list(evaluation_batches(table, WHOLE, 2))
    assert sorted(np.concatenate([batch.videos for batch in batches]).tolist()) == list(range(6))
    assert [batch.lengths.tolist() for batch in batches] == [[1, 1], [2, 8], [9, 9]]


def test_statistics_are_those_of_all_frames() -> None:
    """Each frame counts once, so a long video weighs more; a large mean does not swallow the deviation."""
    rng = np.random.default_rng(0)
    videos = [rng.normal((500, 0, 3), (0.5, 2, 0), (count, 3)).astype(np.float16) for count in (70_000, 1, 30)]
    frames = np.concatenate(videos).astype(np.float64)
    mean, std = make_table(videos).statistics()
    np.testing.assert_allclose(mean.numpy(), frames.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(std.numpy(), frames.std(0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_features_that_are_not_finite_are_named(value: float) -> None:
    """A backbone that overflows float16 is told by the videos it happened on, not by a loss of NaN."""
    table = make_table([[[1.0], [2.0]], [[value]], [[3.0]], [[0.0], [value]]])
    with pytest.raises(UnusableFeaturesError, match=r"2 videos are not finite: v1, v3\. float16 ends at 65504"):
        table.statistics()
