"""Inverse problems: Tikhonov regularisation in general form, for every λ from one factorisation or one Krylov space.

Every verb minimises, over x,

    ‖Ax − b‖² + λ‖L(x − x₀)‖²                                   no 1/m, no ½; texts write λ² for this λ

with A a matrix, an operator or a function with its shape, and L a matrix, an operator, or the identity. How it is done
is decided by what A and L are, and can be overridden by passing the solver:

    `Direct`       A becomes a matrix: standard form, QR and SVD, every rule of `jaxridge.select`
    `Diagonal`     a transform makes A (and L) diagonal, as it does periodic and reflective blur
    `GolubKahan`   only products with A and Aᵀ: one bidiagonalisation for every λ
    `PerLam`       only products, and L without a pseudo-inverse: a solve for each λ
"""

from collections.abc import Callable
from typing import Any, TypedDict, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

from jaxridge import operators, plan, select
from jaxridge._diagonal import DiagonalSpectrum, from_diagonal
from jaxridge._implicit import once_only, still
from jaxridge._maps import Layout, Map, Seminorm, columns, seminorm
from jaxridge._norm import lam_of_any_norm, lam_of_residual
from jaxridge._numerics import matmul, poison, safe_divide
from jaxridge._projected import Live, PerLamSpectrum, ProjectedSpectrum, largest_singular_value, project
from jaxridge._result import RESULTS, override
from jaxridge._types import Array, Bool, Float, Int
from jaxridge.design import as_floats, make_design
from jaxridge.spectrum import Spectrum, from_design

__all__ = [
    "Choice",
    "Diagonal",
    "Direct",
    "GolubKahan",
    "Path",
    "PerLam",
    "Solution",
    "tikhonov",
    "tikhonov_ball",
    "tikhonov_cv",
    "tikhonov_path",
    "tikhonov_residual",
]


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

    def flat(self, lam: Array) -> Float[Array, "n t"]:
        """x, flat."""
        return self.problem.solver.solution(self.problem.live, self.spectrum, lam)

    def at(self, lam: Array) -> "Solution":
        """The solution at one λ, or one λ for each target."""
        spectrum, single = self.spectrum, self.problem.single
        x = jax.vmap(self.problem.inputs.shaped, in_axes=1, out_axes=-1)(self.flat(lam))
        bound = jnp.zeros_like(spectrum.rss(lam))
        if isinstance(spectrum, ProjectedSpectrum):
            bound = spectrum.error_bound(lam)
        parts = (spectrum.rss(lam), spectrum.norm(lam), self._result(lam), bound)
        x, (rss, norm, result, bound) = jax.tree.map(lambda leaf: leaf[..., 0] if single else leaf, (x, parts))
        return Solution(x, lam, rss, norm, result, bound)

    def _result(self, lam: Array) -> Any:
        result = self.spectrum.result(lam)
        if not isinstance(self.spectrum, Spectrum):
            return result
        shared = self.spectrum.factor.checks.finite & _shared(self.problem.live)
        return override(RESULTS.shared_null_space, jnp.broadcast_to(shared, result._value.shape), result)


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


class Path(eqx.Module):
    """Solutions at every λ of a grid; the leading axis k is the grid.

    ``lams`` (k,), ``x`` (k, …), ``rss``, ``norm``, ``result`` and ``error_bound`` (k[, t]) as in `Solution`; ``steps``
    (k[, t]) after how many Krylov steps a λ was solved (−1 if it was not, 0 for exact solvers), ``products`` with A
    and Aᵀ in all, those of probes not counted. ``path[i]`` is a `Solution`, ``path.at(lam)`` the one at any λ.
    """

    lams: Float[Array, " k"]
    x: Any
    rss: Float[Array, "k *t"]
    norm: Float[Array, "k *t"]
    result: Any
    error_bound: Float[Array, "k *t"]
    steps: Int[Array, "k *t"]
    products: Int[Array, ""]
    factored: Factored

    def __len__(self) -> int:
        return self.lams.shape[0]

    def __getitem__(self, i: int) -> Solution:
        parts = (self.x, self.lams, self.rss, self.norm, self.result, self.error_bound)
        return Solution(*jax.tree.map(lambda leaf: leaf[i], parts))

    def at(self, lam: Any) -> Solution:
        """The solution at any λ from the same factorisation or Krylov space."""
        live = self.factored.problem.live
        return _at(self.factored, _as_lam(lam, live))


