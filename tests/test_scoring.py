"""A classifier's answers on a list of videos."""

import numpy as np
import pytest
import torch

from models.config import ModelConfig
from models.recurrent import SequenceClassifier
from pipeline.batches import ClipSampling
from pipeline.evaluation import metrics, video_probabilities
from pipeline.scoring import predict
from tests.synthetic import make_record, make_table, make_table_of_views, rising_and_falling

CPU = torch.device("cpu")
CLASSES = ("rise", "fall")
TABLE = rising_and_falling(13, seed=0)


@pytest.fixture
def model() -> SequenceClassifier:
    """An untrained classifier, left in training mode as a training loop leaves it."""
    torch.manual_seed(0)
    model = SequenceClassifier(ModelConfig(hidden_size=8, input_scale="sqrt_hidden"), TABLE.feature_dim, len(CLASSES))
    return model.train()


def test_probabilities_are_the_softmax_of_each_clip_alone(model: SequenceClassifier) -> None:
    """Dropout is off, padding changes nothing, and each clip keeps its video: the answers one by one are the same."""
    predictions = predict(model, TABLE, ClipSampling(), CLASSES, CPU, batch_size=4)
    assert not model.training
    for row, video in enumerate(predictions.clip_videos):
        batch = TABLE.batch(np.array([video]), [np.arange(TABLE.num_frames[video])])
        alone = model(batch.features, batch.lengths).softmax(1).detach().numpy()
        np.testing.assert_allclose(predictions.clip_probabilities[row], alone[0], atol=1e-5)
    np.testing.assert_array_equal(predictions.labels, TABLE.labels.numpy())
    assert predictions.video_ids == tuple(record.video_id for record in TABLE.records)


def test_clips_of_a_video_are_averaged(model: SequenceClassifier) -> None:
    """Several clips give one answer per video, each clip counted once, whatever the batch size."""
    clips = ClipSampling(frames=4, per_video=2)
    predictions = predict(model, TABLE, clips, CLASSES, CPU)
    assert (predictions.clip_counts == 2).all()
    expected = [
        np.mean(
            [predictions.clip_probabilities[row] for row in np.flatnonzero(predictions.clip_videos == video)], axis=0
        )
        for video in range(len(TABLE))
    ]
    np.testing.assert_allclose(video_probabilities(predictions), expected)
    by_one = predict(model, TABLE, clips, CLASSES, CPU, batch_size=1)
    np.testing.assert_allclose(video_probabilities(by_one), expected, atol=1e-5)


def test_views_of_a_video_are_averaged(model: SequenceClassifier) -> None:
    """Each view of a clip is scored by itself and counts as a clip; the video's answer is the mean over all of them."""
    views = [[TABLE.video(number).numpy() * sign for sign in (1, -1)] for number in range(len(TABLE))]
    single = [make_table([of_video[view] for of_video in views], TABLE.labels.tolist()) for view in (0, 1)]
    clips = ClipSampling(frames=4, per_video=2)
    first, second = (predict(model, table, clips, CLASSES, CPU) for table in single)
    both = predict(model, make_table_of_views(views, TABLE.labels.tolist()), clips, CLASSES, CPU)
    assert (both.clip_counts == 4).all()
    expected = (video_probabilities(first) + video_probabilities(second)) / 2
    np.testing.assert_allclose(video_probabilities(both), expected, atol=1e-6)
    assert np.abs(video_probabilities(first) - expected).max() > 0.01
    clip_right = float(str(metrics(first)["clip_top1"])) + float(str(metrics(second)["clip_top1"]))
    assert metrics(both)["clip_top1"] == pytest.approx(clip_right / 2)


def test_a_video_without_features_is_counted_as_wrong(model: SequenceClassifier) -> None:
    """A missing test video stays in the list: the same answers give a lower accuracy, never the same one."""
    missing = [make_record("lost1", 0), make_record("lost2", 1)]
    whole = metrics(predict(model, TABLE, ClipSampling(), CLASSES, CPU))
    lacking = metrics(predict(model, TABLE, ClipSampling(), CLASSES, CPU, missing))
    assert (lacking["num_videos"], lacking["num_missing"]) == (15, 2)
    assert lacking["video_top1"] == pytest.approx(float(str(whole["video_top1"])) * 13 / 15)
    assert lacking["clip_top1"] == pytest.approx(float(str(whole["clip_top1"])) * 13 / 15)
