"""Every notebook runs from top to bottom in a kernel of this interpreter, as a reader would run it."""

import sys
import warnings
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import AsyncKernelManager

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
FIGURES = {"01_ridge_path": 5, "02_ridge_head": 1}


class ThisInterpreter(AsyncKernelManager):
    """A kernel without an installed specification."""

    def format_kernel_cmd(self, extra_arguments=None):
        return [sys.executable, "-m", "ipykernel_launcher", "-f", self.connection_file]


def test_every_notebook_is_tested():
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == set(FIGURES)


@pytest.mark.parametrize("name", FIGURES)
def test_stored_without_outputs_and_ready_for_colab(name):
    cells = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert f"colab.research.google.com/github/jaxridge/jaxridge/blob/main/notebooks/{name}.ipynb" in cells[0].source
    assert "%pip install" in code[0].source


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", FIGURES)
def test_runs(name, tmp_path):
    """No cell fails, and every figure is there."""
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    client = NotebookClient(
        notebook, timeout=300, kernel_manager_class=ThisInterpreter, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == FIGURES[name]
