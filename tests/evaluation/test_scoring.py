"""pipeline/evaluation/scoring.py: the probabilities of a classifier on a list of videos."""

import zlib

import numpy as np
import pytest
import torch
from torch import nn

from models.classifier import SequenceClassifier
from models.config import ModelConfig, ModelName, Readout
from models.shared_frames import Projected, project
from pipeline.evaluation import scoring
from pipeline.evaluation.comparison import order_drops
from pipeline.evaluation.metrics import metrics
from pipeline.evaluation.predictions import EvaluationError
from pipeline.evaluation.scoring import ORDERS, Order, predict, read_whole_videos
from pipeline.training.clips import ClipSampling
from tests.helpers.synthetic import make_record, make_table, make_table_of_views, rising_and_falling

CPU = torch.device("cpu")
CLASSES = ("rise", "fall")
TABLE = rising_and_falling(13, seed=0)


@pytest.fixture
def model() -> SequenceClassifier:
    """An untrained classifier in training mode, as after a training loop."""
    torch.manual_seed(0)
    config = ModelConfig(hidden_size=8, readout="last", input_scale="sqrt_hidden")
    return SequenceClassifier(config, TABLE.feature_dim, len(CLASSES)).train()


def test_probabilities_are_the_softmax_of_each_separate_clip(model: SequenceClassifier) -> None:
    """Dropout is off, padding has no effect, and each clip belongs to its video: single clips give the same result."""
    predictions = predict(model, TABLE, ClipSampling(), CLASSES, CPU, batch_size=4)["forward"]
    assert not model.training
    for row, video in enumerate(predictions.clip_videos):
        batch = TABLE.batch(np.array([video]), [np.arange(TABLE.num_frames[video])])
        alone = model(batch.inputs, batch.lengths).softmax(1).detach().numpy()
        np.testing.assert_allclose(predictions.clip_probabilities[row], alone[0], atol=1e-5)
    np.testing.assert_array_equal(predictions.labels, TABLE.labels.numpy())
    assert predictions.video_ids == tuple(record.video_id for record in TABLE.records)


def test_clips_of_a_video_are_averaged(model: SequenceClassifier) -> None:
    """The clips of a video are averaged with equal weights, whatever the batch size."""
    clips = ClipSampling(frames=4, per_video=2)
    predictions = predict(model, TABLE, clips, CLASSES, CPU)["forward"]
    assert (predictions.clip_counts == 2).all()
    expected = [
        np.mean(
            [predictions.clip_probabilities[row] for row in np.flatnonzero(predictions.clip_videos == video)], axis=0
        )
        for video in range(len(TABLE))
    ]
    np.testing.assert_allclose(predictions.video_probabilities, expected)
    by_one = predict(model, TABLE, clips, CLASSES, CPU, batch_size=1)["forward"]
    np.testing.assert_allclose(by_one.video_probabilities, expected, atol=1e-5)


def test_views_of_a_video_are_averaged(model: SequenceClassifier) -> None:
    """Each view of a clip is scored separately and counts as a clip; the video's probabilities are their mean."""
    views = [[TABLE.video(number).numpy() * sign for sign in (1, -1)] for number in range(len(TABLE))]
    single = [make_table([video_views[view] for video_views in views], TABLE.labels.tolist()) for view in (0, 1)]
    clips = ClipSampling(frames=4, per_video=2)
    first, second = (predict(model, table, clips, CLASSES, CPU)["forward"] for table in single)
    both = predict(model, make_table_of_views(views, TABLE.labels.tolist()), clips, CLASSES, CPU)["forward"]
    assert (both.clip_counts == 4).all()
    expected = (first.video_probabilities + second.video_probabilities) / 2
    np.testing.assert_allclose(both.video_probabilities, expected, atol=1e-6)
    assert np.abs(first.video_probabilities - expected).max() > 0.01
    clip_sum = float(str(metrics(first)["clip_top1"])) + float(str(metrics(second)["clip_top1"]))
    assert metrics(both)["clip_top1"] == pytest.approx(clip_sum / 2)


def test_a_video_without_features_is_counted_as_wrong(model: SequenceClassifier) -> None:
    """A missing test video stays in the list, so the same answers give a lower accuracy."""
    missing = [make_record("lost1", 0), make_record("lost2", 1)]
    whole = metrics(predict(model, TABLE, ClipSampling(), CLASSES, CPU)["forward"])
    lacking = metrics(predict(model, TABLE, ClipSampling(), CLASSES, CPU, missing)["forward"])
    assert (lacking["num_videos"], lacking["num_missing"]) == (15, 2)
    assert lacking["video_top1"] == pytest.approx(float(str(whole["video_top1"])) * 13 / 15)
    assert lacking["clip_top1"] == pytest.approx(float(str(whole["clip_top1"])) * 13 / 15)


