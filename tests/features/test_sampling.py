"""Sampling: the boundary cases by example, the invariants by search."""

import doctest
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pipeline.features.sampling
import pipeline.training.clips
from pipeline.features.sampling import FrameSampling, Indices, SamplingError
from pipeline.training.clips import dense_clips, even_clips, random_clip

lengths = st.integers(0, 2000)
strides = st.integers(1, 12)
clip_lengths = st.integers(1, 300)


def assert_clip(clip: Indices, num_frames: int, clip_frames: int | None, stride: int) -> None:
    """Check the properties of every clip: within the video, at the stride, and of full length if that fits."""
    assert clip.dtype == np.int32 and clip.ndim == 1
    assert clip[0] >= 0 and clip[-1] < num_frames
    assert (np.diff(clip) == stride).all()
    if clip_frames is not None and (clip_frames - 1) * stride < num_frames:
        assert len(clip) == clip_frames
    else:
        assert clip.tolist() == list(range(0, num_frames, stride))


def test_worked_examples_are_correct() -> None:
    """The examples in the docstrings are correct."""
    results = [doctest.testmod(module) for module in (pipeline.features.sampling, pipeline.training.clips)]
    assert sum(result.failed for result in results) == 0
    assert sum(result.attempted for result in results) >= 6


@pytest.mark.parametrize(
    ("text", "num_frames", "expected"),
    [
        ("uniform:4", 8, [1, 3, 5, 7]),
        ("uniform:3", 10, [1, 5, 8]),
        ("uniform:1", 9, [4]),
        ("uniform:25", 25, list(range(25))),
        ("uniform:25", 24, list(range(24))),
        ("uniform:25", 1, [0]),
        ("uniform:25", 0, []),
        ("every:1", 4, [0, 1, 2, 3]),
        ("every:2", 5, [0, 2, 4]),
        ("every:2", 1, [0]),
        ("every:9", 5, [0]),
        ("every:2", 0, []),
        ("every:99999999999", 5, [0]),
        ("fps:25", 3, [0, 1, 2]),
        ("fps:100", 3, [0, 1, 2]),
        ("fps:5", 11, [0, 5, 10]),
        ("fps:2.5", 25, [0, 10, 20]),
        ("fps:10", 9, [0, 3, 5, 8]),
        ("fps:5", 0, []),
    ],
)
def test_frame_sampling_by_example(text: str, num_frames: int, expected: list[int]) -> None:
    """Videos (of 25 frames per second) shorter than k, of exactly k, one or no frames: no index is repeated."""
    indices = FrameSampling.parse(text).indices(num_frames, fps=25.0)
    assert indices.dtype == np.int32
    assert indices.tolist() == expected


@given(num_frames=lengths, value=st.integers(1, 300))
def test_uniform_covers_the_whole_video_evenly(num_frames: int, value: int) -> None:
    """Each of k equal segments gives one frame, so both ends of the video are covered."""
    indices = FrameSampling("uniform", value).indices(num_frames)
    assert len(indices) == min(value, num_frames)
    assert (np.diff(indices) > 0).all()
    piece_length = num_frames / max(1, len(indices))
    for piece, index in enumerate(indices.tolist()):
        assert piece * piece_length < index + 1 and index < (piece + 1) * piece_length
    if len(indices) > 1:
        gaps = np.diff(indices)
        assert gaps.max() - gaps.min() <= 1


@given(num_frames=lengths, value=st.integers(1, 300))
def test_every_nth_reaches_the_end(num_frames: int, value: int) -> None:
    """The frames are 0, n, 2n ... up to the end of the video."""
    indices = FrameSampling("every", value).indices(num_frames)
    assert indices.tolist() == [i for i in range(num_frames) if i % value == 0]


@given(lengths, st.floats(1, 240), st.integers(1, 60_000))
def test_frames_per_second_are_the_first_frames_of_their_beats(num_frames: int, fps: float, thousandths: int) -> None:
    """Frame k is the first at or after k / F seconds; where the video has fewer frames than that, each comes once."""
    rate = thousandths / 1000
    indices = FrameSampling("fps", rate).indices(num_frames, fps)
    beats = (np.arange(int(num_frames / fps * rate) + 1) / rate * fps - 1e-6 * fps / rate).clip(0)
    expected = np.unique(np.ceil(beats).astype(int))
    assert indices.tolist() == expected[expected < num_frames].tolist()