class Choice(eqx.Module):
    """The λ that a rule takes, and why.

    ``lam`` () or, per target, (t,); ``lams`` (k,) and ``scores`` (k[, t]), lower is better, NaN where a λ was not
    solved; ``index`` the best grid point; ``at_edge`` whether that is an end of the grid; ``beside_unresolved`` whether
    a λ next to it was not solved, so that a better one may lie there; ``fit`` the `Solution` at ``lam``.
    """

    lam: Array
    lams: Float[Array, " k"]
    scores: Float[Array, "k *t"]
    index: Int[Array, "*t"]
    at_edge: Bool[Array, "*t"]
    beside_unresolved: Bool[Array, "*t"]
    fit: Solution
    path: Path

    def message(self) -> str:
        """What a reader should know about this choice; empty if there is nothing to say."""
        said = []
        if bool(jnp.any(self.at_edge)):
            low, high = (float(end) for end in select.ends(self.lams))
            said.append(
                f"The chosen lam lies at an edge of the grid [{low:.3g}, {high:.3g}], so a better one may lie "
                "outside: widen lams."
            )
        if bool(jnp.any(self.beside_unresolved)):
            said.append("The next smaller lam was not solved, so a better one may lie there: raise budget or tol.")
        return " ".join(said)


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

    def solution(self, live: Live, spectrum: Spectrum, lam: Array) -> Float[Array, "n t"]:
        w, size = spectrum.coef(lam), live.norm.size
        x = columns(live.norm.times, w[:size]) + matmul(live.norm.null, w[size:])
        return x if live.x_ref is None else x + live.x_ref[:, None]


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

    def solution(self, live: Live, spectrum: DiagonalSpectrum, lam: Array) -> Float[Array, "n t"]:
        shape = self.A.symbol.shape
        x = columns(lambda z: self.A.synthesise(z.reshape(shape)).ravel(), spectrum.coef(lam))
        return x if live.x_ref is None else x + live.x_ref[:, None]


class GolubKahan(eqx.Module):
    """One bidiagonalisation for every λ, by products with A and Aᵀ alone.

    key: of the random probes that ``dof`` needs (GCV, predictive risk, evidence); None does without them.
    tol: a λ is solved when ‖L(x − x(λ))‖ ≤ tol ‖L(x − x₀)‖, by the bound that the projection gives.
    budget: steps at most, of two products and m + n numbers each. probes: how many of them.
    max_steps: of conjugate gradients, for a derivative.
    """

    key: Array | None
    tol: Array
    budget: int = eqx.field(static=True)
    probes: int = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)

    def __init__(
        self, key: Array | None = None, *, tol: Any = 1e-6, budget: int = 150, probes: int = 4, max_steps: int = 1000
    ):
        if budget < 1 or probes < 1 or max_steps < 1:
            raise ValueError(f"GolubKahan got budget {budget}, probes {probes}, max_steps {max_steps}; each is >= 1.")
        self.key, self.tol = key, jnp.asarray(tol)
        self.budget, self.probes, self.max_steps = budget, probes, max_steps

    def spectrum(self, live: Live, lams: Float[Array, " k"]) -> ProjectedSpectrum:
        return project(
            live,
            lams,
            tol=self.tol,
            budget=self.budget,
            key=self.key,
            probes=self.probes,
            max_steps=self.max_steps,
        )

    def solution(self, live: Live, spectrum: ProjectedSpectrum, lam: Array) -> Float[Array, "n t"]:
        return spectrum.coef(lam)


class PerLam(eqx.Module):
    """Conjugate gradients on AᵀωA + λLᵀL, each λ on its own: for an operator L without a pseudo-inverse.

    tol: relative to the right-hand side. max_steps: products with A, Aᵀ, L and Lᵀ for each λ at most.
    """

    tol: Array
    max_steps: int = eqx.field(static=True)

    def __init__(self, *, tol: Any = 1e-8, max_steps: int = 1000):
        if max_steps < 1:
            raise ValueError(f"PerLam got max_steps {max_steps}; it is >= 1.")
        self.tol, self.max_steps = jnp.asarray(tol), max_steps

    def spectrum(self, live: Live, lams: Float[Array, " k"]) -> PerLamSpectrum:
        return PerLamSpectrum(live, self.tol.astype(live.b.dtype), self.max_steps)

    def solution(self, live: Live, spectrum: PerLamSpectrum, lam: Array) -> Float[Array, "n t"]:
        return spectrum.coef(lam)


