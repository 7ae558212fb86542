"""pipeline/verdict.py: what is said in plain words follows from the numbers."""

from pipeline.evaluation.predictions import Predictions
from pipeline.reports.verdict import verdict
from tests.evaluation.test_metrics import predictions_of


def answers(pairs: list[tuple[int, int | None]], confidence: float = 0.9) -> Predictions:
    """One video for each (true class, answer) of four classes; an answer of ``None`` is a missing video."""
    rest = (1 - confidence) / 3
    clips = [
        (video, [confidence if place == said else rest for place in range(4)])
        for video, (_, said) in enumerate(pairs)
        if said is not None
    ]
    return predictions_of([true for true, _ in pairs], clips, num_classes=4)


MOSTLY_RIGHT: list[tuple[int, int | None]] = [(label, label) for label in range(4) for _ in range(20)]


def test_no_mistake_is_not_called_perfect() -> None:
    """Where all is right the text says what the true accuracy may still be, and what to do next."""
    text = verdict(answers(MOSTLY_RIGHT))
    assert "no mistake" in text
    assert "down to 95.4 %" in text  # Wilson's lower bound of 80 of 80


def test_the_worst_pair_is_named_with_its_way_back() -> None:
    """The pair with the most videos is named with counts of both directions, and as the place to begin."""
    text = verdict(answers([*MOSTLY_RIGHT, (0, 1), (0, 1), (0, 1), (1, 0), (2, 3)]))
    assert "“a” is taken for “b” 3 times, 13.0 % of that class (and the other way round once)" in text
    assert "80.0 % of all mistakes" in text


def test_scattered_mistakes_are_called_so() -> None:
    """No class is accused where every confusion happened once."""
    text = verdict(answers([*MOSTLY_RIGHT, (0, 1), (2, 3)]))
    assert "No two classes stand out" in text


def test_missing_videos_come_first() -> None:
    """Where half of the mistakes are videos that could not be read, getting these is the advice."""
    text = verdict(answers([*MOSTLY_RIGHT, (0, None), (1, None), (0, 1)]))
    assert "First get the 2 videos that could not be read: they are 66.7 % of all mistakes" in text
    assert "digits" in verdict(answers([*MOSTLY_RIGHT, (0, None)]), unit="digit")


def test_a_gap_to_the_training_videos_is_overfitting_and_no_gap_is_not() -> None:
    """The advice goes by the last training accuracy that is known: far above the test's, far below one, or neither."""
    half: list[tuple[int, int | None]] = [
        *((label, label) for label in range(4) for _ in range(10)),
        *((label, (label + step) % 4) for label in range(4) for step in (1, 2, 3) for _ in range(3)),
    ]
    learnt: list[dict[str, object]] = [{"train_accuracy": 0.99}, {"train_accuracy": None}]
    assert "dropout or weight decay" in verdict(answers(half), learnt)
    assert "only 55.0 % of what it was trained on" in verdict(answers(half), [{"train_accuracy": 0.55}])
    assert "surer than it should be (mean confidence 90.0 %)" in verdict(answers(half))
    assert "confident mistakes" in verdict(answers(half, confidence=0.55))


def test_guessing_is_called_guessing() -> None:
    """A model that can't be told apart from always naming the most frequent class is said to be so."""
    text = verdict(answers([(0, 0)] * 12 + [(1, 0)] * 6))
    assert "can't be told apart from guessing: to answer “a” for every video would be right for 66.7 %" in text
    assert "guessing" not in verdict(answers([*MOSTLY_RIGHT, (0, 1)]))
