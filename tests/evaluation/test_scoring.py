"""A classifier's answers on a list of videos."""

import numpy as np
import pytest
import torch

from models.classifier import SequenceClassifier
from models.config import ModelConfig, ModelName, Readout
from pipeline.evaluation.metrics import metrics
from pipeline.evaluation.predictions import EvaluationError, video_probabilities
from pipeline.evaluation.scoring import beliefs, predict
from pipeline.training.clips import ClipSampling
from tests.helpers.synthetic import make_record, make_table, make_table_of_views, rising_and_falling

CPU = torch.device("cpu")
CLASSES = ("rise", "fall")
TABLE = rising_and_falling(13, seed=0)


@pytest.fixture
def model() -> SequenceClassifier:
    """An untrained classifier, left in training mode as a training loop leaves it."""
    torch.manual_seed(0)
    config = ModelConfig(hidden_size=8, readout="last", input_scale="sqrt_hidden")
    return SequenceClassifier(config, TABLE.feature_dim, len(CLASSES)).train()


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


def test_probabilities_that_are_no_numbers_name_the_video(model: SequenceClassifier) -> None:
    """One video whose features are NaN is named, and does not spoil its neighbours in the block."""
    videos = [TABLE.video(number).numpy() for number in range(3)]
    spoilt = make_table([videos[0], np.full_like(videos[1], np.nan), videos[2]])
    with pytest.raises(EvaluationError, match=r"video 'v1' .*NaN or infinite.*features are not finite"):
        predict(model, spoilt, ClipSampling(), CLASSES, CPU)


def trained_on_table(name: ModelName, readout: Readout, num_layers: int) -> SequenceClassifier:
    torch.manual_seed(0)
    config = ModelConfig(name, 8, num_layers, readout, input_scale="sqrt_hidden")
    model = SequenceClassifier(config, TABLE.feature_dim, len(CLASSES))
    model.set_feature_statistics(*TABLE.statistics())
    return model.eval()


every_network = pytest.mark.parametrize(
    ("name", "readout", "num_layers"),
    [
        *(
            (name, readout, 1)
            for name in ("np_rnn", "rnn_tanh", "lstm", "gru")
            for readout in ("last", "mean", "last_and_mean")
        ),
        ("np_rnn", "last", 3),
        ("np_rnn", "mean", 2),
        ("np_rnn", "last_and_mean", 2),
        ("mean", "last", 1),
    ],
)


@every_network
@pytest.mark.parametrize(
    "clips", [ClipSampling(), ClipSampling(frames=4, per_video=5), ClipSampling(frames=3, stride=2, step=1)], ids=str
)
def test_sharing_frames_changes_no_answer(
    name: ModelName, readout: Readout, num_layers: int, clips: ClipSampling
) -> None:
    """Whatever is computed once for several clips, every network's probabilities are those of ``forward`` on each."""
    model = trained_on_table(name, readout, num_layers)
    predictions = predict(model, TABLE, clips, CLASSES, CPU, batch_size=7)
    for video in range(len(TABLE)):
        frames = TABLE.video(video).float()
        alone = [model(frames[clip][:, None]).softmax(1)[0].tolist() for clip in clips.all(len(frames))]
        answers = predictions.clip_probabilities[predictions.clip_videos == video].tolist()
        np.testing.assert_allclose(sorted(answers), sorted(alone), atol=1e-5)


def test_a_frame_that_clips_share_is_projected_once(model: SequenceClassifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five overlapping clips of a video cost the product of its frames once, not five times."""
    projected: list[int] = []
    project = SequenceClassifier.project

    def counting(self: SequenceClassifier, frames: torch.Tensor) -> torch.Tensor:
        projected.append(len(frames))
        return project(self, frames)

    monkeypatch.setattr(SequenceClassifier, "project", counting)
    predictions = predict(model, TABLE, ClipSampling(frames=3, per_video=5), CLASSES, CPU)
    assert len(predictions.clip_videos) > 3 * len(TABLE)
    assert sum(projected) == TABLE.num_frames.sum()


@every_network
def test_beliefs_are_the_answers_to_what_was_seen_so_far(name: ModelName, readout: Readout, num_layers: int) -> None:
    """After each frame stands what the network says of a video cut off there; other videos change nothing."""
    model = trained_on_table(name, readout, num_layers)
    over_time = beliefs(model.train(), TABLE, CLASSES, CPU)
    assert not model.training
    assert over_time.video_ids == tuple(record.video_id for record in TABLE.records)
    for video, probabilities in enumerate(over_time.probabilities):
        frames = TABLE.video(video).float()[:, None]
        so_far = torch.cat([model(frames[:seen]).softmax(1) for seen in range(1, len(frames) + 1)])
        assert probabilities.dtype == np.float32
        np.testing.assert_allclose(probabilities, so_far.detach().numpy(), atol=1e-5)


def test_beliefs_are_of_the_first_view(model: SequenceClassifier) -> None:
    """A mirrored view of the frames has no say in what is shown as one reading of the video."""
    views = [[TABLE.video(number).numpy() * sign for sign in (1, -1)] for number in range(len(TABLE))]
    both = beliefs(model, make_table_of_views(views), CLASSES, CPU)
    first = beliefs(model, make_table([of_video[0] for of_video in views]), CLASSES, CPU)
    for ours, expected in zip(both.probabilities, first.probabilities, strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-6)
