"""Batches from stored features: frames, padding, clips, views and statistics."""

import math
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.store.packed import PackedFeatures
from pipeline.training import batches as batches_module
from pipeline.training.batches import (
    Batch,
    ClipBlock,
    FeatureTable,
    UnusableFeaturesError,
    evaluation_blocks,
    num_training_batches,
    training_batches,
)
from pipeline.training.clips import ClipSampling
from tests.helpers.synthetic import make_features, make_record, make_table, make_table_of_views

WHOLE = ClipSampling()


def numbered_table(*num_frames: int) -> FeatureTable:
    """Frame f of video v has the features (v, f, 1) and the label v."""
    videos = [[[video, frame, 1] for frame in range(count)] for video, count in enumerate(num_frames)]
    return make_table(videos, list(range(len(videos))))


def numbered_views(num_views: int, *num_frames: int) -> FeatureTable:
    """Frame f of video v in view w has the features (v, f, w)."""
    return make_table_of_views(
        [
            [[[video, frame, view] for frame in range(count)] for view in range(num_views)]
            for video, count in enumerate(num_frames)
        ],
        list(range(len(num_frames))),
    )


def lengths_of(batch: Batch) -> list[int]:
    """Without ``lengths``, all sequences have all steps."""
    return [len(batch.inputs)] * len(batch.targets) if batch.lengths is None else batch.lengths.tolist()


def test_equal_lengths_are_left_out() -> None:
    """Nothing has to be masked if all clips have the same length, so the batch has no lengths."""
    table = make_table([[[1.0], [2.0]], [[3.0], [4.0]], [[5.0]]])
    assert table.batch(np.array([0, 1]), [np.arange(2)] * 2).lengths is None
    assert lengths_of(table.batch(np.array([0, 2]), [np.arange(2), np.arange(1)])) == [2, 1]


def test_a_batch_has_the_chosen_frames_and_zero_padding() -> None:
    """Each column is one video's clip in order, with its label and length."""
    batch = numbered_table(5, 2, 9).batch(np.array([2, 0, 1]), [np.array([1, 3, 8]), np.array([4]), np.array([0, 1])])
    assert batch.inputs.dtype == torch.float32
    assert batch.inputs.tolist() == [
        [[2, 1, 1], [0, 4, 1], [1, 0, 1]],
        [[2, 3, 1], [0, 0, 0], [1, 1, 1]],
        [[2, 8, 1], [0, 0, 0], [0, 0, 0]],
    ]
    assert batch.lengths.tolist() == [3, 1, 2]
    assert batch.targets.tolist() == [2, 0, 1]


def test_a_clip_is_read_in_the_requested_view() -> None:
    """Each column has the frames of its own view; the first view is the default."""
    table = numbered_views(3, 5, 2, 9)
    videos, clips = np.array([2, 0, 2]), [np.array([1, 8]), np.array([4]), np.array([0, 1])]
    inputs = table.batch(videos, clips, np.array([2, 1, 0])).inputs
    assert inputs.tolist() == [[[2, 1, 2], [0, 4, 1], [2, 0, 0]], [[2, 8, 2], [0, 0, 0], [2, 1, 0]]]
    assert (table.batch(videos, clips).inputs[..., 2] == 0).all()


def test_padding_is_zero_even_if_the_first_video_is_not_finite() -> None:
    """Padding does not depend on the frame it replaces, so a broken video does not put NaN into other sequences."""
    table = make_table([[[np.inf]], [[1.0], [2.0]], [[3.0]]])
    assert table.batch(np.array([1, 2]), [np.arange(2), np.arange(1)]).inputs.flatten().tolist() == [1, 3, 2, 0]


def test_an_epoch_has_every_video_once() -> None:
    """The last batch is short: no video is dropped to keep batches full, and none is repeated."""
    table = numbered_table(3, 4, 5, 6, 7, 8, 9)
    batches = list(training_batches(table, WHOLE, 3, np.random.default_rng(0)))
    assert [len(batch.targets) for batch in batches] == [3, 3, 1]
    assert sorted(np.concatenate([batch.targets for batch in batches]).tolist()) == list(range(7))
    for batch in batches:
        assert lengths_of(batch) == [table.num_frames[video] for video in batch.targets.tolist()]


