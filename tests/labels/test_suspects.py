"""pipeline/labels/suspects.py: which labels are probably wrong."""

import sys

import numpy as np
import pytest

from pipeline.labels.suspects import LabelsError, by_plausibility, find_suspects


def test_planted_labels_are_suspected_with_the_right_one() -> None:
    """Confident contradictions are found, in order, with the class that the video shows; a video that was not judged is
    no suspect, and a class without judged videos does no harm."""
    pytest.importorskip("cleanlab", reason="cleanlab is not installed (pip install -e '.[labels]')")
    rng = np.random.default_rng(0)
    shown = rng.choice([0, 1, 3], 120)  # class 2 has no video
    probabilities = np.array([0.06, 0.06, 0, 0.06]) * np.ones((120, 1))
    probabilities[np.arange(120), shown] = 0.88
    labels = shown.copy()
    planted = {5: 0.97, 50: 0.9, 90: 0.93}
    for video, certainty in planted.items():
        labels[video] = 3 if shown[video] != 3 else 0
        probabilities[video, [0, 1, 3]] = (1 - certainty) / 2
        probabilities[video, shown[video]] = certainty
    labels[7] = 2
    probabilities[7] = np.nan
    suspects = find_suspects(probabilities, labels)
    assert [suspect.video for suspect in suspects] == [5, 90, 50]
    assert all(suspect.suggested == shown[suspect.video] for suspect in suspects)
    assert [suspect.suggested_probability for suspect in suspects] == pytest.approx([0.97, 0.93, 0.9])
    assert by_plausibility(probabilities, labels)[:3].tolist() == [5, 90, 50]
    assert 7 not in by_plausibility(probabilities, labels)


def test_without_cleanlab_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is optional."""
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    with pytest.raises(LabelsError, match=r"pip install -e '\.\[labels\]'"):
        find_suspects(np.full((4, 2), 0.5), np.array([0, 1, 0, 1]))