def test_non_finite_probabilities_name_the_video(model: SequenceClassifier) -> None:
    """A video with NaN features is named, and its neighbours in the block are not affected."""
    videos = [TABLE.video(number).numpy() for number in range(3)]
    corrupted = make_table([videos[0], np.full_like(videos[1], np.nan), videos[2]])
    with pytest.raises(EvaluationError, match=r"video 'v1' .*NaN or infinite.*features are not finite"):
        predict(model, corrupted, ClipSampling(), CLASSES, CPU)


def trained_on_table(name: ModelName, readout: Readout, num_layers: int) -> SequenceClassifier:
    torch.manual_seed(0)
    config = ModelConfig(name, 8, num_layers, readout, power_norm=num_layers == 2, input_scale="sqrt_hidden")
    model = SequenceClassifier(config, TABLE.feature_dim, len(CLASSES))
    model.set_feature_statistics(*TABLE.statistics())
    if model.skip is not None:
        nn.init.normal_(model.skip.weight)
    model.temperature.fill_(0.7)
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
    """However frames are shared between clips, the probabilities are those of ``forward`` on each clip."""
    model = trained_on_table(name, readout, num_layers)
    predictions = predict(model, TABLE, clips, CLASSES, CPU, batch_size=7)["forward"]
    for video in range(len(TABLE)):
        frames = TABLE.video(video).float()
        alone = [model(frames[clip][:, None]).softmax(1)[0].tolist() for clip in clips.all(len(frames))]
        answers = predictions.clip_probabilities[predictions.clip_videos == video].tolist()
        np.testing.assert_allclose(sorted(answers), sorted(alone), atol=1e-5)


@every_network
@pytest.mark.parametrize("order", ["reversed", "shuffled"])
@pytest.mark.parametrize("clips", [ClipSampling(), ClipSampling(frames=3, stride=2, step=1)], ids=str)
def test_another_order_is_that_of_reordered_clips(
    name: ModelName, readout: Readout, num_layers: int, order: Order, clips: ClipSampling
) -> None:
    """The probabilities are those of ``forward`` on each clip with its frames reordered by hand."""
    model = trained_on_table(name, readout, num_layers)
    predictions = predict(model, TABLE, clips, CLASSES, CPU, batch_size=7, orders=ORDERS)[order]
    for video, record in enumerate(TABLE.records):
        frames = TABLE.video(video).float()
        chosen = clips.all(len(frames))
        steps = np.arange(len(chosen[0]))[::-1]
        if order == "shuffled":
            steps = np.random.default_rng(zlib.crc32(record.video_id.encode())).permutation(len(chosen[0]))
        alone = [model(frames[clip[steps]][:, None]).softmax(1)[0].tolist() for clip in chosen]
        answers = predictions.clip_probabilities[predictions.clip_videos == video].tolist()
        np.testing.assert_allclose(sorted(answers), sorted(alone), atol=1e-5)


def test_a_shuffled_video_is_the_same_in_every_evaluation() -> None:
    """Neither the other videos nor the batch size change a video's random order."""
    model = trained_on_table("np_rnn", "last", 1)
    videos = [TABLE.video(number).numpy() for number in range(len(TABLE))]
    everything, beginning = make_table(videos), make_table(videos[:3])
    clips = ClipSampling(frames=4, per_video=2)
    whole = predict(model, everything, clips, CLASSES, CPU, orders=ORDERS)["shuffled"]
    for batch_size in (1, 256):
        part = predict(model, beginning, clips, CLASSES, CPU, batch_size=batch_size, orders=ORDERS)["shuffled"]
        np.testing.assert_allclose(part.video_probabilities, whole.video_probabilities[:3], atol=1e-6)
    in_order = predict(model, everything, clips, CLASSES, CPU)["forward"]
    assert np.abs(whole.video_probabilities - in_order.video_probabilities).max() > 0.01


def test_the_frame_average_gives_equal_answers_in_every_order() -> None:
    """Its probabilities are bit-equal, so not even a tie between classes is broken in another way."""
    model = trained_on_table("mean", "mean", 1)
    orders = predict(model, TABLE, ClipSampling(frames=4, per_video=5), CLASSES, CPU, orders=ORDERS)
    in_order = orders.pop("forward")
    assert orders.keys() == {"reversed", "shuffled"}
    for order, reordered in orders.items():
        np.testing.assert_array_equal(reordered.clip_probabilities, in_order.clip_probabilities)
        drop = order_drops(in_order, {order: reordered})[order]
        assert (drop["drop"], drop["interval"]) == (0, [0, 0])


