"""Imports point up the list of layers in one direction, and optional packages stay at the edges."""

import ast
import subprocess
import sys
from pathlib import Path

import jaxridge

PACKAGE = Path(jaxridge.__file__).parent

# From the words to the edges: a module may import from those before it only.
LAYERS = (
    "_types",
    "_numerics",
    "_result",
    "_implicit",
    "_rows",
    "_secular",
    "losses",
    "_steps",
    "plan",
    "_operator",
    "_blur",
    "_difference",
    "_rays",
    "operators",
    "design",
    "kernels",
    "_factor",
    "_live",
    "_cholesky",
    "_kernel_product",
    "krylov",
    "_kernel_form",
    "_kernel_factor",
    "_kernel",
    "_diagonal",
    "spectrum",
    "_maps",
    "golub_kahan",
    "_projected",
    "stream",
    "features",
    "_large",
    "_norm",
    "_rules",
    "_folds",
    "_kernel_folds",
    "select",
    "ridge",
    "kernel_ridge",
    "trust_region",
    "_objective",
    "_loop",
    "_flat",
    "nonlinear",
    "_batch",
    "uncertainty",
    "_tikhonov",
    "_analysis",
    "inverse",
    "testproblems",
    "__init__",
    "plot",
    "_table",
    "__main__",
)
EDGES = {"plot", "_table", "__main__"}
CORE_DEPENDENCIES = {"jax", "jaxlib", "equinox", "lineax", "jaxtyping", "optax", "numpy", "jaxridge"}


def imports(path: Path) -> set[str]:
    """Dotted names of everything that a module imports, at any depth."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


def internal(path: Path) -> set[str]:
    """Modules of the package that a module imports."""
    found = set()
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "jaxridge" and len(parts) > 1 and (PACKAGE / f"{parts[1]}.py").exists():
            found.add(parts[1])
    return found


def test_every_module_has_a_layer():
    assert {path.stem for path in PACKAGE.glob("*.py")} == set(LAYERS)


def test_imports_point_one_way():
    for path in PACKAGE.glob("*.py"):
        below = set(LAYERS[: LAYERS.index(path.stem)])
        assert internal(path) <= below, f"{path.stem} imports {internal(path) - below}"


def test_only_edges_import_optional_packages():
    for path in PACKAGE.glob("*.py"):
        if path.stem in EDGES:
            continue
        outside = {name.split(".")[0] for name in imports(path)} - CORE_DEPENDENCIES - set(sys.stdlib_module_names)
        assert not outside, f"{path.stem} imports {outside}"


def test_import_leaves_x64_alone_and_loads_no_optional_package():
    code = (
        "import sys, jax, jaxridge; "
        "assert not jax.config.jax_enable_x64; "
        "assert not {'matplotlib', 'typer', 'rich', 'pyarrow', 'sklearn', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names_are_documented():
    for name in jaxridge.__all__:
        assert getattr(jaxridge, name).__doc__, name
