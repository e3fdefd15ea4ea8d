"""Linear maps of an inverse problem as functions of flat vectors."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxridge.core.checks import as_floats
from jaxridge.core.numbers import matmul
from jaxridge.core.parts import Parts
from jaxridge.core.types import Array, Float


class Layout(eqx.Module):
    """How the arrays on one side of a map lie in a flat vector."""

    structure: Any = eqx.field(static=True)  # of jax.ShapeDtypeStruct

    @classmethod
    def of(cls, structure: Any) -> "Layout":
        leaves, tree = jax.tree.flatten(structure)
        return cls((tuple((leaf.shape, jnp.dtype(leaf.dtype).name) for leaf in leaves), tree))

    @property
    def tree(self) -> Any:
        leaves, tree = self.structure
        return jax.tree.unflatten(tree, [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in leaves])

    @property
    def size(self) -> int:
        return sum(int(np.prod(shape)) for shape, _ in self.structure[0])

    @property
    def dtype(self) -> Any:
        return jnp.result_type(*(dtype for _, dtype in self.structure[0]))

    def flat(self, x: Any) -> Float[Array, " n"]:
        return ravel_pytree(x)[0]

    def shaped(self, x: Float[Array, " n"]) -> Any:
        """Arrays in the structure of this side."""
        leaves, tree = self.structure
        ends = np.cumsum([int(np.prod(shape)) for shape, _ in leaves])
        parts = jnp.split(x, ends[:-1])
        return jax.tree.unflatten(tree, [part.reshape(shape) for part, (shape, _) in zip(parts, leaves, strict=True)])


class Map(eqx.Module):
    """x (n,) ↦ Ax (m,), and its adjoint; ``operator`` is a matrix or a lineax operator."""

    held: Parts
    inputs: Layout
    outputs: Layout

    @classmethod
    def of(cls, name: str, A: Any) -> "Map":
        """Take a matrix or an operator, or say what to pass instead."""
        if isinstance(A, lx.MatrixLinearOperator):
            A = A.matrix
        if isinstance(A, lx.AbstractLinearOperator):
            inputs, outputs = Layout.of(A.in_structure()), Layout.of(A.out_structure())
            for side, layout in (("input", inputs), ("output", outputs)):
                if not layout.structure[0]:
                    raise ValueError(f"{name} has an empty {side}; at least one number is needed.")
                if not jnp.issubdtype(layout.dtype, jnp.floating):
                    raise ValueError(
                        f"{name} has an {side} of {layout.dtype}; only real floating operators are taken. For a "
                        "complex one let x be the pair (real, imaginary) and return that pair."
                    )
            return cls(Parts(A), inputs, outputs)
        if callable(A) and not hasattr(A, "shape"):
            raise ValueError(f"{name} is a function; say which x it takes: {name}=operators.function(fn, shape_of_x).")
        A = as_floats(name, A, (2,))
        if 0 in A.shape:
            raise ValueError(f"{name} has shape {A.shape}; at least one row and one column are needed.")
        m, n = A.shape
        return cls(Parts(A), *(Layout.of(jax.ShapeDtypeStruct((size,), A.dtype)) for size in (n, m)))

    @property
    def operator(self) -> Any:
        return self.held.whole

    @property
    def is_matrix(self) -> bool:
        return not isinstance(self.operator, lx.AbstractLinearOperator)

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        return self.outputs.size, self.inputs.size

    def astype(self, dtype: Any) -> "Map":
        """A matrix in another dtype."""
        return Map.of("", self.operator.astype(dtype)) if self.is_matrix else self

    def __call__(self, x: Float[Array, " n"]) -> Float[Array, " m"]:
        if self.is_matrix:
            return matmul(self.operator, x)
        return self.outputs.flat(self.operator.mv(self.inputs.shaped(x)))

    def adjoint(self, y: Float[Array, " m"]) -> Float[Array, " n"]:
        if self.is_matrix:
            return matmul(self.operator.T, y)
        return self.inputs.flat(self.operator.transpose().mv(self.outputs.shaped(y)))

    def matrix(self) -> Float[Array, "m n"]:
        """All of A."""
        return self.operator if self.is_matrix else columns(self, jnp.eye(self.shape[1], dtype=self.inputs.dtype))


def columns(fn: Callable[[Array], Array], X: Float[Array, "n c"]) -> Float[Array, "m c"]:
    """``fn`` of every column."""
    return jax.vmap(fn, in_axes=1, out_axes=1)(X)
