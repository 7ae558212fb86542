"""A synthetic evaluation as large as UCF101's: confusions between neighbouring classes, growing confidence, groups, a
map, strips."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.slices import Property
from pipeline.reports.report import write_evaluation
from pipeline.reports.strips import strip_path

HOSTILE = "</script><script>alert(1)</script>"
DEEDS = ("Apply", "Blow", "Brush", "Catch", "Climb", "Hammer", "Juggle", "Paint", "Play", "Throw", "Walk")
THINGS = ("Archery", "Balloons", "Cello", "Drums", "Eyeliner", "Frisbee", "Guitar", "Hockey", "Javelin", "Rope")


@dataclass(frozen=True)
class MadeEvaluation:
    """The folder that was written, the predictions it was written from, and its ``metrics.json``."""

    folder: Path
    predictions: Predictions
    metrics: dict[str, Any]


def make_evaluation(
    folder: Path, num_classes: int = 101, num_videos: int = 3783, num_strips: int = 30
) -> MadeEvaluation:
    """Write the evaluation of a model with an accuracy of about 80 % that confuses neighbouring classes."""
    rng = np.random.default_rng(0)
    names = [f"{deed}{thing}" for deed in DEEDS for thing in THINGS][: num_classes - 1]
    classes = (*names, HOSTILE)
    labels = np.sort(rng.integers(num_classes, size=num_videos))
    video_ids = tuple(f"{classes[label][:9]}/v_g{1 + n % 7:02d}_c{n:04d}.avi" for n, label in enumerate(labels))
    missing = rng.random(num_videos) < 0.001
    num_frames = rng.integers(5, 26, size=num_videos)
    over_time = []
    for label, frames in zip(labels, num_frames, strict=True):
        scores = rng.normal(size=(frames, num_classes)).cumsum(axis=0) / 2
        growth = np.linspace(0.1, 1, frames)
        scores[:, label] += 7.0 * growth
        scores[:, (label // 4) * 4] += 5.0 * growth  # the first of every four classes is predicted too often
        exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
        over_time.append((exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32))
    answered = np.flatnonzero(~missing)
    final = np.array([over_time[video][-1] for video in answered])
    groups = tuple(f"{classes[label][:9]}_g{1 + n % 7:02d}" for n, label in enumerate(labels))
    predictions = Predictions(classes, video_ids, labels, final, answered, groups)
    strips = {}
    for video_id in [video_ids[video] for video in answered[:num_strips]]:
        frames = rng.integers(0, 256, size=(6, 64, 3), dtype=np.uint8)
        strips[video_id] = strip_path(folder, video_id)
        strips[video_id].parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(strips[video_id]), cv2.resize(frames, (1024, 96), interpolation=cv2.INTER_CUBIC))
    matrix = rng.normal(size=(64, 64)) / 10
    facts = {
        "run": "np_rnn-split_1-seed_0",
        "dataset": "ucf101",
        "split": "1",
        "seed": 0,
        "model": "np_rnn",
        "backbone": "efficientnet_lite0",
        "num_parameters": 969_829,
        "command": "python evaluate.py runs/ucf101/np_rnn-split_1-seed_0",
        "versions": {"python": "3.11", "torch": "2.13"},
    }
    history = [
        {
            "epoch": epoch,
            "train_loss": 4 * 0.8**epoch,
            "train_accuracy": 1 - 0.9**epoch,
            "validation_loss": 1 + 3 * 0.8**epoch,
            "validation_accuracy": 0.8 - 0.8 * 0.85**epoch,
        }
        for epoch in range(1, 31)
    ]
    metrics = write_evaluation(
        folder,
        predictions,
        facts,
        history,
        probabilities_over_time={video_ids[video]: over_time[video] for video in answered},
        representations={video_ids[video]: np.log(row) for video, row in zip(answered, final, strict=True)},
        properties=[
            Property("length", "s", {video_ids[n]: frames / 3.7 for n, frames in enumerate(num_frames.tolist())}),
            Property("size", "pixels", {}),
        ],
        strips=strips,
        spectra={"before": np.linalg.eigvals(matrix @ matrix.T), "after": np.linalg.eigvals(matrix)},
    )
    return MadeEvaluation(folder, predictions, metrics)
