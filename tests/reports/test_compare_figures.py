"""pipeline/reports/compare_figures.py: the figures of a comparison."""

from pipeline.evaluation.comparison import PairedDifference, RecallDifference
from pipeline.reports.compare_figures import difference_figure, recall_difference_figure, runs_curves
from tests.reports.test_figures import picture


def test_a_figure_with_a_row_per_name_has_a_limit() -> None:
    """3,000 classes or pairs don't exceed the largest picture; the table still contains all of them."""
    recalls = [RecallDifference(f"class {number}", 0.5, 1.0, 2) for number in range(3000)]
    names = [("a", "b")] * 3000
    for figure in (
        recall_difference_figure("recalls", "a", "b", recalls),
        difference_figure(names, [PairedDifference(0.1, 0.0, 0.2, 10)] * 3000),
    ):
        assert picture(figure.png).height < 5000
        assert len(figure.rows) == 3001


def test_curves_of_several_runs_are_in_one_figure() -> None:
    """Every epoch of every run is in the table, gaps included; a single run has a figure of its own elsewhere."""
    rows = [{"epoch": epoch, "validation_loss": 1 / (1 + epoch), "validation_accuracy": 0.5} for epoch in range(4)]
    histories = {"a": rows, "b": [*rows[:2], {"epoch": 2, "validation_loss": None}], "bundle": []}
    figure = runs_curves(histories, {"a": "np_rnn", "b": "gru", "bundle": "gru"})
    assert figure is not None and picture(figure.png).width > 500
    assert len(figure.rows) == 1 + 4 + 3 and figure.rows[-1] == ("b", "gru", 2, None, None)
    assert runs_curves({"a": rows, "bundle": []}, {"a": "np_rnn", "bundle": "gru"}) is None
