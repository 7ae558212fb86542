"""Extraction: every feature belongs to its frame, and a failure affects one video only."""

import dataclasses
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from data.identity import identify
from models.backbones import Backbone, load_backbone
from models.cnn.preprocessing import VIEWS, Preprocessing
from pipeline.features.encoders import Encoder, make_encoder, whole_frames_encoder
from pipeline.features.extract import ExtractionFailure, extract, make_recipe
from pipeline.features.readers import FRAMES_PER_BLOCK
from pipeline.features.recipe import VideoFeatures
from pipeline.features.sampling import FrameSampling
from pipeline.settings.device import choose_device
from tests.helpers.clips import board_means, decode_board, make_clip
from tests.helpers.processes import reader_processes

EVERY_FRAME = FrameSampling.parse("every:1")
BOARD = Backbone(
    name="board",
    network=torch.nn.Identity(),
    feature_dim=16,
    preprocessing=Preprocessing(16, 16, "bilinear", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    weights="none",
    weights_sha256="0" * 64,
)
BATCH_FRAMES = 7  # divides neither a block nor any of the videos
ENCODER = Encoder(board_means, BATCH_FRAMES, "numpy")

Result = VideoFeatures | ExtractionFailure


def extract_all(paths: Sequence[Path], sampling: FrameSampling = EVERY_FRAME, **settings: Any) -> list[Result]:
    """The results of all videos, in the order of ``paths``: exactly one each, with one view."""
    arguments: dict[str, Any] = {"encoder": ENCODER, "workers": 2, "timeout": 60} | settings
    results = list(extract(paths, BOARD.preprocessing, sampling, **arguments))
    assert sorted(position for position, _ in results) == list(range(len(paths)))
    return [
        result if isinstance(result, ExtractionFailure) else only(result)
        for _, result in sorted(results, key=lambda item: item[0])
    ]


def only(videos: Sequence[VideoFeatures]) -> VideoFeatures:
    (video,) = videos
    return video


def assert_features_of(result: Result, number: int, indices: Sequence[int]) -> None:
    """Check that the features are those of these frames of clip ``number``, in this order."""
    assert isinstance(result, VideoFeatures)
    assert result.features.dtype == np.float16 and result.frame_indices.dtype == np.int32
    assert result.frame_indices.tolist() == list(indices)
    assert decode_board(result.features) == [(number, index) for index in indices]


@pytest.fixture
def hanging_video(tmp_path: Path) -> Iterator[Path]:
    """A pipe that nobody writes to, so that opening it blocks."""
    path = tmp_path / "hanging.avi"
    os.mkfifo(path)
    yield path


def test_features_belong_to_their_frames(tmp_path: Path) -> None:
    """Batches contain frames of several videos; each video still gets its own features, in order."""
    lengths = [3 * FRAMES_PER_BLOCK + 5, 1, 50, 2, FRAMES_PER_BLOCK, 40, 3, 90]
    paths = [make_clip(tmp_path / f"{number}.avi", length, number) for number, length in enumerate(lengths)]
    sizes: list[int] = []

    def encode(frames: NDArray[np.uint8]) -> NDArray[np.float16]:
        sizes.append(len(frames))
        return board_means(frames)

    results = extract_all(paths, encoder=Encoder(encode, BATCH_FRAMES, "numpy"))
    for number, length in enumerate(lengths):
        assert_features_of(results[number], number, range(length))
    assert sizes[:-1] == [BATCH_FRAMES] * (len(sizes) - 1), "a batch was not full although frames were waiting"


def test_videos_extracted_together_and_alone_agree(tmp_path: Path, tiny_backbone: tuple[str, Path]) -> None:
    """With a real CNN, videos extracted together get the same features as each alone."""
    backbone = load_backbone(*tiny_backbone)
    encoder = dataclasses.replace(make_encoder(backbone, choose_device("cpu"), "torch", tmp_path), batch_frames=5)
    paths = [make_clip(tmp_path / f"{number}.avi", 3 + 4 * number, number) for number in range(4)]
    sampling = FrameSampling.parse("uniform:6")
    together = dict(extract(paths, backbone.preprocessing, sampling, encoder, workers=2, timeout=60))
    for number, path in enumerate(paths):
        ((_, alone),) = extract([path], backbone.preprocessing, sampling, encoder, workers=1, timeout=60)
        result = together[number]
        assert not isinstance(alone, ExtractionFailure) and not isinstance(result, ExtractionFailure)
        alone, result = only(alone), only(result)
        assert alone.features.shape == (min(6, 3 + 4 * number), backbone.feature_dim)
        np.testing.assert_array_equal(result.frame_indices, alone.frame_indices)
        np.testing.assert_allclose(result.features, alone.features, rtol=2e-3, atol=1e-3)


def test_views_have_separate_features(tmp_path: Path) -> None:
    """Each view of each video gets its own features, in order, even if a batch ends between a frame's views."""
    lengths = [40, 3, 11]
    paths = [make_clip(tmp_path / f"{number}.avi", length, number) for number, length in enumerate(lengths)]
    views = VIEWS[:2]
    for position, result in extract(
        paths, BOARD.preprocessing, EVERY_FRAME, ENCODER, views=views, workers=2, timeout=60
    ):
        assert not isinstance(result, ExtractionFailure)
        plain, flipped = result
        assert_features_of(plain, position, range(lengths[position]))
        board = flipped.features.reshape(-1, 4, 4)[:, :, ::-1].reshape(-1, 16)
        assert decode_board(board) == [(position, index) for index in range(lengths[position])]
        np.testing.assert_array_equal(plain.frame_indices, flipped.frame_indices)


def test_whole_frames_give_the_same_features(tmp_path: Path, tiny_backbone: tuple[str, Path]) -> None:
    """The path for GPUs (whole frames, resized and cropped on the device), run on the CPU, agrees with the other."""
    backbone = load_backbone(*tiny_backbone)
    views = VIEWS[:3]
    paths = [make_clip(tmp_path / f"{number}.avi", 9 + number, number) for number in range(3)]
    ours = make_encoder(backbone, choose_device("cpu"), "torch", tmp_path, views)
    theirs = whole_frames_encoder(backbone, choose_device("cpu"), views)
    assert theirs.takes_whole_frames and not ours.takes_whole_frames
    first, second = (
        dict(extract(paths, backbone.preprocessing, EVERY_FRAME, encoder, views=views, workers=2, timeout=60))
        for encoder in (ours, theirs)
    )
    for position in range(3):
        one, other = first[position], second[position]
        assert not isinstance(one, ExtractionFailure) and not isinstance(other, ExtractionFailure)
        for mine, yours in zip(one, other, strict=True):
            assert mine.features.shape == (9 + position, backbone.feature_dim)
            difference = np.abs(mine.features.astype(float) - yours.features.astype(float)).max()
            assert difference < 1e-2 * np.abs(mine.features.astype(float)).max()


def test_origin_describes_the_video_and_the_programs(tmp_path: Path) -> None:
    """Frame rate, frame counts, file size, decoder and runtime are recorded with the features."""
    path = make_clip(tmp_path / "clip.avi", num_frames=30)
    (result,) = extract_all([path], FrameSampling.parse("uniform:4"))
    assert_features_of(result, 0, [3, 11, 18, 26])
    assert isinstance(result, VideoFeatures)
    source = identify(path)
    assert dataclasses.asdict(result.origin) == {
        "fps": 25.0,
        "header_frames": 30,
        "decoded_frames": 30,
        "source_bytes": path.stat().st_size,
        "source_digest": source.digest,
        "source_stamp": source.stamp,
        "decoder": "decord",
        "runtime": "numpy",
    }


def test_failures_do_not_affect_good_videos(tmp_path: Path, hanging_video: Path) -> None:
    """Damaged, empty, missing and hanging videos fail with their reason; the others succeed."""
    (tmp_path / "empty.avi").touch()
    (tmp_path / "text.avi").write_text("hello " * 500)
    bad = [tmp_path / "empty.avi", hanging_video, tmp_path / "text.avi", tmp_path / "missing.avi"]
    good = [make_clip(tmp_path / f"{number}.avi", 10 + number, number) for number in range(4)]
    results = extract_all([path for pair in zip(bad, good, strict=True) for path in pair], timeout=2)
    for number in range(4):
        assert_features_of(results[2 * number + 1], number, range(10 + number))
    for result, reason in zip(results[::2], ["is empty", "hung", "not a video", "No such file"], strict=True):
        assert isinstance(result, ExtractionFailure) and reason in result.reason


def test_frames_of_a_video_that_fails_half_way_are_discarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames that were read before the failure appear in no other video's features."""
    from pipeline.features import extract as module
    from pipeline.features.readers import Event, Failed, Frames, read_videos

    def with_failures(*arguments: Any, **settings: Any) -> Iterator[Event]:
        """The real events, except that the second video fails instead of sending its last frames."""
        num_blocks = 0
        for event in read_videos(*arguments, **settings):
            if event.job != 1:
                yield event
            elif isinstance(event, Frames) and num_blocks == 0:
                num_blocks += 1
                yield event
            elif num_blocks == 1:
                num_blocks += 1
                yield Failed(1, "the decoder crashed (SIGSEGV)")

    monkeypatch.setattr(module, "read_videos", with_failures)
    paths = [make_clip(tmp_path / f"{number}.avi", 45, number) for number in range(3)]
    encoder = Encoder(board_means, 100, "numpy")  # so that its frames are still pending when it fails
    first, second, third = extract_all(paths, encoder=encoder, workers=1)
    assert_features_of(first, 0, range(45))
    assert second == ExtractionFailure("the decoder crashed (SIGSEGV)")
    assert_features_of(third, 2, range(45))


def cut_clip(folder: Path) -> Path:
    """A clip of 40 frames cut in half."""
    path = make_clip(folder / "cut.avi", num_frames=40)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def test_short_file_is_kept_with_its_shortfall(tmp_path: Path) -> None:
    """By default a truncated file gives its remaining features, and the origin records the shortfall."""
    (result,) = extract_all([cut_clip(tmp_path)])
    assert isinstance(result, VideoFeatures) and result.origin.is_short
    assert result.origin.header_frames == 40
    assert 0 < result.origin.decoded_frames < 38
    assert_features_of(result, 0, range(result.origin.decoded_frames))


def test_short_file_fails_on_request(tmp_path: Path) -> None:
    """With --on-short fail the same file fails, with the number of frames."""
    short, whole = extract_all([cut_clip(tmp_path), make_clip(tmp_path / "whole.avi", number=5)], on_short="fail")
    assert isinstance(short, ExtractionFailure)
    assert "cut.avi is short" in short.reason and "of 40 frames decode" in short.reason
    assert_features_of(whole, 5, range(20))


def test_file_that_ends_before_the_first_sampled_frame_fails(tmp_path: Path) -> None:
    """If no sampled frame can be decoded, the video fails with a reason, without an empty entry or a crash."""
    (result,) = extract_all([cut_clip(tmp_path)], FrameSampling.parse("uniform:1"))
    assert isinstance(result, ExtractionFailure)
    assert "ends before the first sampled frame" in result.reason


def test_features_beyond_float16_are_a_failure(tmp_path: Path) -> None:
    """Features that overflow float16 are a failure with a reason; infinity is never stored."""

    def encode(frames: NDArray[np.uint8]) -> NDArray[np.float16]:
        with np.errstate(over="ignore"):
            return (board_means(frames).astype(np.float32) * 1000).astype(np.float16)

    (result,) = extract_all([make_clip(tmp_path / "clip.avi", number=1)], encoder=Encoder(encode, 8, "numpy"))
    assert isinstance(result, ExtractionFailure) and "not finite" in result.reason


def test_readers_do_not_run_far_ahead_of_the_network(tmp_path: Path) -> None:
    """Back-pressure: with a slow CNN the readers are only a few videos ahead, however many there are."""
    clip = make_clip(tmp_path / "clip.avi", FRAMES_PER_BLOCK)
    num_started = 0

    class Paths(list[Path]):
        def __iter__(self) -> Iterator[Path]:
            nonlocal num_started
            for path in super().__iter__():
                num_started += 1
                yield path

    def encode(frames: NDArray[np.uint8]) -> NDArray[np.float16]:
        time.sleep(0.02)
        return board_means(frames)

    ahead = []
    encoder = Encoder(encode, FRAMES_PER_BLOCK, "slow")
    for num_done, _ in enumerate(
        extract(Paths([clip] * 60), BOARD.preprocessing, EVERY_FRAME, encoder, workers=2, timeout=60)
    ):
        ahead.append(num_started - num_done)
    assert len(ahead) == 60
    assert max(ahead) < 20


def test_results_are_available_while_others_are_read(tmp_path: Path, hanging_video: Path) -> None:
    """A complete video is yielded at once, to be stored, not after the last one."""
    paths = [make_clip(tmp_path / "clip.avi", 2 * BATCH_FRAMES), hanging_video]
    results = extract(paths, BOARD.preprocessing, EVERY_FRAME, ENCODER, workers=2, timeout=60)
    with closing(results):
        position, result = next(results)
        assert position == 0 and not isinstance(result, ExtractionFailure)
        assert_features_of(only(result), 0, range(2 * BATCH_FRAMES))


def test_leaving_early_ends_threads_and_processes(tmp_path: Path, hanging_video: Path) -> None:
    """Ctrl-C, or an error of the CNN, while a video hangs: everything ends, without waiting for the time limit."""

    def out_of_memory(frames: NDArray[np.uint8]) -> NDArray[np.float16]:
        raise RuntimeError("out of memory")

    paths = [make_clip(tmp_path / "clip.avi"), hanging_video]
    started = time.monotonic()
    with pytest.raises(RuntimeError, match="out of memory"):
        extract_all(paths, encoder=Encoder(out_of_memory, BATCH_FRAMES, "broken"))
    assert time.monotonic() - started < 20
    assert not reader_processes()
    assert "readers" not in [thread.name for thread in threading.enumerate()]


def test_recipe_contains_all_settings(tiny_backbone: tuple[str, Path]) -> None:
    """Backbone, weights, preprocessing and sampling are in the recipe as used."""
    backbone = load_backbone(*tiny_backbone)
    recipe = make_recipe(backbone, FrameSampling.parse("every:3"))
    assert (recipe.backbone, recipe.weights_sha256, recipe.sampling) == (
        backbone.name,
        backbone.weights_sha256,
        "every:3",
    )
    for name, value in dataclasses.asdict(backbone.preprocessing).items():
        assert getattr(recipe, name) == value