def tikhonov(A: Any, b: Any, lam: Any, **terms: Unpack[Terms]) -> Solution:
    """The x that minimises ‖Ax − b‖² + λ‖L(x − x₀)‖², at one λ.

    Args:
        A: (m, n), or a lineax operator on arrays of any shape; `operators.function` makes one of a function.
        b: (m,), or like the output of A; a trailing axis t for several right-hand sides.
        lam: λ ≥ 0, a scalar or one for each right-hand side (t,), in units of b² / (Lx)².
        terms: ``L``, ``nullity``, ``x_ref``, ``weights``, ``whiten``, ``solver``; see `Terms`.

    Returns a `Solution`; values that cannot be solved come back as a code in ``result``. Derivatives of every order in
    A (a matrix, or the arrays of an operator), b, λ, L, x₀ and weights are those of the normal equations.
    Raises ValueError for shapes and types that cannot be meant.
    Equals ``numpy.linalg.solve(A.T @ A + lam * L.T @ L, A.T @ b)``, without squaring A.
    Tikhonov (1963), Soviet Math. Dokl. 4, 1035; standard form: Eldén (1977), BIT 17, 134.

    >>> import jax.numpy as jnp
    >>> from jaxridge import inverse
    >>> A, b = jnp.eye(3), jnp.array([0.0, 3.0, 0.0])
    >>> D = jnp.array([[-1.0, 1.0, 0.0], [0.0, -1.0, 1.0]])
    >>> print(inverse.tikhonov(A, b, 1e6, L=D).x.round(3))
    [1. 1. 1.]
    """
    problem = _problem(A, b, **terms)
    return _tikhonov(problem, _as_lam(lam, problem.live))


def tikhonov_path(A: Any, b: Any, lams: Any = None, **terms: Unpack[Terms]) -> Path:
    """`tikhonov` at every λ of a grid (k,), from one factorisation, one transform or one Krylov space.

    ``lams`` None takes `select.grid`, or for products alone 50 λ from 1e-6 to 10 times the square of the largest
    singular value. A Krylov space grows until each λ > 0 is solved or its budget ends; every λ has its own code, error
    bound and number of steps.

    >>> import jax.numpy as jnp
    >>> from jaxridge import inverse
    >>> path = inverse.tikhonov_path(jnp.diag(jnp.array([2.0, 1.0])), jnp.array([4.0, 3.0]), [0.0, 1.0])
    >>> print(path.x, path.rss)
    [[2.  3. ]
     [1.6 1.5]] [0.   2.89]
    """
    problem = _problem(A, b, **terms)
    return _path(problem, _as_lams(lams, problem))


def tikhonov_cv(
    A: Any,
    b: Any,
    lams: Any = None,
    *,
    rule: Any = select.gcv,
    per_target: bool = False,
    refine: bool = True,
    **terms: Unpack[Terms],
) -> Choice:
    """`tikhonov` at the λ that a rule takes.

    Args beyond those of `tikhonov_path`:
        rule: ``select.gcv``, ``select.discrepancy(σ²)``, ``select.l_curve``, ``select.quasi_optimality``,
            ``select.predictive_risk(σ²)``, ``select.evidence``, or any function ``(design, spectrum, lam) -> (t,)``.
        per_target: a λ for each right-hand side instead of one for all.
        refine: move on from the best grid point to the optimum between its neighbours; ``choice.lam`` then has the
            derivatives of that optimum.

    Returns a `Choice`. λs that were not solved have no score.

    >>> import jax.numpy as jnp
    >>> from jaxridge import inverse, select
    >>> A, b = jnp.diag(jnp.array([1.0, 0.1, 0.01])), jnp.array([1.0, 0.1, 0.02])
    >>> print(inverse.tikhonov_cv(A, b, rule=select.discrepancy(1e-4)).fit.rss.round(7))
    0.0003
    """
    problem = _problem(A, b, **terms)
    if isinstance(rule, select.KFold | select.Holdout) and not isinstance(problem.solver, Direct):
        raise ValueError("kfold and holdout need the rows of A; pass solver=Direct(), or select.gcv as the rule.")
    return _cv(problem, _as_lams(lams, problem), rule, per_target, refine)


