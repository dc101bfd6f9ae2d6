"""The notebooks, run by Jupyter's own client on tiny models and the real MiniLM."""

from __future__ import annotations

from pathlib import Path

import pytest

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")
# Warnings of Jupyter's own libraries.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "docs" / "notebooks").glob("*.ipynb")))
def test_a_notebook_runs(name: str, home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(home / "ipython"))
    notebook = nbformat.read(ROOT / "docs" / "notebooks" / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    # A checkout is importable as poolrt by its conftest, installed or not.
    notebook.cells.insert(0, nbformat.v4.new_code_cell("import conftest"))
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(home)}})
    client.execute()
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