@pytest.mark.parametrize("fps", [10, 23.976, 25, 30000 / 1001, 30, 50, 60])
def test_the_tempo_does_not_depend_on_the_frame_rate(fps: float) -> None:
    """Ten seconds at 5 frames per second are 50 frames, none more than a frame late, at any usual frame rate."""
    indices = FrameSampling.parse("fps:5").indices(int(10 * fps), fps)
    assert len(indices) == 50
    lateness = indices / fps - np.arange(50) / 5
    assert lateness.min() > -1e-6 and lateness.max() < 1 / fps


@given(
    lengths,
    st.sampled_from([5, 23.976, 25.0, 30000 / 1001, 30.0, 60.0]),
    st.sampled_from(["every:1", "every:3", "fps:5", "fps:7.5", "fps:30", "fps:100"]),
)
def test_a_stream_of_a_file_reads_its_sampled_frames(num_frames: int, fps: float, text: str) -> None:
    """Frames that begin a new beat, decided one by one, are those that the sampling takes of the whole file."""
    sampling, beat, read = FrameSampling.parse(text), -1, []
    for index in range(num_frames):
        if sampling.beat(index, index / fps) > beat:
            beat = sampling.beat(index, index / fps)
            read.append(index)
    assert read == sampling.indices(num_frames, fps).tolist()


def test_only_fixed_distances_have_a_tempo() -> None:
    """The frames of uniform:K depend on the video's length, which a stream does not have."""
    assert [FrameSampling.parse(text).has_tempo for text in ("uniform:25", "every:2", "fps:5")] == [False, True, True]


def test_an_unknown_frame_rate_is_refused_only_where_it_is_needed() -> None:
    """Frames per second can't be counted without a frame rate; every N-th frame can."""
    with pytest.raises(SamplingError, match="frame rate.*fps:5 needs.*every:N"):
        FrameSampling.parse("fps:5").indices(100)
    assert FrameSampling.parse("every:50").indices(100).tolist() == [0, 50]


@given(kind=st.sampled_from(["uniform", "every", "fps"]), value=st.integers(1, 10**6))
def test_sampling_is_written_as_it_is_parsed(kind: str, value: int) -> None:
    """A sampling is unchanged after a round trip through a config file."""
    assert str(FrameSampling.parse(f"{kind}:{value}")) == f"{kind}:{value}"


def test_equal_rates_are_written_alike() -> None:
    """Two spellings of a rate share their features: the text is part of the fingerprint."""
    assert [str(FrameSampling.parse(text)) for text in ("fps:5.0", "fps:2.50")] == ["fps:5", "fps:2.5"]


@pytest.mark.parametrize(
    "text",
    ["", "uniform", "uniform:", "uniform:0", "uniform:-3", "every:1.5", "evry:2", "25", "every:2:3"]
    + ["fps:0", "fps:-5", "fps:nan", "fps:1e3", f"every:{10**30}"],
)
def test_unknown_sampling_is_rejected(text: str) -> None:
    """A typo in the sampling is an error that quotes it and shows the valid forms."""
    with pytest.raises(SamplingError, match=f"no frame sampling '{text}'.*uniform:K.*every:N.*fps:F"):
        FrameSampling.parse(text)


def test_the_constructor_checks_too() -> None:
    """The constructor rejects the values that ``parse`` rejects."""
    with pytest.raises(SamplingError, match="every:0"):
        FrameSampling("every", 0)


@pytest.mark.parametrize(
    ("num_frames", "clip_frames", "num_clips", "stride", "expected"),
    [
        (9, 3, 3, 1, [[0, 1, 2], [3, 4, 5], [6, 7, 8]]),
        (9, 3, 1, 1, [[3, 4, 5]]),
        (9, 3, 2, 3, [[0, 3, 6], [2, 5, 8]]),
        (4, 3, 5, 1, [[0, 1, 2], [1, 2, 3]]),
        (3, 3, 5, 1, [[0, 1, 2]]),
        (2, 3, 5, 1, [[0, 1]]),
        (4, 3, 2, 3, [[0, 3]]),
        (1, 3, 2, 3, [[0]]),
        (0, 3, 2, 1, []),
        (5, None, 3, 1, [[0, 1, 2, 3, 4]]),
        (5, None, 3, 2, [[0, 2, 4]]),
        (0, None, 3, 1, []),
    ],
)
def test_even_clips_by_example(
    num_frames: int, clip_frames: int | None, num_clips: int, stride: int, expected: list[list[int]]
) -> None:
    """Videos shorter than the clip, fewer positions than clips, the whole video, one frame, none."""
    assert [clip.tolist() for clip in even_clips(num_frames, clip_frames, num_clips, stride)] == expected