def tikhonov_ball(A: Any, b: Any, radius: Any, **terms: Unpack[Terms]) -> Solution:
    """min ‖Ax − b‖² subject to ‖L(x − x₀)‖ ≤ radius, with the multiplier as ``lam``: 0 where the bound is slack.

    Args as for `tikhonov`, with radius ≥ 0 a scalar or (t,). Differentiable in radius and all arrays.

    >>> import jax.numpy as jnp
    >>> from jaxridge import inverse
    >>> fit = inverse.tikhonov_ball(jnp.eye(2), jnp.array([3.0, 4.0]), 1.0)
    >>> print(fit.x.round(5), fit.lam.round(4))
    [0.6 0.8] 4.0
    """
    problem = _problem(A, b, **terms)
    return _ball(problem, _as_lam(radius, problem.live, "radius"))


def tikhonov_residual(A: Any, b: Any, delta: Any, **terms: Unpack[Terms]) -> Solution:
    """min ‖L(x − x₀)‖ subject to ‖√ω(Ax − b)‖ ≤ delta, with λ (one over the multiplier) as ``lam``.

    λ is ∞ where the smoothest x is good enough, code ``trivial_residual``, and 0 where no x is, ``unreachable_residual``.
    Args as for `tikhonov`, with delta ≥ 0 a scalar or (t,), the norm of the noise. Differentiable in delta and arrays.

    >>> import jax.numpy as jnp
    >>> from jaxridge import inverse
    >>> fit = inverse.tikhonov_residual(jnp.eye(2), jnp.array([3.0, 4.0]), 2.5)
    >>> print(fit.x.round(5), fit.lam.round(4))
    [1.5 2. ] 1.0
    """
    problem = _problem(A, b, **terms)
    return _residual(problem, _as_lam(delta, problem.live, "delta"))


class Comparison(eqx.Module):
    """What several rules say of one problem, side by side; ``print`` it for a table.

    ``names`` of the rules; ``lam``, ``norm``, ``rss`` (r[, t]) of each one's solution, in that order; ``choices`` by name.
    """

    names: tuple[str, ...] = eqx.field(static=True)
    choices: dict[str, Choice]

    def _stacked(self, pick: Callable[[Choice], Array]) -> Array:
        return jnp.stack([pick(self.choices[name]) for name in self.names])

    @property
    def lam(self) -> Array:
        return self._stacked(lambda choice: choice.fit.lam)

    @property
    def rss(self) -> Array:
        return self._stacked(lambda choice: choice.fit.rss)

    @property
    def norm(self) -> Array:
        return self._stacked(lambda choice: choice.fit.norm)

    @property
    def spread(self) -> Array:
        """Decades between the smallest and the largest λ that is neither 0 nor infinite."""
        known = (self.lam > 0) & jnp.isfinite(self.lam)
        logs = jnp.log10(jnp.where(known, self.lam, 1.0))
        high = jnp.max(jnp.where(known, logs, -jnp.inf), axis=0)
        return jnp.maximum(high - jnp.min(jnp.where(known, logs, jnp.inf), axis=0), 0.0)

    def message(self) -> str:
        """A warning if the rules disagree by more than a decade, or one has something to say."""
        said = [f"{name}: {self.choices[name].message()}" for name in self.names if self.choices[name].message()]
        decades = float(jnp.max(self.spread))
        if decades > 1:
            said.insert(0, f"The rules disagree by {decades:.1f} decades of lam: look at each solution before use.")
        return "\n".join(said)

    def __str__(self) -> str:
        width = max(len(name) for name in self.names)
        lines = [f"{'rule':{width}}  {'lam':>10}  {'||Ax-b||^2':>10}  {'||Lx||':>10}  outcome"]
        for name in self.names:
            fit = self.choices[name].fit
            if fit.rss.ndim:
                raise ValueError("a table of several right-hand sides is not printed; print those of one at a time.")
            outcome = str(RESULTS[fit.result]).partition(".")[0]
            lines.append(f"{name:{width}}  {fit.lam:10.4g}  {fit.rss:10.4g}  {fit.norm:10.4g}  {outcome}")
        return "\n".join([*lines, *filter(None, [self.message()])])


