"""A Tikhonov problem as users have it, checked, and the solver that suits what A and L are."""

from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

from jaxridge import operators
from jaxridge.core.checks import as_floats, of_known_shape
from jaxridge.core.factored import Solver, Terms, as_solver
from jaxridge.core.numbers import matmul
from jaxridge.core.types import Array, Float
from jaxridge.inverse.fit import TikhonovProblem
from jaxridge.inverse.maps import Layout, Map, columns
from jaxridge.inverse.seminorm import Seminorm, seminorm
from jaxridge.inverse.solvers import Diagonal, Direct, GolubKahan, PerLam


class Options(TypedDict, total=False):
    """Keywords that every verb takes, with their defaults.

    L: what is kept small: None (the identity), a matrix (p, n), ``operators.difference(...)``, or any operator.
    nullity: dimension of the null space of a matrix L; needed under jit or grad in L only, inferred otherwise.
    x_ref: x₀, like x (0).
    weights: like b, precisions >= 0, for noise of unequal variance (all ones).
    whiten: S with noise of covariance (SᵀS)⁻¹, matrix or operator on b, for correlated noise (the identity).
    solver: `Direct`, `Diagonal`, `GolubKahan` or `PerLam` (by what A and L are).
    """

    L: Any
    nullity: int | None
    x_ref: Any
    weights: Any
    whiten: Any
    solver: Any


def problem_of(
    A: Any,
    b: Any,
    *,
    L: Any = None,
    nullity: int | None = None,
    x_ref: Any = None,
    weights: Any = None,
    whiten: Any = None,
    solver: Any = None,
) -> tuple[TikhonovProblem, Solver]:
    """Shapes and types are checked here, values never."""
    if isinstance(L, str):
        raise ValueError(f"L is {L!r}; pass a matrix or an operator, such as operators.difference(shape).")
    given = Map.of("A", A)
    outputs, dtype = given.outputs, given.outputs.dtype
    if given.is_matrix:
        b = of_known_shape("b", as_floats("b", b, (1, 2)))
        dtype = jnp.promote_types(given.inputs.dtype, b.dtype)
        given = given.astype(dtype)
    flat, single = _right_hand_sides(b, outputs, dtype)
    if x_ref is not None:
        x_ref = _like("x_ref", x_ref, given.inputs, dtype)
    if weights is not None:
        weights = _like("weights", weights, outputs, dtype)
    if whiten is not None:
        S = Map.of("whiten", whiten).astype(dtype)
        if S.shape[1] != given.shape[0]:
            raise ValueError(f"whiten takes {S.shape[1]} numbers and b has {given.shape[0]}; it acts on b.")
        if weights is not None:
            raise ValueError("weights and whiten were both given; put the weights into whiten.")
        given, flat = _composed(S, given), columns(S, flat)
    norm = seminorm(L, given.shape[1], dtype, nullity)
    solver = _route(A, L, weights, whiten, norm, given) if solver is None else solver
    solver = as_solver(solver, TikhonovProblem, "Direct(), Diagonal(), GolubKahan() or PerLam()")
    if norm is None:
        whole = Map.of("L", L)
        norm = Seminorm.of(whole.matrix(), nullity) if solver.inverts else Seminorm.bare(whole)
    problem = TikhonovProblem(A=given, norm=norm, y=flat, weights=weights, x_ref=x_ref, terms=Terms(single=single))
    return problem, solver


def _right_hand_sides(b: Any, layout: Layout, dtype: Any) -> tuple[Float[Array, "m t"], bool]:
    """b flat, a column for each right-hand side, and whether it was one only."""
    leaves = layout.structure[0]
    if len(leaves) > 1:
        return layout.flat(_like("b", b, layout, dtype, flat=False))[:, None], True
    shape = leaves[0][0]
    if len(shape) > 1 and np.shape(b) == (layout.size,):
        raise ValueError(f"b is flat, of shape {np.shape(b)}, and A gives {shape}; pass b.reshape{shape}.")
    b = as_floats("b", b, (len(shape), len(shape) + 1))
    if b.shape[: len(shape)] != shape:
        raise ValueError(f"b has shape {b.shape} and A gives {shape}; pass that, or t of them along a last axis.")
    _not_finer("b", b, dtype)
    return b.astype(dtype).reshape(layout.size, -1), b.ndim == len(shape)


def _like(name: str, x: Any, layout: Layout, dtype: Any, *, flat: bool = True) -> Any:
    """``x`` in the structure of one side of A, flat."""
    tree = layout.tree
    if jax.tree.structure(x) != jax.tree.structure(tree):
        raise ValueError(f"{name} has another structure than that side of A: {jax.tree.structure(tree)} is needed.")
    if isinstance(tree, jax.ShapeDtypeStruct) and np.shape(x) == (layout.size,) != tree.shape:
        raise ValueError(f"{name} is flat, of shape {np.shape(x)}; pass {name}.reshape{tree.shape}.")
    x = jax.tree.map(lambda leaf, wanted: as_floats(name, leaf, (len(wanted.shape),)), x, tree)
    for leaf, wanted in zip(jax.tree.leaves(x), jax.tree.leaves(tree), strict=True):
        if leaf.shape != wanted.shape:
            raise ValueError(f"{name} has shape {leaf.shape}; that side of A has {wanted.shape}.")
        _not_finer(name, leaf, dtype)
    x = jax.tree.map(lambda leaf: leaf.astype(dtype), x)
    return layout.flat(x) if flat else x


def _not_finer(name: str, x: Array, dtype: Any) -> None:
    """An operator has a dtype of its own, and must not take digits away silently."""
    if jnp.finfo(x.dtype).bits > jnp.finfo(dtype).bits:
        raise ValueError(f"{name} is {x.dtype} and A maps {dtype}; convert one of them, for example {name}.astype.")


def _composed(S: Map, A: Map) -> Map:
    """SA."""
    if S.is_matrix and A.is_matrix:
        return Map.of("A", matmul(S.operator, A.operator))
    outer, inner = (lx.MatrixLinearOperator(M.operator) if M.is_matrix else M.operator for M in (S, A))
    if inner.out_structure() != outer.in_structure():
        raise ValueError("whiten takes arrays of another shape than A gives; write it for the shape of b.")
    return Map.of("A", outer @ inner)


def _route(A: Any, L: Any, weights: Any, whiten: Any, norm: Seminorm | None, given: Map) -> Any:
    """What suits A and L."""
    if given.is_matrix:
        return Direct()
    fast = None if weights is not None or whiten is not None else operators.diagonalised(A)
    if fast is not None:
        smooth = L.gram() if hasattr(L, "gram") else None
        if L is None or (smooth is not None and smooth.basis == fast.basis):
            return Diagonal(fast, smooth)
    return GolubKahan() if norm is not None else PerLam()
