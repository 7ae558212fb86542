"""Tests of ``pipeline.audit.alignment``."""

import numpy as np
import pytest

from pipeline.audit.alignment import motion_similarity
from pipeline.audit.signatures import Signatures

DIM = 16


def _signatures(*videos: np.ndarray, steps: list[float] | None = None) -> Signatures:
    longest = max(len(video) for video in videos)
    motion = np.zeros((1, len(videos), longest, DIM), dtype=np.float16)
    for number, video in enumerate(videos):
        motion[0, number, : len(video)] = video
    num_rows = np.array([len(video) for video in videos])
    return Signatures(
        np.zeros((1, len(videos), 1), np.float32), motion, num_rows, np.array(steps or [1.0] * len(videos))
    )


def _movement(num_rows: int, seed: int = 0) -> np.ndarray:
    """A smooth random movement, so that rows can be interpolated."""
    rng = np.random.default_rng(seed)
    knots = rng.standard_normal((num_rows // 2 + 2, DIM))
    return np.array([np.interp(np.arange(num_rows) / 2, np.arange(len(knots)), column) for column in knots.T]).T


def test_the_same_movement_reaches_one_and_another_does_not() -> None:
    """A video is fully similar to itself, and hardly to a different one."""
    signatures = _signatures(_movement(20), _movement(20), _movement(20, seed=1))
    same, other = motion_similarity(signatures, np.array([[0, 1], [0, 2]]))
    assert same == pytest.approx(1, abs=1e-3)
    assert other < 0.5


@pytest.mark.parametrize("part", [slice(6, 24), slice(0, 18), slice(5, 20)])
def test_trimmed_video_is_aligned(part: slice) -> None:
    """A copy that lacks its start, its end or both is found, whichever of the two comes first."""
    signatures = _signatures(_movement(24), _movement(24)[part])
    assert motion_similarity(signatures, np.array([[0, 1]])) > 0.9
    assert motion_similarity(signatures, np.array([[1, 0]])) > 0.9


def test_other_frame_rate_is_stretched() -> None:
    """A copy that claims another frame rate has the same rows, and is found."""
    signatures = _signatures(_movement(20), _movement(20), steps=[1.0, 1.7])
    assert motion_similarity(signatures, np.array([[0, 1]])) > 0.99


def test_mirrored_view_counts() -> None:
    """If the mirrored view of one video agrees with the other, the pair is similar."""
    plain = _signatures(_movement(20), _movement(20, seed=1))
    mirrored = np.concatenate([plain.motion, plain.motion[:, ::-1]])
    both = Signatures(np.concatenate([plain.scene, plain.scene]), mirrored, plain.num_rows, plain.step)
    assert motion_similarity(plain, np.array([[0, 1]])) < 0.5
    assert motion_similarity(both, np.array([[0, 1]])) > 0.99


def test_still_pictures_and_single_frames_are_not_similar() -> None:
    """Where nothing moves, or there are too few frames, there is nothing that agrees."""
    signatures = _signatures(np.zeros((10, DIM)), np.zeros((10, DIM)), _movement(2)[:1])
    still, single = motion_similarity(signatures, np.array([[0, 1], [0, 2]]))
    assert still <= 0
    assert single <= 0


def test_no_pairs() -> None:
    """No pair gives no similarity."""
    assert len(motion_similarity(_signatures(_movement(8)), np.empty((0, 2), np.int64))) == 0
