"""A Tikhonov problem, checked, and the four ways to factor it once for every λ."""

from typing import Any, NamedTuple, TypedDict

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx

from jaxridge import operators
from jaxridge.core.numbers import matmul
from jaxridge.core.results import RESULTS, override
from jaxridge.core.types import Array, Bool, Float
from jaxridge.inverse.diagonal import DiagonalSpectrum, from_diagonal
from jaxridge.inverse.maps import Layout, Map, Seminorm, columns, seminorm
from jaxridge.inverse.projected import Live, PerLamSpectrum, ProjectedSpectrum, project
from jaxridge.linear.design import as_floats, as_key, make_design
from jaxridge.linear.spectrum import Spectrum, from_design


class Terms(TypedDict, total=False):
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


class Problem(eqx.Module):
    """The arrays of a problem, flat, and how they came."""

    live: Live
    inputs: Layout
    single: bool = eqx.field(static=True)
    solver: Any

    def factored(self, lams: Float[Array, " k"]) -> "Factored":
        return Factored(self, self.solver.spectrum(self.live, lams))


class Factored(eqx.Module):
    """A problem after its one factorisation."""

    problem: Problem
    spectrum: Any

    def at(self, lam: Array) -> "Solution":
        """The solution at one λ, or one λ for each target."""
        problem = self.problem
        flat, *parts = problem.solver.solution(problem.live, self.spectrum, lam)
        x = jax.vmap(problem.inputs.shaped, in_axes=1, out_axes=-1)(flat)
        x, parts = jax.tree.map(lambda leaf: leaf[..., 0] if problem.single else leaf, (x, parts))
        return Solution(x, lam, *parts)


class Solution(eqx.Module):
    """A regularised solution.

    ``x`` in the shape that A takes (a trailing axis t for several right-hand sides), ``lam``, ``rss`` = ‖√ω(Ax − b)‖²,
    ``norm`` = ‖L(x − x₀)‖, ``result`` (`RESULTS`), ``error_bound`` on ‖L(x − x(λ))‖/‖L(x − x₀)‖, 0 for exact solvers.
    """

    x: Any
    lam: Array
    rss: Float[Array, "*t"]
    norm: Float[Array, "*t"]
    result: Any
    error_bound: Float[Array, "*t"]


class _Flat(NamedTuple):
    """What a solver says of one λ, or of one for each target."""

    x: Float[Array, "n t"]
    rss: Float[Array, " t"]
    norm: Float[Array, " t"]
    result: Any
    error_bound: Float[Array, " t"]


class Direct(eqx.Module):
    """A as a matrix: ridge regression on AL⁺ with AW unpenalised, by QR and SVD; everything `Spectrum` can."""

    def spectrum(self, live: Live, lams: Float[Array, " k"]) -> Spectrum:
        A, norm = live.A.matrix(), live.norm
        inverse = columns(norm.times, jnp.eye(norm.size, dtype=A.dtype)) if norm.L is not None else None
        X = A if inverse is None else matmul(A, inverse)
        X, free = jnp.concatenate([X, matmul(A, norm.null)], axis=1), norm.null.shape[1]
        b = live.b if live.x_ref is None else live.b - live.A(live.x_ref)[:, None]
        unpenalized = tuple(range(norm.size, norm.size + free))
        return from_design(make_design(X, b, intercept=False, weights=live.weights, unpenalized=unpenalized))

    def solution(self, live: Live, spectrum: Spectrum, lam: Array) -> _Flat:
        w, size = spectrum.coef(lam), live.norm.size
        x = columns(live.norm.times, w[:size]) + matmul(live.norm.null, w[size:])
        shared = jnp.broadcast_to(spectrum.factor.checks.finite & _shared(live), live.b.shape[1:])
        return _exact(live, x, spectrum, lam, override(RESULTS.shared_null_space, shared, spectrum.result(lam)))


class Diagonal(eqx.Module):
    """A, and LᵀL if there is an L, made diagonal by one orthonormal transform."""

    A: operators.Diagonalised
    gram: operators.Diagonalised | None

    def spectrum(self, live: Live, lams: Float[Array, " k"]) -> DiagonalSpectrum:
        b = live.b if live.x_ref is None else live.b - live.A(live.x_ref)[:, None]
        z = columns(lambda y: self.A.analyse(live.A.outputs.shaped(y)).ravel(), b)
        return from_diagonal(
            self.A.symbol.ravel(), z, penalty=None if self.gram is None else jnp.sqrt(self.gram.symbol.ravel())
        )

    def solution(self, live: Live, spectrum: DiagonalSpectrum, lam: Array) -> _Flat:
        shape = self.A.symbol.shape
        x = columns(lambda z: self.A.synthesise(z.reshape(shape)).ravel(), spectrum.coef(lam))
        return _exact(live, x, spectrum, lam, spectrum.result(lam))


def _exact(live: Live, x: Float[Array, "n t"], spectrum: Any, lam: Array, result: Any) -> _Flat:
    """With x measured from x₀, and nothing left open."""
    rss = spectrum.rss(lam)
    x = x if live.x_ref is None else x + live.x_ref[:, None]
    return _Flat(x, rss, spectrum.norm(lam), result, jnp.zeros_like(rss))