def test_a_shared_frame_is_projected_once(model: SequenceClassifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five overlapping clips of a video in three orders project its frames once, not fifteen times."""
    projected: list[int] = []

    def counting(model: SequenceClassifier, frames: torch.Tensor) -> Projected:
        projected.append(len(frames))
        return project(model, frames)

    monkeypatch.setattr(scoring, "project", counting)
    orders = predict(model, TABLE, ClipSampling(frames=3, per_video=5), CLASSES, CPU, orders=ORDERS)
    assert all(len(predictions.clip_videos) > 3 * len(TABLE) for predictions in orders.values())
    assert sum(projected) == TABLE.num_frames.sum()


@every_network
def test_probabilities_over_time_are_those_of_truncated_videos(
    name: ModelName, readout: Readout, num_layers: int
) -> None:
    """The probabilities after a frame are those of the video truncated there; other videos have no effect."""
    model = trained_on_table(name, readout, num_layers)
    over_time = read_whole_videos(model.train(), TABLE, CPU).probabilities
    assert not model.training
    assert list(over_time) == [record.video_id for record in TABLE.records]
    for video, probabilities in enumerate(over_time.values()):
        frames = TABLE.video(video).float()[:, None]
        so_far = torch.cat([model(frames[:seen]).softmax(1) for seen in range(1, len(frames) + 1)])
        assert probabilities.dtype == np.float32
        np.testing.assert_allclose(probabilities, so_far.detach().numpy(), atol=1e-5)


@every_network
@pytest.mark.parametrize("max_numbers", [1, 50])
def test_a_long_video_is_read_in_pieces(
    name: ModelName, readout: Readout, num_layers: int, max_numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model never sees more than a piece of the features, which bounds the memory, and no probability changes."""
    model = trained_on_table(name, readout, num_layers)
    orders = predict(model, TABLE, ClipSampling(), CLASSES, CPU, orders=ORDERS)
    whole = read_whole_videos(model, TABLE, CPU)
    sizes = []
    normalize = SequenceClassifier.normalize

    def counting(self: SequenceClassifier, features: torch.Tensor) -> torch.Tensor:
        sizes.append(features.numel())
        return normalize(self, features)

    monkeypatch.setattr(SequenceClassifier, "normalize", counting)
    monkeypatch.setattr("pipeline.evaluation.scoring._MAX_NUMBERS", max_numbers)
    pieces = predict(model, TABLE, ClipSampling(), CLASSES, CPU, batch_size=4, orders=ORDERS)
    for order, predictions in orders.items():
        expected = predictions.video_probabilities
        np.testing.assert_allclose(pieces[order].video_probabilities, expected, atol=1e-5)
    assert max(sizes) <= max(max_numbers, 4 * TABLE.feature_dim)  # at least one frame of each of the 4 clips
    in_pieces = read_whole_videos(model, TABLE, CPU)
    for one, other in zip(in_pieces, whole, strict=True):
        for video_id, values in one.items():
            np.testing.assert_allclose(values, other[video_id], atol=1e-5)
    assert max(sizes) <= max(max_numbers, len(TABLE) * TABLE.feature_dim)


@every_network
def test_a_representation_is_what_the_linear_layers_read(name: ModelName, readout: Readout, num_layers: int) -> None:
    """The linear layers turn the representation of a whole video, whatever its length, into the video's scores."""
    model = trained_on_table(name, readout, num_layers)
    layers = [layer for layer in (model.skip, model.classifier) if layer is not None]
    weights = torch.cat([layer.weight for layer in layers], 1).detach()
    representations = read_whole_videos(model, TABLE, CPU).representations
    assert list(representations) == [record.video_id for record in TABLE.records]
    for video, read in enumerate(representations.values()):
        scores = (weights @ torch.from_numpy(read) + model.classifier.bias.detach()) / model.temperature
        torch.testing.assert_close(scores, model(TABLE.video(video).float()[:, None])[0].detach(), atol=1e-5, rtol=1e-5)


def test_probabilities_over_time_use_the_first_view(model: SequenceClassifier) -> None:
    """A mirrored view has no effect on the curve of a video."""
    views = [[TABLE.video(number).numpy() * sign for sign in (1, -1)] for number in range(len(TABLE))]
    both = read_whole_videos(model, make_table_of_views(views), CPU).probabilities
    first = read_whole_videos(model, make_table([video_views[0] for video_views in views]), CPU).probabilities
    assert both.keys() == first.keys()
    for video_id, expected in first.items():
        np.testing.assert_allclose(both[video_id], expected, atol=1e-6)
