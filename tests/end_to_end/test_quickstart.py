"""The notebook docs/quickstart.ipynb runs from its first cell to its last."""

import os
from pathlib import Path

import pytest

from tests.helpers import REPOSITORY

NOTEBOOK = REPOSITORY / "docs" / "quickstart.ipynb"
nbformat = pytest.importorskip("nbformat", reason="no nbformat: install the dev extra")


def test_the_notebook_is_kept_without_outputs() -> None:
    """Pictures and a report in the repository's history would grow it with every change."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert NOTEBOOK.stat().st_size < 20_000
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell runs without an error, and the page shows its pictures, its report and a prediction."""
    nbclient = pytest.importorskip("nbclient", reason="no nbclient: install the dev extra")
    pytest.importorskip("ipykernel", reason="no ipykernel: install the dev extra")
    monkeypatch.setenv("PYTHONPATH", f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    shown = [output.data for output in outputs if output.output_type in ("display_data", "execute_result")]
    assert sum("image/png" in data for data in shown) == 2
    assert any("<iframe srcdoc=" in data.get("text/html", "") for data in shown)
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "is recognised as" in printed and "1.6 s: " in printed
    assert {path.name for path in tmp_path.iterdir()} == {"quickstart"}
