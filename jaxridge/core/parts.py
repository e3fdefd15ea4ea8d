"""Trees that hold functions beside arrays, as trees of arrays alone."""

from typing import Any

import equinox as eqx
import jax
import numpy as np

from jaxridge.core.report import brief

__all__ = ["Function", "Parts"]


class Parts(eqx.Module):
    """Any tree as its arrays, and the rest of it, functions above all, as a static field.

    So that records of it go through jit and vmap, and come out of them.
    """

    arrays: Any
    rest: Any = eqx.field(static=True)

    def __init__(self, tree: Any):
        self.arrays, rest = eqx.partition(tree, _is_array)
        leaves, structure = jax.tree.flatten(rest)
        self.rest = tuple(leaves), structure

    @property
    def whole(self) -> Any:
        """The tree itself."""
        leaves, structure = self.rest
        return eqx.combine(self.arrays, jax.tree.unflatten(structure, leaves))


def _is_array(leaf: Any) -> bool:
    return eqx.is_array(leaf) or isinstance(leaf, np.ndarray | np.generic)


class Function(Parts):
    """A function, or a module that is called, in parts."""

    def __init__(self, fn: Any):
        super().__init__(fn)

    def __call__(self, *args: Any) -> Any:
        return self.whole(*args)

    def __str__(self) -> str:
        return getattr(self.whole, "__name__", brief(self.whole))

    @staticmethod
    def of(fn: Any) -> Any:
        """A tree of arrays alone stays as it is."""
        return fn if all(map(eqx.is_array_like, jax.tree.leaves(fn))) else Function(fn)
