"""The pages of docs/ name modules that exist, and have every verb and record."""

import importlib
import pkgutil
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxridge as jxr

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
NAMED = {name for page in PAGES for name in re.findall(r"^::: (jaxridge[\w.]*)", page.read_text(), re.MULTILINE)}


def home(name):
    """Where a public object was written."""
    found = getattr(jxr, name)
    return getattr(found, "__module__", None) if not hasattr(found, "__path__") else None


def test_named_modules_exist():
    assert NAMED
    for name in NAMED:
        importlib.import_module(name)


@pytest.mark.parametrize("name", [name for name in jxr.__all__ if name != "RESULTS" and home(name)])
def test_the_reference_has(name):
    packages = {name for name in NAMED if hasattr(importlib.import_module(name), "__path__")}
    within = {
        f"{name}.{module.name}"
        for name in packages
        for module in pkgutil.iter_modules(importlib.import_module(name).__path__)
    }
    assert home(name) in NAMED | within


def test_every_page_is_in_the_navigation():
    listed = re.findall(r": ([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == [str(page.relative_to(ROOT / "docs")) for page in PAGES]


def test_the_page_on_jacobians_says_what_is_so():
    found = {}
    for code in re.findall(r"```python\n(.*?)```", (ROOT / "docs/jacobians.md").read_text(), re.DOTALL):
        exec(code, found)
        assert found["fit"].success
    chain = lambda x: found["chain"](x, None)  # noqa: E731
    x = jnp.linspace(0.5, 2.0, 7)
    np.testing.assert_array_equal(found["banded"](0, 1)(chain)(x), jax.jacfwd(chain)(x))