def test_a_long_clip_does_not_pad_a_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of long clips are smaller, their number is the same in each epoch, and no video is left out."""
    monkeypatch.setattr(batches_module, "MAX_BATCH_FRAMES", 24)
    lengths = [3, 1, 2, 20, 6, 3, 2, 9, 1, 7, 100]
    table = numbered_table(*lengths)
    for seed in range(20):
        batches = list(training_batches(table, WHOLE, 4, np.random.default_rng(seed)))
        assert all(batch.inputs.shape[0] * batch.inputs.shape[1] <= 24 for batch in batches)
        assert sorted(np.concatenate([batch.targets for batch in batches]).tolist()) == list(range(11))
        assert len(batches) == num_training_batches(table, WHOLE, 4) == 5
        for batch in batches:
            assert lengths_of(batch) == [min(24, lengths[video]) for video in batch.targets.tolist()]


def test_the_order_depends_on_the_generator_alone() -> None:
    """The same generator state gives the same order, another state another order."""
    table = numbered_table(*range(1, 30))

    def order(seed: int) -> list[int]:
        batches = training_batches(table, WHOLE, 8, np.random.default_rng(seed))
        return [video for batch in batches for video in batch.targets.tolist()]

    assert order(0) == order(0)
    assert order(0) != order(1)
    assert order(0) != list(range(29))


def test_training_draws_one_random_clip_of_each_video() -> None:
    """Clips are consecutive frames, all starts are about equally frequent, and a short video is used whole."""
    table, clips, rng = numbered_table(6, 2), ClipSampling(frames=4), np.random.default_rng(0)
    starts: Counter[float] = Counter()
    for _ in range(300):
        (batch,) = training_batches(table, clips, 8, rng)
        for column, video in enumerate(batch.targets.tolist()):
            frames = batch.inputs[: lengths_of(batch)[column], column, 1]
            assert (frames.diff() == 1).all()
            assert len(frames) == (4 if video == 0 else 2)
            if video == 0:
                starts[frames[0].item()] += 1
    assert starts.keys() == {0, 1, 2}
    assert min(starts.values()) > 70


def test_training_draws_a_random_view_for_each_clip() -> None:
    """All views are about equally frequent for each clip, and a clip is read in one view."""
    table, rng = numbered_views(3, 6, 2), np.random.default_rng(0)
    seen: Counter[tuple[float, float, float]] = Counter()
    for _ in range(900):
        (batch,) = training_batches(table, ClipSampling(frames=5), 8, rng)
        for column, video in enumerate(batch.targets.tolist()):
            frames = batch.inputs[: lengths_of(batch)[column], column]
            assert len(frames.unique(dim=0)[:, 2].unique()) == 1
            seen[video, frames[0, 1].item(), frames[0, 2].item()] += 1
    assert seen.keys() == {(0, first, view) for first in (0, 1) for view in range(3)} | {(1, 0, v) for v in range(3)}
    assert min(count for (video, *_), count in seen.items() if video == 0) > 110
    assert min(count for (video, *_), count in seen.items() if video == 1) > 240


def test_a_single_view_draws_no_random_number() -> None:
    """With one view only the order and the clips are drawn, so a seed gives what it gave before there were views."""
    table, clips = numbered_table(6, 2, 9, 7, 8), ClipSampling(frames=4)
    rng, expected = np.random.default_rng(7), np.random.default_rng(7)
    for _ in range(3):
        batches = list(training_batches(table, clips, 2, rng))
        order = expected.permutation(5)
        starts = [int(clips.draw(int(table.num_frames[video]), expected)[0]) for video in order]
        assert np.concatenate([batch.targets for batch in batches]).tolist() == order.tolist()
        assert torch.cat([batch.inputs[0, :, 1] for batch in batches]).tolist() == starts


def clips_of(blocks: Iterable[ClipBlock]) -> list[tuple[int, list[list[float]]]]:
    """The video and the features of the frames of each clip in the blocks, in order."""
    return [
        (video, block.features[block.frames[block.rows[:length, column]]].tolist())
        for block in blocks
        for column, (video, length) in enumerate(zip(block.videos.tolist(), block.lengths.tolist(), strict=True))
    ]


@pytest.mark.parametrize("max_clips", [1, 3, 100])
def test_evaluation_has_every_clip_in_every_view(max_clips: int) -> None:
    """Each clip occurs once per view as a separate clip, whatever the size of a block."""
    table, clips = numbered_views(2, 7, 3), ClipSampling(frames=4, per_video=2)
    frames = {0: [[0, 1, 2, 3], [3, 4, 5, 6]], 1: [[0, 1, 2]]}
    expected = [
        (video, [[video, frame, view] for frame in clip])
        for video in frames
        for clip in frames[video]
        for view in (0, 1)
    ]
    blocks = list(evaluation_blocks(table, clips, max_clips))
    assert sorted(clips_of(blocks)) == sorted(expected)
    assert max(len(block.videos) for block in blocks) <= max_clips
    only_first = clips_of(evaluation_blocks(table, clips, max_clips, num_views=1))
    assert sorted(only_first) == sorted(clip for clip in expected if clip[1][0][2] == 0)


@pytest.mark.parametrize(
    ("clips", "description"),
    [
        (WHOLE, "the whole video"),
        (ClipSampling(frames=16), "up to 10 clips of 16 frames"),
        (ClipSampling(frames=4, stride=2, step=3), "a clip every 3 frames, each of 4 frames, 2 apart"),
    ],
)
def test_a_clip_sampling_describes_itself(clips: ClipSampling, description: str) -> None:
    """Reports show how videos were sampled."""
    assert str(clips) == description


@settings(deadline=None, max_examples=50)
@given(
    num_frames=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    frames=st.none() | st.integers(1, 9),
    stride=st.integers(1, 3),
    step=st.none() | st.integers(1, 4),
    max_clips=st.integers(1, 9),
)
def test_blocks_have_the_clips_of_the_sampling(
    num_frames: list[int], frames: int | None, stride: int, step: int | None, max_clips: int
) -> None:
    """For any lengths, strides and block sizes, the frames of the clips are those of ``ClipSampling.all``."""
    table, clips = numbered_table(*num_frames), ClipSampling(frames, stride, per_video=3, step=step)
    expected = [
        (video, [[video, frame, 1] for frame in clip.tolist()])
        for video, count in enumerate(num_frames)
        for clip in clips.all(count)
    ]
    assert sorted(clips_of(evaluation_blocks(table, clips, max_clips))) == sorted(expected)


def test_a_block_stores_shared_frames_once() -> None:
    """Overlapping clips refer to the same rows, and the clips of a video share a block if they fit."""
    table, clips = numbered_table(8, 8, 8), ClipSampling(frames=5, per_video=4)
    blocks = list(evaluation_blocks(table, clips, max_clips=10))
    assert [block.videos.tolist() for block in blocks] == [[0] * 4 + [1] * 4, [2] * 4]
    assert [len(block.frames) for block in blocks] == [16, 8]
    split = list(evaluation_blocks(table, clips, max_clips=3))
    assert [len(block.videos) for block in split] == [3, 1] * 3


def test_the_longest_clips_come_first() -> None:
    """Clips of similar length share a block, and a clip's padding is its own last frame, never one of another video."""
    blocks = list(evaluation_blocks(numbered_table(9, 1, 8, 2, 9, 1), WHOLE, 2))
    assert [block.lengths.tolist() for block in blocks] == [[9, 9], [8, 2], [1, 1]]
    padding = blocks[1].features[blocks[1].frames[blocks[1].rows[2:, 1]]]
    assert padding.tolist() == [[3, 1, 1]] * 6


