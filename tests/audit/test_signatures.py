"""Tests of ``pipeline.audit.signatures``."""

import numpy as np

from pipeline.audit.signatures import MAX_ROWS, make_signatures
from pipeline.store.packed import PackedFeatures
from tests.helpers.synthetic import make_features


def test_scene_has_unit_length_and_motion_no_mean() -> None:
    """The scene of a video is a direction, and its motion is what is left without the mean."""
    rng = np.random.default_rng(0)
    packed = PackedFeatures.in_memory({f"v{n}": [make_features(rng.standard_normal((8, 12)))] for n in range(20)})
    signatures = make_signatures(packed, list(packed.videos))
    assert np.allclose(np.linalg.norm(signatures.scene, axis=2), 1, atol=1e-5)
    assert np.allclose(signatures.motion.astype(np.float32).sum(axis=2), 0, atol=0.05)
    assert signatures.num_rows.tolist() == [8] * 20
    assert np.allclose(signatures.step, 1 / 25)


def test_shift_of_all_frames_leaves_the_motion_alone() -> None:
    """A crop or a codec that shifts the features of all frames alike does not change the motion."""
    rng = np.random.default_rng(0)
    videos = {f"v{n}": rng.standard_normal((8, 12)) for n in range(20)}
    videos["shifted"] = videos["v0"] + 3 * rng.standard_normal(12)
    packed = PackedFeatures.in_memory({name: [make_features(values)] for name, values in videos.items()})
    motion = make_signatures(packed, list(videos)).motion.astype(np.float32)
    assert np.allclose(motion[0, 0], motion[0, -1], atol=0.05)


def test_long_and_short_videos_are_thinned_and_padded() -> None:
    """A long video keeps evenly spaced rows, one frame is one row, and numbers that are not finite harm nothing."""
    rng = np.random.default_rng(0)
    videos = {f"v{n}": rng.standard_normal((6, 12)) for n in range(10)}
    videos["long"], videos["one"] = rng.standard_normal((100, 12)), rng.standard_normal((1, 12))
    videos["v3"][2, 2] = np.nan
    packed = PackedFeatures.in_memory({name: [make_features(values)] for name, values in videos.items()})
    signatures = make_signatures(packed, list(videos))
    assert signatures.num_rows[-2:].tolist() == [MAX_ROWS, 1]
    assert signatures.step[-2] == np.float64(99 / 25 / (MAX_ROWS - 1))
    assert np.isfinite(signatures.motion).all() and np.isfinite(signatures.scene).all()