class GolubKahan(eqx.Module):
    """One bidiagonalisation for every λ, by products with A and Aᵀ alone.

    key: of the random probes that ``dof`` needs (GCV, predictive risk, evidence); None does without them.
    tol: a λ is solved when ‖L(x − x(λ))‖ ≤ tol ‖L(x − x₀)‖, by the bound that the projection gives; None is 1e-6 in
        float64 and 1e-4 in float32.
    budget: steps at most, of two products and n numbers each. probes: how many of them.
    orthogonal: keep the basis orthogonal, at the price of some ten products a step; see `golub_kahan.bidiagonalise`.
    max_steps: of conjugate gradients, for a derivative.
    """

    key: Array | None
    tol: Array | None
    budget: int = eqx.field(static=True)
    orthogonal: bool = eqx.field(static=True)
    probes: int = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)

    def __init__(
        self,
        key: Array | None = None,
        *,
        tol: Any = None,
        budget: int = 150,
        orthogonal: bool = True,
        probes: int = 4,
        max_steps: int = 1000,
    ):
        if budget < 1 or probes < 1 or max_steps < 1:
            raise ValueError(f"GolubKahan got budget {budget}, probes {probes}, max_steps {max_steps}; each is >= 1.")
        self.key, self.tol = as_key(key, optional=True), None if tol is None else jnp.asarray(tol)
        self.budget, self.orthogonal, self.probes, self.max_steps = budget, orthogonal, probes, max_steps

    def spectrum(self, live: Live, lams: Float[Array, " k"]) -> ProjectedSpectrum:
        return project(
            live,
            lams,
            tol=_usual(self.tol, live.b.dtype, 1e-6),
            budget=self.budget,
            orthogonal=self.orthogonal,
            key=self.key,
            probes=self.probes,
            max_steps=self.max_steps,
        )

    def solution(self, live: Live, spectrum: ProjectedSpectrum, lam: Array) -> _Flat:
        return _Flat(*spectrum.solution(lam), spectrum.result(lam), spectrum.error_bound(lam))


def _usual(tol: Array | None, dtype: Any, double: float) -> Array:
    """The tolerance asked for, or what the dtype can usually reach."""
    return jnp.asarray((double if dtype == jnp.float64 else 1e-4) if tol is None else tol, dtype)


class PerLam(eqx.Module):
    """Conjugate gradients on AᵀωA + λLᵀL, each λ on its own: for an operator L without a pseudo-inverse.

    tol: relative to the right-hand side; None is 1e-8 in float64 and 1e-4 in float32. max_steps: products with A, Aᵀ,
        L and Lᵀ for each λ at most.
    """

    tol: Array | None
    max_steps: int = eqx.field(static=True)

    def __init__(self, *, tol: Any = None, max_steps: int = 1000):
        if max_steps < 1:
            raise ValueError(f"PerLam got max_steps {max_steps}; it is >= 1.")
        self.tol, self.max_steps = None if tol is None else jnp.asarray(tol), max_steps

    def spectrum(self, live: Live, lams: Float[Array, " k"]) -> PerLamSpectrum:
        return PerLamSpectrum(live, _usual(self.tol, live.b.dtype, 1e-8), self.max_steps)

    def solution(self, live: Live, spectrum: PerLamSpectrum, lam: Array) -> _Flat:
        found = spectrum.solution(lam)
        return _Flat(*found, jnp.zeros_like(found[1]))


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
) -> Problem:
    """Shapes and types are checked here, values never."""
    given = Map.of("A", A)
    outputs, dtype = given.outputs, given.outputs.dtype
    if given.is_matrix:
        b = as_floats("b", b, (1, 2))
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
    n = given.shape[1]
    norm = seminorm(L, n, dtype, nullity)
    solver = _route(A, L, weights, whiten, norm, given) if solver is None else solver
    if not isinstance(solver, Direct | Diagonal | GolubKahan | PerLam):
        raise ValueError(f"solver is {solver!r}; pass Direct(), Diagonal(), GolubKahan() or PerLam().")
    if norm is None:
        whole = Map.of("L", L)
        norm = Seminorm.bare(whole) if isinstance(solver, PerLam) else Seminorm.of(whole.matrix(), nullity)
    return Problem(Live(given, norm, flat, weights, x_ref), given.inputs, single, solver)


def _right_hand_sides(b: Any, layout: Layout, dtype: Any) -> tuple[Float[Array, "m t"], bool]:
    """b flat, a column for each right-hand side, and whether it was one only."""
    leaves = layout.structure[0]
    if len(leaves) > 1:
        return layout.flat(_like("b", b, layout, dtype, flat=False))[:, None], True
    shape = leaves[0][0]
    b = as_floats("b", b, (len(shape), len(shape) + 1))
    if b.shape[: len(shape)] != shape:
        raise ValueError(f"b has shape {b.shape} and A gives {shape}; pass that, or a stack (*{shape}, t) of them.")
    _not_finer("b", b, dtype)
    return b.astype(dtype).reshape(layout.size, -1), b.ndim == len(shape)


def _like(name: str, x: Any, layout: Layout, dtype: Any, *, flat: bool = True) -> Any:
    """``x`` in the structure of one side of A, flat."""
    tree = layout.tree
    if jax.tree.structure(x) != jax.tree.structure(tree):
        raise ValueError(f"{name} has another structure than that side of A: {jax.tree.structure(tree)} is needed.")
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


def as_lam(lam: Any, live: Live, name: str = "lam") -> Array:
    lam = as_floats(name, lam, (0, 1)).astype(live.b.dtype)
    if lam.ndim == 1 and lam.shape != live.b.shape[1:]:
        raise ValueError(f"{name} has shape {lam.shape}; a scalar is needed, or one for each right-hand side of b.")
    return lam


def _shared(live: Live) -> Bool[Array, ""]:
    """Whether A sees less of the null space of L than rounding."""
    W = live.norm.null
    if not W.shape[1]:
        return jnp.array(False)
    A = live.A.matrix()
    least = jnp.min(jnp.linalg.svd(matmul(A, W), compute_uv=False))
    return least <= max(A.shape) * jnp.finfo(W.dtype).eps * jnp.linalg.norm(A)