def test_long_videos_make_small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of a block is bounded even if whole videos have thousands of frames."""
    monkeypatch.setattr("pipeline.training.batches._MAX_STEPS", 20)
    blocks = list(evaluation_blocks(numbered_table(9, 9, 9, 50, 4), WHOLE, 100))
    assert [block.lengths.tolist() for block in blocks] == [[50], [9, 9], [9, 4]]


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
def test_each_clip_setting_selects_frames(clips: ClipSampling, expected: list[list[int]]) -> None:
    """Length, stride, number and step of clips each act as documented, on a video of seven frames."""
    assert [clip.tolist() for clip in clips.all(7)] == expected


def test_statistics_count_each_frame_once() -> None:
    """A long video weighs more than a short one, and a large mean does not make the deviation inaccurate."""
    rng = np.random.default_rng(0)
    videos = [rng.normal((500, 0, 3), (0.5, 2, 0), (count, 3)).astype(np.float16) for count in (70_000, 1, 30)]
    frames = np.concatenate(videos).astype(np.float64)
    mean, std, _ = make_table(videos).statistics()
    np.testing.assert_allclose(mean.numpy(), frames.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(std.numpy(), frames.std(0), rtol=1e-4, atol=1e-6)


def test_statistics_ignore_videos_outside_the_table() -> None:
    """Packed features contain test videos too; only the table's videos count, in all their views."""
    rng = np.random.default_rng(0)
    values = {f"v{number}": rng.normal(number, 1, (2, 5 + number, 4)).astype(np.float16) for number in range(5)}
    packed = PackedFeatures.in_memory(
        {name: [make_features(view) for view in views] for name, views in values.items()}, ("center", "center-flipped")
    )
    mean, std, _ = FeatureTable([make_record("v3"), make_record("v1")], packed).statistics()
    frames = np.concatenate([*values["v3"], *values["v1"]]).astype(np.float64)
    np.testing.assert_allclose(mean.numpy(), frames.mean(0), rtol=1e-6)
    np.testing.assert_allclose(std.numpy(), frames.std(0), rtol=1e-6)