def compare(A: Any, b: Any, rules: dict[str, Any], lams: Any = None, **terms: Unpack[Terms]) -> Comparison:
    """Several rules on one path, from one factorisation: where they agree, and where they do not.

    Args: as for `tikhonov_cv`, with ``rules`` a dict from names to rules.

    >>> import jax.numpy as jnp
    >>> from jaxridge import inverse, select
    >>> A, b = jnp.diag(jnp.array([1.0, 0.1, 0.01])), jnp.array([1.0, 0.1, 0.02])
    >>> rules = {"discrepancy": select.discrepancy(1e-4), "UPRE": select.predictive_risk(1e-4)}
    >>> print(inverse.compare(A, b, rules).spread.round(1))
    1.2
    """
    if not rules:
        raise ValueError("rules is empty; pass a dict such as {'gcv': select.gcv}.")
    problem = _problem(A, b, **terms)
    return Comparison(tuple(rules), _compare(problem, _as_lams(lams, problem), dict(rules)))


def tsvd(A: Any, b: Any, ranks: Any, **terms: Unpack[Terms]) -> "TruncatedPath":
    """Truncated SVD: x from the ``ranks`` largest (generalised) singular values alone, whatever the others say.

    Args: as for `tikhonov`, with ranks (k,) whole numbers and A as a matrix; the null space of L is always kept.

    Derivatives are those in b; in A and L they raise ValueError, since singular values may cross.
    Equals ``scipy.linalg.svd`` with all but r singular values dropped. Hansen (1987), BIT 27, 534.

    >>> import jax.numpy as jnp
    >>> from jaxridge import inverse
    >>> path = inverse.tsvd(jnp.diag(jnp.array([2.0, 1.0])), jnp.array([4.0, 3.0]), [1, 2])
    >>> print(path.x, path.rss)
    [[2. 0.]
     [2. 3.]] [9. 0.]
    """
    problem = _problem(A, b, **{**terms, "solver": Direct()})
    ranks = np.asarray(ranks)
    if ranks.ndim != 1 or not np.issubdtype(ranks.dtype, np.integer) or np.any(ranks < 0):
        raise ValueError("ranks are whole numbers >= 0 in a list, one for each solution.")
    return _tsvd(problem, jnp.asarray(ranks))


class TruncatedPath(eqx.Module):
    """``ranks`` (k,), ``x`` (k, …), ``rss`` and ``norm`` (k[, t]) as in `Path`."""

    ranks: Int[Array, " k"]
    x: Any
    rss: Float[Array, "k *t"]
    norm: Float[Array, "k *t"]


class Picard(eqx.Module):
    """What decides whether b can be inverted; see `picard`."""

    singular_values: Float[Array, " r"]
    coefficients: Float[Array, "r *t"]
    ratios: Float[Array, "r *t"]


def picard(A: Any, b: Any, **terms: Unpack[Terms]) -> Picard:
    """The Picard condition: |uᵢᵀb| must fall faster than the (generalised) singular values sᵢ.

    Where the coefficients |uᵢᵀb| level off, at the noise, the ratios |uᵢᵀb|/sᵢ begin to grow: from there on a solution
    without a filter is noise. ``plot.picard`` draws it. Args as for `tikhonov`, A as a matrix.
    Hansen (1990), BIT 30, 658.

    >>> import jax.numpy as jnp
    >>> from jaxridge import inverse
    >>> print(inverse.picard(jnp.diag(jnp.array([2.0, 1.0])), jnp.array([4.0, -3.0])).ratios)
    [2. 3.]
    """
    problem = _problem(A, b, **{**terms, "solver": Direct()})
    spectrum = _spectrum(problem)
    factor, s = still(spectrum.factor), spectrum.singular_values
    coefficients = jnp.abs(factor.z[: s.shape[0]]) * factor.y_scale[None, :]
    ratios = safe_divide(coefficients, jnp.broadcast_to(s[:, None], coefficients.shape))
    pick = lambda x: x[:, 0] if problem.single else x  # noqa: E731
    return Picard(s, pick(coefficients), pick(ratios))


def filter_factors(A: Any, lam: Any, **terms: Unpack[Terms]) -> Float[Array, "r *k"]:
    """f = s²/(s² + λ) of every (generalised) singular value, the share of it that x keeps; λ () or (k,).

    >>> import jax.numpy as jnp
    >>> from jaxridge import inverse
    >>> print(inverse.filter_factors(jnp.diag(jnp.array([2.0, 1.0])), 1.0))
    [0.8 0.5]
    """
    m = Map.of("A", A)
    problem = _problem(A, m.outputs.shaped(jnp.zeros(m.shape[0], m.outputs.dtype)), **{**terms, "solver": Direct()})
    s, lam = _spectrum(problem).singular_values, as_floats("lam", lam, (0, 1)).astype(m.outputs.dtype)
    squares = jnp.square(s).reshape(-1, *(1,) * lam.ndim)
    return safe_divide(*jnp.broadcast_arrays(squares, squares + lam[None]))