@given(lengths, st.none() | clip_lengths, st.integers(1, 20), strides)
def test_even_clips_are_distinct_and_reach_both_ends(
    num_frames: int, clip_frames: int | None, num_clips: int, stride: int
) -> None:
    """Clips are valid and distinct, as many as requested if they fit, and touch both ends."""
    clips = even_clips(num_frames, clip_frames, num_clips, stride)
    for clip in clips:
        assert_clip(clip, num_frames, clip_frames, stride)
    starts = [int(clip[0]) for clip in clips]
    assert all(earlier < later for earlier, later in pairwise(starts))
    if num_frames == 0:
        assert clips == []
    elif clip_frames is None:
        assert len(clips) == 1
    else:
        num_positions = max(1, num_frames - (clip_frames - 1) * stride)
        assert len(clips) == min(num_clips, num_positions)
        if num_clips > 1:
            assert (starts[0], starts[-1]) == (0, num_positions - 1)
            gaps = np.diff(starts)
            assert gaps.size == 0 or gaps.max() - gaps.min() <= 1


@given(lengths, st.none() | clip_lengths, strides, st.integers(0, 2**32))
def test_random_clip_is_valid(num_frames: int, clip_frames: int | None, stride: int, seed: int) -> None:
    """A random clip has the properties of a clip, and the same seed gives the same one."""
    clip = random_clip(num_frames, clip_frames, np.random.default_rng(seed), stride)
    if num_frames == 0:
        assert clip.size == 0 and clip.dtype == np.int32
    else:
        assert_clip(clip, num_frames, clip_frames, stride)
    np.testing.assert_array_equal(clip, random_clip(num_frames, clip_frames, np.random.default_rng(seed), stride))


def test_random_clip_starts_everywhere() -> None:
    """Every position, including the first and the last, is drawn about equally often."""
    rng = np.random.default_rng(0)
    starts = [int(random_clip(8, 3, rng, stride=2)[0]) for _ in range(4000)]
    counts = np.bincount(starts, minlength=4)
    assert len(counts) == 4
    assert counts.min() > 850


@pytest.mark.parametrize(
    ("num_frames", "clip_frames", "stride", "step", "expected"),
    [
        (6, 3, 1, 3, [[0, 1, 2], [3, 4, 5]]),
        (7, 3, 1, 3, [[0, 1, 2], [3, 4, 5], [4, 5, 6]]),
        (7, 3, 2, 1, [[0, 2, 4], [1, 3, 5], [2, 4, 6]]),
        (3, 3, 1, 1, [[0, 1, 2]]),
        (2, 3, 1, 1, [[0, 1]]),
        (1, 3, 1, 1, [[0]]),
        (0, 3, 1, 1, []),
    ],
)
def test_dense_clips_by_example(
    num_frames: int, clip_frames: int, stride: int, step: int, expected: list[list[int]]
) -> None:
    """Steps that reach the end exactly and steps that do not, a video shorter than the clip, one frame, none."""
    assert [clip.tolist() for clip in dense_clips(num_frames, clip_frames, stride, step)] == expected


@given(st.integers(0, 400), st.integers(1, 40), st.integers(1, 6), st.integers(1, 60))
def test_dense_clips_cover_the_video(num_frames: int, clip_frames: int, stride: int, step: int) -> None:
    """Clips start at most a step apart, from first to last position; stride 1 and step <= T cover all frames."""
    clips = dense_clips(num_frames, clip_frames, stride, step)
    for clip in clips:
        assert_clip(clip, num_frames, clip_frames, stride)
    if num_frames == 0:
        assert clips == []
        return
    gaps = np.diff([clip[0] for clip in clips])
    assert (gaps > 0).all() and (gaps <= step).all()
    assert clips[0][0] == 0
    assert clips[-1][0] == max(0, num_frames - 1 - (clip_frames - 1) * stride)
    if stride == 1 and step <= clip_frames:
        assert set(np.concatenate(clips).tolist()) == set(range(num_frames))
