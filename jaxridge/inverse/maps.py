"""Linear maps of an inverse problem as functions of flat vectors, and the seminorm ‖Lx‖ with its pseudo-inverse.

With W an orthonormal basis of the null space of L, every x is L⁺u + Wc, and ‖Lx‖ = ‖u‖ for the u of least norm. So
min ‖Ax − b‖² + λ‖Lx‖² is ridge regression on AL⁺ with the columns AW unpenalised, which is Eldén's standard form.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jax.flatten_util import ravel_pytree

from jaxridge.core.implicit import moves
from jaxridge.core.numbers import matmul
from jaxridge.core.types import Array, Float
from jaxridge.linear.design import as_floats


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

    operator: Any
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
            return cls(A, inputs, outputs)
        if callable(A) and not hasattr(A, "shape"):
            raise ValueError(f"{name} is a function; say which x it takes: {name}=operators.function(fn, shape_of_x).")
        A = as_floats(name, A, (2,))
        if 0 in A.shape:
            raise ValueError(f"{name} has shape {A.shape}; at least one row and one column are needed.")
        m, n = A.shape
        return cls(A, *(Layout.of(jax.ShapeDtypeStruct((size,), A.dtype)) for size in (n, m)))

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


class Seminorm(eqx.Module):
    """‖Lx‖: L itself, L⁺ with its transpose, and the null space W (n × q). ``L`` is None for the plain norm."""

    L: Map | None
    inverse: Any  # None, a matrix K (n × r) with ‖LKu‖ = ‖u‖, or an operator with ``pinv``
    null: Float[Array, "n q"]
    size: int = eqx.field(static=True)  # of u

    @classmethod
    def of(cls, L: Float[Array, "p n"], nullity: int | None) -> "Seminorm":
        """From a matrix, by its SVD."""
        K, W = split(L, nullity_of(L) if nullity is None else nullity)
        return cls(Map.of("L", L), K, W, K.shape[1])

    @classmethod
    def bare(cls, L: Map) -> "Seminorm":
        """L alone, for solvers that need neither its pseudo-inverse nor its null space."""
        return cls(L, None, jnp.zeros((L.shape[1], 0), L.inputs.dtype), 0)

    def apply(self, x: Float[Array, " n"]) -> Float[Array, " p"]:
        """Lx."""
        return x if self.L is None else self.L(x)

    def normal(self, x: Float[Array, " n"]) -> Float[Array, " n"]:
        """LᵀLx."""
        return x if self.L is None else self.L.adjoint(self.L(x))

    def times(self, u: Float[Array, " r"]) -> Float[Array, " n"]:
        """L⁺u."""
        if self.L is None:
            return u
        if eqx.is_array(self.inverse):
            return matmul(self.inverse, u)
        return self.L.inputs.flat(self.inverse.pinv(self.L.outputs.shaped(u)))

    def adjoint(self, x: Float[Array, " n"]) -> Float[Array, " r"]:
        """(L⁺)ᵀx."""
        if self.L is None:
            return x
        if eqx.is_array(self.inverse):
            return matmul(self.inverse.T, x)
        return jax.linear_transpose(self.times, jax.ShapeDtypeStruct((self.size,), x.dtype))(x)[0]


def seminorm(L: Any, n: int, dtype: Any, nullity: int | None) -> Seminorm | None:
    """Of a matrix, of an operator that brings ``pinv`` and ``null``, or None: L has no pseudo-inverse."""
    if L is None:
        if nullity:
            raise ValueError(f"nullity is {nullity} but L is None, the identity, whose null space is empty.")
        return Seminorm(None, None, jnp.zeros((n, 0), dtype), n)
    given = Map.of("L", L)
    if given.shape[1] != n:
        raise ValueError(f"L takes x of {given.shape[1]} numbers and A of {n}; both act on the same x.")
    given = given.astype(dtype)
    if hasattr(L, "pinv") and hasattr(L, "null"):
        return Seminorm(given, L, L.null.reshape(L.null.shape[0], n).T.astype(dtype), given.shape[0])
    if not given.is_matrix:
        return None
    return Seminorm.of(given.operator, nullity)


def nullity_of(L: Any) -> int:
    """n − rank of a matrix whose numbers are known, with NumPy's cut-off."""
    if isinstance(L, Tracer):
        raise ValueError(
            "L is traced, so that the dimension of its null space is not known; pass nullity=, for example 1 for a "
            "first difference and 2 for a second one."
        )
    known = np.asarray(L, np.float64)
    return L.shape[1] - int(np.linalg.matrix_rank(known)) if np.all(np.isfinite(known)) else 0


def split(L: Float[Array, "p n"], nullity: int) -> tuple[Float[Array, "n r"], Float[Array, "n q"]]:
    """K and W with LW = 0, WᵀW = I and KᵀLᵀLK = I, by one SVD; r = n − q is the rank.

    Derivatives, to every order while the rank stays, are those of one way to move both along with L, which is all
    that a minimiser over Ku + Wc can see:  dW = −K(LK)ᵀ dL W,  dK = −½ K((LK)ᵀ dL K + (dL K)ᵀ LK).
    """
    p, n = L.shape
    rank = n - nullity
    if not 0 <= nullity <= n or rank > p:
        raise ValueError(
            f"nullity is {nullity}; for L of shape {L.shape} it lies between {max(0, n - p)} and {n}, the columns "
            "without a penalty."
        )

    @jax.custom_jvp
    def decomposed(L: Array) -> tuple[Array, Array]:
        # LAPACK's SVD never returns when an entry is infinite.
        guarded = jnp.where(jnp.all(jnp.isfinite(L)), L, jnp.nan)
        _, s, Vt = jnp.linalg.svd(guarded, full_matrices=True)
        return Vt[:rank].T / s[None, :rank], Vt[rank:].T

    def rule(primals: Any, tangents: Any) -> tuple[Any, Any]:
        (L,), (dL,) = primals, tangents
        K, W = decomposed(L)
        if not moves(dL):
            return (K, W), (jnp.zeros_like(K), jnp.zeros_like(W))
        LK, dLK = matmul(L, K), matmul(dL, K)
        half = matmul(LK.T, dLK)
        return (K, W), (-0.5 * matmul(K, half + half.T), -matmul(K, matmul(LK.T, matmul(dL, W))))

    decomposed.defjvp(rule, symbolic_zeros=True)
    return decomposed(L)
