"""A stream of frames gives the same answers as the file that they are from, and keeps the tempo if frames are lost."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.video import Frame, read_frames
from models.classifier import SequenceClassifier
from models.cnn.preprocessing import CENTER, Preprocessing
from models.config import ModelConfig
from pipeline.features.encoders import Encoder
from pipeline.features.recipe import imported_recipe
from pipeline.features.sampling import FrameSampling
from pipeline.recognizer.head import ClassifierHead
from pipeline.recognizer.recognizer import Recognizer
from pipeline.recognizer.tempo import Filled, StreamError
from pipeline.training.clips import ClipSampling
from tests.helpers.clips import board_means, make_clip

FPS = 25  # of the clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.avi", num_frames=40)


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    """A network with random weights that reads every second frame, in clips of 8."""
    torch.manual_seed(0)
    model = SequenceClassifier(ModelConfig("np_rnn", hidden_size=8), feature_dim=16, num_classes=3).eval()
    model.set_feature_statistics(torch.full((16,), 16.0), torch.full((16,), 128.0), torch.full((16,), 16.0))
    assert model.skip is not None
    torch.nn.init.normal_(model.skip.weight)
    torch.nn.init.normal_(model.classifier.weight)
    return Recognizer(
        source=Path("run"),
        labels=("a", "b", "c"),
        sampling=FrameSampling.parse("every:2"),
        clips=ClipSampling(frames=8),
        views=(CENTER,),
        head=ClassifierHead(model),
        preprocessing=Preprocessing(16, 16, "bilinear", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        encoder=Encoder(board_means, 8, "numpy"),
        recipe=imported_recipe("board"),
    )


def frames_of(path: Path) -> list[Frame]:
    return [frame for _, frame in read_frames(path)]


@pytest.mark.parametrize(
    ("sampling", "stride", "read"),
    [
        ("every:2", 1, range(0, 40, 2)),
        ("every:2", 2, range(0, 40, 4)),
        ("fps:10", 1, [0, 3, 5, 8, 10, 13, 15, 18, 20, 23, 25, 28, 30, 33, 35, 38]),
        ("fps:30", 1, range(40)),  # more than the file has
    ],
)
@pytest.mark.parametrize("with_times", [False, True])
def test_pushed_frames_give_the_answers_of_the_file(
    recognizer: Recognizer, clip: Path, sampling: str, stride: int, read: Sequence[int], with_times: bool
) -> None:
    """Far beyond the horizon too, the answer after each frame that is read is the prediction's over time."""
    recognizer = replace(
        recognizer, sampling=FrameSampling.parse(sampling), clips=ClipSampling(frames=8, stride=stride)
    )
    prediction, stream = recognizer.predict(clip), recognizer.stream(FPS)
    times = [100 + index / FPS if with_times else None for index in range(40)]
    answers = [stream.push(frame, time) for frame, time in zip(frames_of(clip), times, strict=True)]
    assert prediction.times.tolist() == pytest.approx([index / FPS for index in read])
    np.testing.assert_allclose([answers[index] for index in read], prediction.over_time, atol=1e-5)
    for index in set(range(40)) - set(read):
        np.testing.assert_array_equal(answers[index], answers[index - 1])
    assert np.abs(np.diff(prediction.over_time, axis=0)).max() > 0.01


