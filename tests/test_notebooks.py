"""Every notebook is stored without outputs, opens in Colab, and runs from a clean kernel, here the quickest."""

import sys
from pathlib import Path

import nbclient
import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from traitlets import default

ROOT = Path(__file__).parents[1]
FIGURES = {
    "01_ridge_path": 6,
    "02_ridge_head": 1,
    "03_curve_fitting": 3,
    "04_kernels_and_runge": 2,
    "05_inverse_problems": 4,
    "06_weight_decay": 2,
    "07_best_decay": 1,
    "08_synapse_that_forgets": 3,
    "09_few_shot_heads": 1,
    "10_margins_and_losses": 3,
    "11_sphere_and_diamond": 2,
    "12_bias_variance_prior": 2,
    "13_collinear_sensors": 2,
    "14_a_lam_for_every_band": 1,
}
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
QUICK = ("02_ridge_head",)  # `make notebooks` runs them all
MOST_LINES = 110
COLAB = "https://colab.research.google.com/github/jaxridge/jaxridge/blob/main/notebooks"
INSTALL = """try:
    import jaxridge
except ImportError:
    %pip install -q "jaxridge[plot,sklearn] @ git+https://github.com/jaxridge/jaxridge\""""

every_notebook = pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)


class ThisInterpreter(KernelSpecManager):
    """The kernel runs in the interpreter of the tests, whatever kernels are installed."""

    def get_kernel_spec(self, kernel_name):
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name=kernel_name, language="python")


class Manager(AsyncKernelManager):
    """A kernel manager that nbclient makes, and so shuts down."""

    @default("kernel_spec_manager")
    def _this_interpreter(self):
        return ThisInterpreter(parent=self)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_all_are_here():
    assert [file.stem for file in NOTEBOOKS] == sorted(FIGURES)


@every_notebook
def test_stored_form(file):
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    first, cells = notebook.cells[0], code(notebook)
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    assert f"({COLAB}/{file.name})" in first.source
    assert cells[0].source == INSTALL
    assert 'jax.config.update("jax_enable_x64", True)' in cells[1].source
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)
    assert sum(bool(line.strip()) for cell in cells for line in cell.source.splitlines()) < MOST_LINES


@every_notebook
def test_runs(file, tmp_path, monkeypatch, request):
    if file.stem not in QUICK and not request.config.getoption("--whole"):
        pytest.skip("run by `make notebooks`")
    if request.config.getoption("--whole"):
        monkeypatch.delenv("XLA_FLAGS")  # the suite compiles quickly and computes slowly; a reader does not
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    notebook = nbformat.read(file, as_version=4)
    place = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, kernel_manager_class=Manager, timeout=180, resources=place).execute()
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    assert not [output.text for output in outputs if output.get("name") == "stderr"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= FIGURES[file.stem]