def resolution(A: Any, lam: Any, **terms: Unpack[Terms]) -> Float[Array, "n n"]:
    """(AᵀωA + λLᵀL)⁻¹AᵀωA, what the solution makes of the truth without noise: column j is the image of a point j.

    Args: as for `tikhonov`, A as a matrix. Backus and Gilbert (1968), Geophys. J. R. Astr. Soc. 16, 169.

    >>> import jax.numpy as jnp
    >>> from jaxridge import inverse
    >>> print(inverse.resolution(jnp.diag(jnp.array([2.0, 1.0])), 1.0))
    [[0.8 0. ]
     [0.  0.5]]
    """
    matrix = Map.of("A", A).matrix()
    if terms.pop("x_ref", None) is not None:
        raise ValueError("x_ref is where the solution is drawn to, and has no part in its resolution; leave it out.")
    return tikhonov(matrix, matrix, lam, **terms).x


def covariance(A: Any, lam: Any, noise: Any, **terms: Unpack[Terms]) -> Float[Array, "n n"]:
    """Posterior covariance σ²(AᵀωA + λLᵀL)⁻¹ of x, for noise of variance σ² and a prior of precision λLᵀL/σ².

    Args: as for `tikhonov`, A as a matrix, ``noise`` σ². Tarantola (2005), Inverse Problem Theory, section 3.2.

    >>> import jax.numpy as jnp
    >>> from jaxridge import inverse
    >>> print(inverse.covariance(jnp.diag(jnp.array([2.0, 1.0])), 1.0, noise=0.5))
    [[0.1  0.  ]
     [0.   0.25]]
    """
    whole = Map.of("A", A)
    problem = _problem(A, whole.outputs.shaped(jnp.zeros(whole.shape[0], whole.outputs.dtype)), **terms)
    lam, noise = as_floats("lam", lam, (0,)), as_floats("noise", noise, (0,))
    return _covariance(problem.live, lam.astype(whole.outputs.dtype), noise.astype(whole.outputs.dtype))


