"""The model card: what the Hub reads, and what a person reads, are the numbers of the evaluation."""

from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import ModelCard

from pipeline.evaluation.predictions import Predictions
from pipeline.reports.report import write_evaluation

HOSTILE = "</details><img src=x onerror=alert(1)> | `rm` \n# heading"
PARTS = {"train": {"videos": 1200, "groups": 40, "classes": 3}, "test": {"videos": 6, "groups": 3, "classes": 3}}
FACTS = {
    "run": "np_rnn-split_1-seed_0",
    "dataset": "ucf101",
    "split": "1",
    "model": "np_rnn",
    "seed": 0,
    "backbone": "efficientnet_lite0",
    "settings": "",
    "parts": PARTS,
}


def card_of(folder: Path, classes: tuple[str, ...] = ("run", "walk", "jump"), **changed: Any) -> tuple[str, dict]:
    """The text of the card, and the metrics beside it; five of six videos are right."""
    labels = np.array([0, 0, 1, 1, 2, 2])
    probabilities = np.full((6, 3), 0.1, np.float32)
    probabilities[np.arange(6), [0, 0, 1, 1, 2, 0]] = 0.8
    videos = tuple(f"v{number}" for number in range(6))
    predictions = Predictions(classes, videos, labels, probabilities, np.arange(6), groups=tuple("aabbcc"))
    metrics = write_evaluation(folder, predictions, FACTS | changed)
    return (folder / "MODEL_CARD.md").read_text(encoding="utf-8"), metrics


def test_the_hub_reads_the_scores(tmp_path: Path) -> None:
    """huggingface_hub itself finds the task, the library and each score with its dataset and split."""
    text, metrics = card_of(tmp_path)
    data = ModelCard(text).data
    assert (data.pipeline_tag, data.library_name) == ("video-classification", "np-rnn-action-recognition")
    scores = {result.metric_name: result for result in data.eval_results}
    assert scores["Video top-1"].metric_value == round(metrics["video_top1"], 6) == round(5 / 6, 6)
    assert (scores["Video top-1"].dataset_name, scores["Video top-1"].dataset_split) == ("ucf101", "test of split 1")
    assert "Video top-5" not in scores  # of three classes, the true one is always among the first five


def test_a_person_reads_data_and_limits(tmp_path: Path) -> None:
    """The card says on what it was trained and tested, where it is weak, and what it was compared with."""
    text, _ = card_of(tmp_path)
    assert "# np\\_rnn on ucf101, split 1, seed 0" in text or "# np_rnn on ucf101, split 1, seed 0" in text
    assert "| train | 1200 | 40 | 3 |" in text and "bootstrap over 3 groups" in text
    assert "The lowest recalls: jump (50.0 %)." in text
    assert "not compared with a baseline" in text
    assert "| seed | 0 |" in text and "settings" not in text


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    """A class or a dataset can neither add HTML, nor a heading, nor end the metadata block."""
    text, _ = card_of(tmp_path, classes=(HOSTILE, "walk", "jump"), dataset="x\n---\ny: 1")
    head, body = text[4:].split("\n---\n", 1)
    assert "<img" not in body.replace("\\<img", "") and "\n# heading" not in body
    assert ModelCard(text).data.eval_results[0].dataset_name == "x\n---\ny: 1" and "\ny: 1" not in head


def test_the_average_is_no_recurrent_network(tmp_path: Path) -> None:
    """The baseline is called what it is."""
    text, _ = card_of(tmp_path, model="mean")
    assert "The average of all frames, with a linear layer, classifies videos into 3 classes" in text


def test_rank_pooling_is_no_recurrent_network(tmp_path: Path) -> None:
    """Nor is the other linear head."""
    text, _ = card_of(tmp_path, model="rank_pooling")
    assert "The average of all frames and their trend in time, with linear layers, classifies videos" in text
