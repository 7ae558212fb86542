"""A video's clips are scored frame by frame as the evaluation scores them."""

from itertools import product

import numpy as np
import pytest
import torch

from models.config import ModelName
from pipeline.evaluation.scoring import ORDERS, predict
from pipeline.recognizer.head import ClassifierHead
from pipeline.recognizer.scoring import clip_probabilities
from pipeline.training.clips import ClipSampling
from tests.helpers.synthetic import rising_and_falling
from tests.recognizer.test_rolling import make_classifier


@pytest.mark.parametrize("clips", [ClipSampling(), ClipSampling(3, 2, 4), ClipSampling(4, 1, 10, 1)], ids=str)
@pytest.mark.parametrize("name", ["np_rnn", "lstm", "mean"])
def test_clips_have_the_probabilities_of_the_evaluation(name: ModelName, clips: ClipSampling) -> None:
    """Whole videos, clips with a stride, and dense clips, in every order of their frames: the same clips, to 1e-5."""
    table = rising_and_falling(6, seed=0)
    model = make_classifier(name, table.feature_dim)
    expected = predict(model, table, clips, ("a", "b", "c"), torch.device("cpu"), orders=ORDERS)
    for number, order in product(range(len(table)), ORDERS):
        video_id = table.records[number].video_id
        found = clip_probabilities(ClassifierHead(model), table.video(number).numpy(), clips, order, video_id)
        theirs = expected[order].clip_probabilities[expected[order].clip_videos == number]
        assert len(found) == len(theirs)
        np.testing.assert_allclose(np.sort(found, axis=0), np.sort(theirs, axis=0), atol=1e-5)
