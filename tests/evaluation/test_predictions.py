"""pipeline/evaluation/predictions.py: the checks of predictions, and the file that stores them."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from pipeline.evaluation.predictions import FILE_NAME, EvaluationError, Predictions, _checksum
from tests.evaluation.test_metrics import predictions_of, random_predictions


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_probabilities_name_the_video(value: float) -> None:
    """A diverged model causes an error that names the video, never a silent wrong answer."""
    with pytest.raises(EvaluationError, match=r"video 'v1' \(row 2 .*NaN or infinite.*learning rate"):
        predictions_of([0, 1], [(0, [1, 0]), (0, [1, 0]), (1, [value, 0.5])], num_classes=2)


@pytest.mark.parametrize("row", [[2.0, -1.0], [0.5, 0.4], [3.1, -0.2]])
def test_scores_that_are_not_a_distribution_are_rejected(row: list[float]) -> None:
    """Averaging raw scores instead of probabilities would change the video-level result unnoticed."""
    with pytest.raises(EvaluationError, match="video 'v0'.*softmax"):
        predictions_of([0], [(0, row)], num_classes=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.array([0, 2])}, r"labels\[1\] is 2, which is outside 0 .. 1"),
        ({"labels": np.array([0, -1])}, r"labels\[1\] is -1"),
        ({"labels": np.array([0.0, 1.0])}, "labels must be a vector of integers"),
        ({"labels": np.array([0])}, r"labels has shape \(1,\) for 2 videos"),
        ({"clip_videos": np.array([0, 5])}, r"clip_videos\[1\] is 5"),
        ({"clip_probabilities": np.ones((2, 1))}, "another list of classes"),
        ({"clip_probabilities": np.ones((1, 2)) / 2}, "clip_probabilities has shape"),
        ({"positions": np.zeros((1, 2))}, r"positions has shape \(1, 2\) for 2 videos"),
        ({"positions": np.full((2, 2), np.inf)}, "infinite"),
        ({"classes": ("a", "a")}, "classes contains 'a' twice"),
        ({"video_ids": ("v", "v")}, "video_ids contains 'v' twice"),
        ({"video_ids": (), "labels": np.array([], int), "clip_videos": np.array([], int)}, "nothing to evaluate"),
    ],
)
def test_inconsistent_parts_are_rejected(change: dict[str, Any], message: str) -> None:
    """Each way in which labels, clips and names can disagree is an error that says what is wrong."""
    sound = predictions_of([0, 1], [(0, [1, 0]), (1, [0, 1])], num_classes=2)
    with pytest.raises(EvaluationError, match=message):
        dataclasses.replace(sound, **change)


def assert_same(read: Predictions, written: Predictions) -> None:
    assert (read.classes, read.video_ids) == (written.classes, written.video_ids)
    for name in ("labels", "clip_probabilities", "clip_videos", "positions"):
        one, other = np.asarray(getattr(read, name)), np.asarray(getattr(written, name))
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_predictions_are_read_back_bit_for_bit(tmp_path: Path) -> None:
    """The file contains all clips with full precision, so every metric of the evaluation can be computed again."""
    predictions = random_predictions(num_videos=60, num_classes=7, num_clips=3)
    kept = predictions.clip_videos != 5  # video 5 is missing
    predictions = dataclasses.replace(
        predictions,
        clip_probabilities=predictions.clip_probabilities[kept],
        clip_videos=predictions.clip_videos[kept],
        positions=np.where(np.arange(60)[:, None] == 5, np.nan, np.random.default_rng(0).normal(size=(60, 2))),
    )
    predictions.save(tmp_path / "run" / "evaluation" / FILE_NAME)
    read = Predictions.load(tmp_path / "run" / "evaluation" / FILE_NAME)
    assert_same(read, predictions)
    assert np.flatnonzero(read.missing).tolist() == [5]


def test_a_file_without_groups_is_read(tmp_path: Path) -> None:
    """Files of earlier versions have no groups, so each video is its own, and no positions."""
    old = dataclasses.replace(random_predictions(4, 2, 1), groups=tuple("aabb"))
    names = {name: json.dumps(getattr(old, name)) for name in ("classes", "video_ids")}
    arrays = {name: getattr(old, name) for name in ("labels", "clip_probabilities", "clip_videos")}
    (tmp_path / FILE_NAME).write_bytes(save(arrays, {**names, "crc32": _checksum(names, arrays)}))
    assert (Predictions.load(tmp_path / FILE_NAME).groups, old.num_groups) == ((), 2)
    assert Predictions.load(tmp_path / FILE_NAME).positions is None
    assert Predictions.load(tmp_path / FILE_NAME).num_groups == 4
    old.save(tmp_path / FILE_NAME)
    assert Predictions.load(tmp_path / FILE_NAME).groups == tuple("aabb")


def test_any_name_is_read_back(tmp_path: Path) -> None:
    """Commas, quotes, line breaks, non-ASCII characters and undecodable bytes in names are preserved."""
    classes = ('a,"b"', "p:a\nb", "häß")
    ids = ("x,\ny", "z\udc80")
    predictions = Predictions(classes, ids, np.array([1, 0]), np.array([[0.25, 0.5, 0.25]] * 2), np.array([0, 1]))
    predictions.save(tmp_path / FILE_NAME)
    assert_same(Predictions.load(tmp_path / FILE_NAME), predictions)


def test_predictions_without_clips_are_read_back(tmp_path: Path) -> None:
    """An evaluation in which no video could be decoded has a file, too."""
    predictions = predictions_of([0, 1], [], num_classes=2)
    predictions.save(tmp_path / FILE_NAME)
    assert_same(Predictions.load(tmp_path / FILE_NAME), predictions)


def test_a_flipped_bit_is_detected_anywhere(tmp_path: Path) -> None:
    """A single wrong bit at any position of the file is an error, never other predictions."""
    path = tmp_path / "run" / "evaluation" / FILE_NAME
    predictions = predictions_of([0, 1], [(0, [0.75, 0.25]), (1, [0.5, 0.5])], num_classes=2)
    dataclasses.replace(predictions, positions=np.eye(2)).save(path)
    content = path.read_bytes()
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        with pytest.raises(EvaluationError, match="is damaged"):
            Predictions.load(path)


@pytest.mark.parametrize(
    "damage",
    [lambda content: b"", lambda content: content[:-1], lambda content: content[:20], lambda content: b"no tensors"],
)
def test_a_damaged_file_is_named_with_the_fix(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    """The error of a truncated or foreign file names the file and the command that evaluates the run again."""
    path = tmp_path / "run" / "evaluation" / FILE_NAME
    predictions_of([0], [(0, [1.0])], num_classes=1).save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(EvaluationError, match="is damaged") as caught:
        Predictions.load(path)
    assert str(path) in str(caught.value)
    assert f"python evaluate.py {tmp_path / 'run'} --again" in str(caught.value)


def test_an_evaluation_of_an_earlier_version_is_named_with_the_fix(tmp_path: Path) -> None:
    """Where only predictions.csv exists, the error says to evaluate the run again; the CSV is never read."""
    folder = tmp_path / "run" / "evaluation"
    folder.mkdir(parents=True)
    (folder / "predictions.csv").write_text(
        "video_id,label,predicted,correct,confidence,num_clips,p:a\nv,a,a,1,1,1,1\n"
    )
    with pytest.raises(EvaluationError, match="there is no .*earlier version.*--again") as caught:
        Predictions.load(folder / FILE_NAME)
    assert f"python evaluate.py {tmp_path / 'run'} --again" in str(caught.value)