def test_a_prediction_is_the_mean_over_clips(recognizer: Recognizer, clip: Path) -> None:
    """The 20 frames that are read have 10 clips of 8 frames, each scored as the classifier scores it."""
    prediction = recognizer.predict(clip)
    features = recognizer.encode(frames_of(clip)[::2])
    starts = [number * 12 // 9 for number in range(10)]
    ends = []
    for start in starts:
        state = recognizer.head.initial_state(1)
        for row in features[start : start + 8]:
            probabilities, state = recognizer.head.step(row[None], state)
        ends.append(probabilities[0])
    expected = dict(zip(recognizer.labels, np.mean(ends, axis=0), strict=True))
    assert prediction.probabilities == pytest.approx(expected, abs=1e-5)
    assert list(prediction.probabilities) == sorted(expected, key=expected.__getitem__, reverse=True)
    assert prediction.label == next(iter(prediction.probabilities))


def test_lost_frames_are_filled_in(recognizer: Recognizer, clip: Path) -> None:
    """A frame that is lost is a gap in time: the network gets what lay between, and reads as many steps as before."""
    frames, stream = frames_of(clip), recognizer.stream(FPS)
    kept = [0, 1, 2, 9, 10]  # 4, 6 and 8 should have been read; 9 comes in the place of 8
    answers = [stream.push(frames[index], index / FPS) for index in kept]
    features = recognizer.encode([frames[0], frames[2], frames[9], frames[10]])
    rows = [*features[:2], (features[1] * 2 + features[2]) / 3, (features[1] + features[2] * 2) / 3, *features[2:]]
    state = recognizer.head.initial_state(1)
    for row in rows:
        expected, state = recognizer.head.step(row[None].astype(np.float32), state)
    np.testing.assert_allclose(answers[-1], expected[0], atol=1e-5)


def test_a_long_gap_is_not_filled_with_more_than_the_horizon() -> None:
    """A camera that was away for a day does not cost a day's work when it comes back."""
    filled = Filled(4)
    assert filled.rows(np.zeros(2, np.float32), 0).tolist() == [[0, 0]]
    assert filled.rows(np.ones(2, np.float32), 10**6).shape == (4, 2)


def test_a_reset_begins_a_new_stream(recognizer: Recognizer, clip: Path) -> None:
    """After a reset the answers are those of the first time, and times may begin anew."""
    stream = recognizer.stream(FPS)
    first = [stream.push(frame, index / FPS) for index, frame in enumerate(frames_of(clip))]
    stream.reset()
    again = [stream.push(frame, index / FPS) for index, frame in enumerate(frames_of(clip))]
    np.testing.assert_array_equal(again, first)


def test_what_has_no_tempo_is_refused(recognizer: Recognizer, tmp_path: Path) -> None:
    """Frames that are spread over a whole video can't be found in a stream; the error says how to train a run that can.

    A run's own settings are the beginning; an exported model has none.
    """
    (tmp_path / "config.yaml").touch()
    for source, like in ((tmp_path, f"--config {tmp_path}/config.yaml"), (Path("model.zip"), "--dataset DATASET")):
        with pytest.raises(StreamError, match=rf"uniform:25.*train.py {like} --sampling every:2"):
            replace(recognizer, source=source, sampling=FrameSampling.parse("uniform:25")).stream()


def test_the_horizon_is_bounded_by_the_training(recognizer: Recognizer) -> None:
    """A network never reads more steps than it was trained on; if that is not known, the horizon must be given."""
    with pytest.raises(StreamError, match=r"1 s is 12 frames.*clips of 8.*0.64 s"):
        recognizer.stream(FPS, horizon=1)
    with pytest.raises(StreamError, match="fps"):
        recognizer.stream(horizon=0.5)
    with pytest.raises(StreamError, match="less than two"):
        recognizer.stream(FPS, horizon=0.1)
    on_whole_videos = replace(recognizer, clips=ClipSampling())
    with pytest.raises(StreamError, match="whole videos.*horizon"):
        on_whole_videos.stream(FPS)
    on_whole_videos.stream(FPS, horizon=2)


def test_a_tempo_of_time_needs_the_time(recognizer: Recognizer, clip: Path) -> None:
    """Without times and a frame rate nobody knows which frames to read; times alone are enough."""
    frames, by_time = frames_of(clip), replace(recognizer, sampling=FrameSampling.parse("fps:10"))
    with pytest.raises(StreamError, match=r"push\(frame, time=SECONDS\)"):
        by_time.stream().push(frames[0])
    known, unknown = by_time.stream(FPS), by_time.stream()
    for index, frame in enumerate(frames):
        np.testing.assert_array_equal(unknown.push(frame, index / FPS), known.push(frame))


def test_times_must_not_go_back(recognizer: Recognizer, clip: Path) -> None:
    """Frames in a wrong order, or of another stream, are not taken for the next ones."""
    (frame, *_), stream = frames_of(clip), recognizer.stream(FPS)
    stream.push(frame, 7.0)
    stream.push(frame, 8.0)
    with pytest.raises(StreamError, match=r"reset\(\)"):
        stream.push(frame, 6.0)
