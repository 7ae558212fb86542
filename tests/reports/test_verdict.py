"""pipeline/reports/verdict.py: the summary follows from the numbers."""

import pytest

from pipeline.evaluation.comparison import PairedDifference
from pipeline.evaluation.predictions import Predictions
from pipeline.reports.verdict import baseline_sentence, calibration_sentence, order_sentence, verdict
from tests.evaluation.test_metrics import predictions_of


def answers(pairs: list[tuple[int, int | None]], confidence: float = 0.9) -> Predictions:
    """One video for each (true class, predicted class) of four classes; a prediction of ``None`` is a missing video."""
    rest = (1 - confidence) / 3
    clips = [
        (video, [confidence if label == predicted else rest for label in range(4)])
        for video, (_, predicted) in enumerate(pairs)
        if predicted is not None
    ]
    return predictions_of([true for true, _ in pairs], clips, num_classes=4)


MOSTLY_RIGHT: list[tuple[int, int | None]] = [(label, label) for label in range(4) for _ in range(20)]


def test_no_mistakes_are_not_called_perfect() -> None:
    """Without mistakes the text says how low the true accuracy may still be, and what to do next."""
    text = verdict(answers(MOSTLY_RIGHT))
    assert "no mistakes" in text
    assert "as low as 95.4 %" in text  # Wilson's lower bound of 80 of 80


def test_the_worst_pair_is_named_in_both_directions() -> None:
    """The most confused pair is named with the counts of both directions, and as the place to start."""
    text = verdict(answers([*MOSTLY_RIGHT, (0, 1), (0, 1), (0, 1), (1, 0), (2, 3)]))
    assert "3 videos of “a” (13.0 % of that class) were classified as “b”. 1 video went the other way." in text
    assert "80.0 % of all mistakes" in text


def test_of_two_classes_no_pair_is_accused() -> None:
    """All mistakes are between the two, so that says nothing."""
    clips = [(video, [0.9, 0.1] if video < 10 else [0.1, 0.9]) for video in range(20)]
    text = verdict(predictions_of([0] * 6 + [1] * 14, clips, num_classes=2))
    assert "of all mistakes" not in text and "4 videos of “b”" in text


def test_scattered_mistakes_accuse_no_class() -> None:
    """No pair of classes is named where every confusion occurred once."""
    text = verdict(answers([*MOSTLY_RIGHT, (0, 1), (2, 3)]))
    assert "No two classes stand out" in text


def test_missing_videos_come_first() -> None:
    """If half of the mistakes are videos that could not be read, the advice is to fix these."""
    text = verdict(answers([*MOSTLY_RIGHT, (0, None), (1, None), (0, 1)]))
    assert "First fix the 2 videos that could not be read: 66.7 % of all mistakes" in text
    assert "1 digit that" in verdict(answers([*MOSTLY_RIGHT, (0, None)]), unit="digit")


def test_overfitting_and_underfitting_are_recognised() -> None:
    """The advice depends on the last known training accuracy: far above the test accuracy, far below 1, or neither."""
    half: list[tuple[int, int | None]] = [
        *((label, label) for label in range(4) for _ in range(10)),
        *((label, (label + step) % 4) for label in range(4) for step in (1, 2, 3) for _ in range(3)),
    ]
    history: list[dict[str, object]] = [{"train_accuracy": 0.99}, {"train_accuracy": None}]
    assert "dropout or weight decay" in verdict(answers(half), history)
    assert "training accuracy is only 55.0 %, so it underfits" in verdict(answers(half), [{"train_accuracy": 0.55}])
    assert "confident mistakes" in verdict(answers(half))


def test_probabilities_are_called_what_they_are() -> None:
    """The sentence follows from confidence, accuracy and the calibration error; without answers there is none."""
    half: list[tuple[int, int | None]] = [(n, (n + wrong) % 4) for n in range(4) for wrong in (0, 1) for _ in range(9)]
    text = calibration_sentence(answers(half, confidence=0.9), 0.4)
    assert text is not None
    assert "mean confidence 90.0 %, correct 50.0 %, expected calibration error 40.0 %: it is overconfident" in text
    assert "not confident enough" in str(calibration_sentence(answers(half, confidence=0.3), 0.2))
    assert "taken at face value" in str(calibration_sentence(answers(half, confidence=0.5), 0.01))
    assert "too high for some answers" in str(calibration_sentence(answers(half, confidence=0.5), 0.3))
    assert calibration_sentence(answers(half), None) is None


@pytest.mark.parametrize(
    ("low", "high", "text"), [(0.01, 0.2, "is better"), (-0.2, -0.01, "is worse"), (-0.1, 0.2, "not significantly")]
)
def test_the_baseline_is_judged_by_the_interval(low: float, high: float, text: str) -> None:
    """A difference whose interval includes 0 is not called better or worse."""
    sentence = baseline_sentence("mean", PairedDifference((low + high) / 2, low, high, 50), "digit")
    assert text in sentence and "mean on the same digits" in sentence


def test_a_model_at_chance_level_is_named() -> None:
    """A model that is not significantly better than always predicting the largest class is called that."""
    text = verdict(answers([(0, 0)] * 12 + [(1, 0)] * 6))
    assert (
        "not significantly better than guessing: always answering “a” would be correct for 66.7 % of the videos" in text
    )
    assert "guessing" not in verdict(answers([*MOSTLY_RIGHT, (0, 1)]))


@pytest.mark.parametrize(
    ("drop", "interval", "cost", "conclusion"),
    [
        (0.479, [0.401, 0.553], "costs 47.9 points [40.1, 55.3]: ", "uses their order"),
        (0.003, [-0.01, 0.016], "costs 0.3 points [−1.0, 1.6]: ", "hardly uses their order"),
        (0.01, [0.002, 0.018], "costs 1.0 points", "hardly uses their order"),
        (-0.06, [-0.1, -0.02], "costs −6.0 points", "uses their order"),
        (0.05, [-0.05, 0.15], "costs 5.0 points", "too few videos to tell"),
    ],
)
def test_the_use_of_order_follows_from_the_interval(
    drop: float, interval: list[float], cost: str, conclusion: str
) -> None:
    """A clear drop shows that order is used, a narrow interval around 0 that it hardly is, a wide one shows nothing."""
    sentence = order_sentence({"video_top1": 0.5, "drop": drop, "interval": interval})
    assert cost in sentence
    assert conclusion in sentence
    assert ("hardly" in sentence) == ("hardly" in conclusion)