@pytest.mark.parametrize("stride", [1, 3])
def test_changes_are_within_a_view_of_a_video(stride: int) -> None:
    """The change between two videos or views is no change of a video, and short videos have none."""
    rng = np.random.default_rng(0)
    values = [rng.normal(10 * number, 1, (2, count, 2)) for number, count in enumerate((3000, 1, 7, 7, 2))]
    packed = PackedFeatures.in_memory(
        {f"v{number}": [make_features(view) for view in views] for number, views in enumerate(values)}, ("a", "b")
    )
    table = FeatureTable([make_record(f"v{number}") for number in range(len(values))], packed)
    squares = np.concatenate(
        [((view[stride:] - view[:-stride]) ** 2) for views in values for view in views.astype(np.float16).astype(float)]
    )
    *_, change = table.statistics(stride=stride)
    np.testing.assert_allclose(change.numpy(), np.sqrt(squares.mean(0)), rtol=1e-6)
    *_, none = make_table([[[1.0, 2.0]]]).statistics()
    assert none.tolist() == [0, 0]


def test_statistics_of_transformed_frames() -> None:
    """All three statistics are those of the frames after the transformation."""
    table = make_table([[[1.0], [2.0], [4.0]]])
    mean, std, change = table.statistics(lambda frames: 10 * frames)
    assert (mean.item(), change.item()) == pytest.approx((70 / 3, 10 * math.sqrt(2.5)))
    assert std.item() == pytest.approx(10 * np.std([1, 2, 4]))


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_videos_with_infinite_features_are_named(value: float) -> None:
    """If a backbone overflows float16, the error names the videos, long before the loss is NaN."""
    table = make_table([[[1.0], [2.0]], [[value]], [[3.0]], [[0.0], [value]]])
    with pytest.raises(UnusableFeaturesError, match=r"2 videos .*: v1, v3\. .*65504"):
        table.statistics()
