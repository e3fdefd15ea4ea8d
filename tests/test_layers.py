"""Folders import from those before them only, without cycles inside, and optional packages stay at the edges."""

import ast
import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import jaxridge

PACKAGE = Path(jaxridge.__file__).parent

# From the ground to the edges: a folder may import from those before it and from itself.
ORDER = (
    "core",
    "linalg",
    "operators",
    "kernels",
    "optimize",
    "select",
    "linear",
    "kernel_methods",
    "inverse",
    "training",
    "__init__",
    "plot_axis",
    "plot",
    "plot_shapes",
    "plot_bayes",
    "distributed",
    "cli",
    "__main__",
)
EDGES = {"plot", "plot_axis", "plot_shapes", "plot_bayes", "distributed", "cli", "__main__"}
CORE_DEPENDENCIES = {"jax", "jaxlib", "equinox", "lineax", "jaxtyping", "optax", "numpy", "jaxridge"}


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def dotted(path: Path) -> str:
    """The name under which a file is imported."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


def folder(name: str) -> str:
    """The folder, or the edge, of a dotted name."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports(path: Path) -> set[str]:
    """Dotted names of everything that a module imports, at any depth."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


KNOWN = {dotted(path): path for path in modules()}


def internal(path: Path) -> set[str]:
    """Modules of the package that a module imports, each by its full name."""
    parents = {name: name.rpartition(".")[0] for name in imports(path)}
    return {name if name in KNOWN else parents[name] for name in parents if {name, parents[name]} & set(KNOWN)}


def test_every_file_lies_in_a_folder():
    assert {folder(name) for name in KNOWN} == set(ORDER)


@pytest.mark.parametrize("wing", ORDER)
def test_imports_point_one_way(wing):
    allowed = set(ORDER[: ORDER.index(wing) + 1])
    for name, path in KNOWN.items():
        if folder(name) == wing:
            above = {(wing, folder(other)) for other in internal(path) if folder(other) not in allowed}
            assert not above, f"{name} imports from {above}"


def test_no_cycles():
    inside = {name: internal(path) for name, path in KNOWN.items()}
    done, ahead = set(), set()

    def visit(name):
        assert name not in ahead, f"{name} is in a cycle of imports among {sorted(ahead)}"
        if name not in done:
            ahead.add(name)
            for other in inside[name]:
                visit(other)
            ahead.discard(name)
            done.add(name)

    for name in KNOWN:
        visit(name)


def test_only_edges_import_optional_packages():
    for name, path in KNOWN.items():
        if folder(name) in EDGES:
            continue
        outside = {name.split(".")[0] for name in imports(path)} - CORE_DEPENDENCIES - set(sys.stdlib_module_names)
        assert not outside, f"{name} imports {outside}"


def test_import_leaves_x64_alone_and_loads_no_optional_package():
    code = (
        "import sys, jax, jaxridge; "
        "assert not jax.config.jax_enable_x64; "
        "assert not {'matplotlib', 'typer', 'rich', 'pyarrow', 'sklearn', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names_are_documented_and_no_modules():
    """No verb or record has the name of a module directly under the package."""
    for name in jaxridge.__all__:
        assert getattr(jaxridge, name).__doc__, name
        assert importlib.util.find_spec(f"jaxridge.{name}") is None, name


@pytest.mark.parametrize("wing", [name for name in ORDER if (PACKAGE / name).is_dir() and name not in EDGES])
def test_every_wing_says_what_is_public(wing):
    package = importlib.import_module(f"jaxridge.{wing}")
    assert package.__doc__
    if wing != "core":
        assert all(getattr(package, name).__doc__ for name in package.__all__)


PUBLIC = (
    "core.plan",
    "kernels.features",
    "linalg.conjugate_gradients",
    "linalg.golub_kahan",
    "linalg.mesh",
    "linear.design",
    "linear.margins",
    "linear.spectrum",
    "linear.stream",
    "optimize.losses",
    "inverse.testproblems",
    "plot_axis",
    "plot",
    "plot_bayes",
    "plot_shapes",
)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_module_says_what_is_public(name):
    module = importlib.import_module(f"jaxridge.{name}")
    assert set(module.__all__) <= set(vars(module))
    named = [getattr(module, one) for one in module.__all__]
    assert all(value.__doc__ for value in named if inspect.isclass(value) or inspect.isroutine(value))
