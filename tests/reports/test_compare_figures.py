"""pipeline/reports/compare_figures.py: the figures of a comparison."""

from pipeline.evaluation.comparison import PairedDifference, RecallDifference
from pipeline.reports.compare_figures import difference_figure, recall_difference_figure
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