def _problem(
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
    given, m_layout = Map.of("A", A), None
    m_layout, dtype = given.outputs, given.outputs.dtype
    if given.is_matrix:
        b = as_floats("b", b, (1, 2))
        dtype = jnp.promote_types(given.inputs.dtype, b.dtype)
        given = given.astype(dtype)
    flat, single = _right_hand_sides(b, m_layout, dtype)
    if x_ref is not None:
        x_ref = _like("x_ref", x_ref, given.inputs, dtype)
    if weights is not None:
        weights = _like("weights", weights, m_layout, dtype)
    if whiten is not None:
        S = Map.of("whiten", whiten).astype(dtype)
        if S.shape[1] != given.shape[0]:
            raise ValueError(f"whiten takes {S.shape[1]} numbers and b has {given.shape[0]}; it acts on b.")
        if weights is not None:
            raise ValueError("weights and whiten were both given; put the weights into whiten.")
        given, flat = _composed(S, given), columns(S, flat)
    norm = seminorm(L, given.shape[1], dtype, nullity)
    if solver is None:
        solver = _route(A, L, weights, whiten, norm, given)
    if norm is None and isinstance(solver, PerLam):
        norm = Seminorm(Map.of("L", L), None, jnp.zeros((given.shape[1], 0), dtype), 0)
    elif norm is None:
        norm = seminorm(Map.of("L", L).matrix(), given.shape[1], dtype, nullity)
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


def _as_lam(lam: Any, live: Live, name: str = "lam") -> Array:
    lam = as_floats(name, lam, (0, 1)).astype(live.b.dtype)
    if lam.ndim == 1 and lam.shape != live.b.shape[1:]:
        raise ValueError(f"{name} has shape {lam.shape}; a scalar is needed, or one for each right-hand side of b.")
    return lam


def _as_lams(lams: Any, problem: Problem) -> Float[Array, " k"] | None:
    if lams is None:
        return None
    lams = as_floats("lams", lams, (1,)).astype(problem.live.b.dtype)
    if lams.shape[0] == 0:
        raise ValueError("lams is empty; pass at least one lambda, or None for a grid.")
    return lams


@eqx.filter_jit
def _tikhonov(problem: Problem, lam: Array) -> Solution:
    return problem.factored(jnp.atleast_1d(lam)).at(lam)


@eqx.filter_jit
def _at(factored: Factored, lam: Array) -> Solution:
    return factored.at(lam)


@eqx.filter_jit
def _path(problem: Problem, lams: Array | None) -> Path:
    return _all(*_factor(problem, lams))


def _factor(problem: Problem, lams: Array | None) -> tuple[Factored, Float[Array, " k"]]:
    """The problem factored, and its grid."""
    if lams is None and not isinstance(problem.solver, Direct | Diagonal):
        lams = _grid_of_products(problem.live)
    factored = problem.factored(jnp.zeros(0, problem.live.b.dtype) if lams is None else lams)
    return factored, select.grid(factored.spectrum) if lams is None else lams


def _all(factored: Factored, lams: Float[Array, " k"]) -> Path:
    fits, spectrum = jax.vmap(factored.at)(lams), factored.spectrum
    shape, steps, products = fits.rss.shape, jnp.zeros(fits.rss.shape, jnp.int32), jnp.zeros((), jnp.int32)
    if isinstance(spectrum, ProjectedSpectrum):
        steps, products = spectrum.run.steps.T.reshape(shape), spectrum.products
    return Path(lams, fits.x, fits.rss, fits.norm, fits.result, fits.error_bound, steps, products, factored)


@eqx.filter_jit
def _cv(problem: Problem, lams: Array | None, rule: Any, per_target: bool, refine: bool) -> Choice:
    factored, lams = _factor(problem, lams)
    return _choice(_all(factored, lams), rule, per_target, refine)


@eqx.filter_jit
def _compare(problem: Problem, lams: Array | None, rules: dict[str, Any]) -> dict[str, Choice]:
    path = _all(*_factor(problem, lams))
    return {name: _choice(path, rule, False, True) for name, rule in rules.items()}


@eqx.filter_jit
def _spectrum(problem: Problem) -> Spectrum:
    return problem.factored(jnp.zeros(0, problem.live.b.dtype)).spectrum


@eqx.filter_jit
def _tsvd(problem: Problem, ranks: Int[Array, " k"]) -> TruncatedPath:
    """A rank as a filter of zeros and ones on the directions of the penalised part."""
    live, spectrum = problem.live, problem.factored(jnp.zeros(0, problem.live.b.dtype)).spectrum
    factor, d = spectrum.factor, live.norm.size
    moving = eqx.filter((live.A, live.norm, live.weights), eqx.is_inexact_array)
    factor = once_only(still(factor), moving, "tsvd has derivatives in b only: in A and L singular values may cross.")
    b = live.b if live.x_ref is None else live.b - live.A(live.x_ref)[:, None]
    root = factor.root_weights
    z = matmul(factor.U.T, b if root is None else root[:, None] * b)
    outside = jnp.sum(jnp.square((b if root is None else root[:, None] * b) - matmul(factor.U, z)), axis=0)

    def one(rank: Array) -> tuple[Array, Array, Array]:
        r = factor.V.shape[1]
        taken = jnp.concatenate([jnp.arange(r) < rank, jnp.ones(factor.s.shape[0] - r, bool)])[:, None]
        coordinates = safe_divide(jnp.where(taken, z, 0.0), jnp.broadcast_to(factor.s[:, None], z.shape))
        w = factor.times(coordinates)
        left = outside + jnp.sum(jnp.where(taken & (factor.s > 0)[:, None], 0.0, jnp.square(z)), axis=0)
        x = columns(live.norm.times, w[:d]) + matmul(live.norm.null, w[d:])
        x = x if live.x_ref is None else x + live.x_ref[:, None]
        return x, left, jnp.linalg.norm(w[:d], axis=0)

    x, rss, norm = jax.vmap(one)(ranks)
    x = jax.vmap(jax.vmap(problem.inputs.shaped, in_axes=1, out_axes=-1))(x)
    return TruncatedPath(ranks, *jax.tree.map(lambda leaf: leaf[..., 0] if problem.single else leaf, (x, rss, norm)))


@eqx.filter_jit
def _covariance(live: Live, lam: Array, noise: Array) -> Float[Array, "n n"]:
    """σ²R⁻¹R⁻ᵀ from QR = [√ωA; √λL], which does not square A."""
    A, L = live.A.matrix(), columns(live.norm.apply, jnp.eye(live.A.shape[1], dtype=lam.dtype))
    A = A if live.weights is None else jnp.sqrt(live.weights)[:, None] * A
    R = jnp.linalg.qr(jnp.concatenate([A, jnp.sqrt(lam) * L]), mode="r")
    inverse = jax.scipy.linalg.solve_triangular(R, jnp.eye(R.shape[0], dtype=R.dtype))
    return noise * matmul(inverse, inverse.T)


def _choice(path: Path, rule: Any, per_target: bool, refine: bool) -> Choice:
    """A rule on a path."""
    factored, lams, spectrum = path.factored, path.lams, path.factored.spectrum
    solved, judged = jnp.ones_like(path.rss, bool), rule
    if isinstance(spectrum, ProjectedSpectrum):
        solved = (path.error_bound <= spectrum.tol).reshape(path.rss.shape)
        judged = rule if isinstance(rule, select.Discrepancy) else _Solved(rule)
    single = factored.problem.single
    found = select.search(judged, spectrum, lams, select.lowest, per_target, refine, plan.MEMORY, single)
    columns = solved[:, None] if single else solved
    known = columns if per_target else jnp.all(columns, axis=1, keepdims=True)
    below = jax.vmap(_unsolved_below, in_axes=(None, 1, 0))(lams, known, jnp.atleast_1d(found.lam))
    fit = factored.at(found.lam)
    if isinstance(rule, select.Discrepancy):
        fit = eqx.tree_at(lambda fit: fit.result, fit, _outcome(found.lam, fit.result, fit.rss.shape))
    below = below.reshape(found.lam.shape)
    return Choice(found.lam, lams, found.scores, found.index, found.at_edge, below, fit, path)


class _Solved(eqx.Module):
    """A rule that has no score where λ was not solved."""

    rule: Any

    def __call__(self, design: Any, spectrum: ProjectedSpectrum, lam: Array) -> Float[Array, " t"]:
        return jnp.where(spectrum.resolved(lam), self.rule(design, spectrum, lam), jnp.nan)


def _unsolved_below(lams: Array, solved: Bool[Array, " k"], lam: Array) -> Bool[Array, ""]:
    """Whether the nearest grid point below λ was not solved."""
    below = lams < lam
    nearest = jnp.argmax(jnp.where(below, lams, -1.0))
    return jnp.any(below) & ~solved[nearest]


def _outcome(lam: Array, result: Any, shape: tuple[int, ...]) -> Any:
    """Codes for a residual that no λ, or every one, brings down."""
    lam = jnp.broadcast_to(lam, shape)
    result = override(RESULTS.unreachable_residual, lam == 0, result)
    return override(RESULTS.trivial_residual, jnp.isinf(lam), result)


def _grid_of_products(live: Live) -> Float[Array, " k"]:
    """50 λ from 1e-6 to 10 times s₁², which twenty products tell."""
    largest = largest_singular_value(live)
    return jnp.square(largest) * jnp.logspace(-6, 1, 50, dtype=live.b.dtype)


def _shared(live: Live) -> Bool[Array, ""]:
    """Whether A sees less of the null space of L than rounding."""
    W = live.norm.null
    if not W.shape[1]:
        return jnp.array(False)
    A = live.A.matrix()
    least = jnp.min(jnp.linalg.svd(matmul(A, W), compute_uv=False))
    return least <= max(A.shape) * jnp.finfo(W.dtype).eps * jnp.linalg.norm(A)


@eqx.filter_jit
def _ball(problem: Problem, radius: Array) -> Solution:
    return _bounded(problem, radius, lam_of_any_norm)


@eqx.filter_jit
def _residual(problem: Problem, delta: Array) -> Solution:
    fit = _bounded(problem, delta, lambda spectrum, delta: lam_of_residual(spectrum, jnp.square(delta), None))
    return eqx.tree_at(lambda fit: fit.result, fit, _outcome(fit.lam, fit.result, fit.rss.shape))


def _bounded(problem: Problem, size: Array, multiplier: Callable[[Any, Array], Array]) -> Solution:
    """The solution at the λ where something has that size."""
    factored, _ = _factor(problem, None)
    size = jnp.broadcast_to(size, problem.live.b.shape[1:])
    fit = factored.at(multiplier(factored.spectrum, poison(size, size >= 0)))
    lam, valid = (x[0] if problem.single else x for x in (fit.lam, size >= 0))
    return eqx.tree_at(
        lambda fit: (fit.lam, fit.result), fit, (lam, override(RESULTS.invalid_radius, ~valid, fit.result))
    )
