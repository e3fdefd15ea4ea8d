"""Inverse problems: Tikhonov regularisation in general form, for every λ from one factorisation or one Krylov space.

Every verb minimises, over x,

    ‖Ax − b‖² + λ‖L(x − x₀)‖²                                   no 1/m, no ½; texts write λ² for this λ

with A a matrix, an operator or a function with its shape, and L a matrix, an operator, or the identity. How it is done
is decided by what A and L are, and can be overridden by passing the solver:

    `Direct`       A becomes a matrix: standard form, QR and SVD, every rule of `jaxridge.select`
    `Diagonal`     a transform makes A (and L) diagonal, as it does periodic and reflective blur
    `GolubKahan`   only products with A and Aᵀ: one bidiagonalisation for every λ
    `PerLam`       only products, and L without a pseudo-inverse: a solve for each λ

An x that must not be negative comes from `jaxridge.least_squares` of Ax − b, with ``lam`` and ``bounds=(0.0, None)``.
"""

from collections.abc import Callable
from typing import Any, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge import select
from jaxridge.core import plan
from jaxridge.core.numbers import poison
from jaxridge.core.results import RESULTS, override
from jaxridge.core.types import Array, Bool, Float, Int
from jaxridge.inverse.analysis import Picard, TruncatedPath, covariance, filter_factors, picard, resolution, tsvd
from jaxridge.inverse.problem import (
    Diagonal,
    Direct,
    Factored,
    GolubKahan,
    PerLam,
    Problem,
    Solution,
    Terms,
    as_lam,
    problem_of,
)
from jaxridge.inverse.projected import Live, ProjectedSpectrum, largest_singular_value
from jaxridge.linear.design import as_floats
from jaxridge.select.constraint import lam_of_any_norm, lam_of_residual

__all__ = [
    "Choice",
    "Comparison",
    "Diagonal",
    "Direct",
    "GolubKahan",
    "Path",
    "PerLam",
    "Picard",
    "Solution",
    "Terms",
    "TruncatedPath",
    "compare",
    "covariance",
    "filter_factors",
    "picard",
    "resolution",
    "tikhonov",
    "tikhonov_ball",
    "tikhonov_cv",
    "tikhonov_path",
    "tikhonov_residual",
    "tsvd",
]


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
        return _at(self.factored, as_lam(lam, live))


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
    problem = problem_of(A, b, **terms)
    return _tikhonov(problem, as_lam(lam, problem.live))


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
    problem = problem_of(A, b, **terms)
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
    problem = problem_of(A, b, **terms)
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
    problem = problem_of(A, b, **terms)
    return _ball(problem, as_lam(radius, problem.live, "radius"))


def tikhonov_residual(A: Any, b: Any, delta: Any, **terms: Unpack[Terms]) -> Solution:
    """min ‖L(x − x₀)‖ subject to ‖√ω(Ax − b)‖ ≤ delta, with λ (one over the multiplier) as ``lam``.

    λ is ∞ where the smoothest x is good enough, code ``trivial_residual``, and 0 where no x is, code
    ``unreachable_residual``. Args as for `tikhonov`, with delta ≥ 0 a scalar or (t,), the norm of the noise.
    Differentiable in delta and arrays.

    >>> import jax.numpy as jnp
    >>> from jaxridge import inverse
    >>> fit = inverse.tikhonov_residual(jnp.eye(2), jnp.array([3.0, 4.0]), 2.5)
    >>> print(fit.x.round(5), fit.lam.round(4))
    [1.5 2. ] 1.0
    """
    problem = problem_of(A, b, **terms)
    return _residual(problem, as_lam(delta, problem.live, "delta"))


class Comparison(eqx.Module):
    """What several rules say of one problem, side by side; ``print`` it for a table.

    ``names`` of the rules; ``lam``, ``norm``, ``rss`` (r[, t]) of each one's solution, in that order; ``choices`` by
    name.
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
    >>> print(f"{inverse.compare(A, b, rules).spread:.1f}")
    1.2
    """
    if not rules:
        raise ValueError("rules is empty; pass a dict such as {'gcv': select.gcv}.")
    problem = problem_of(A, b, **terms)
    choices = _compare(problem, _as_lams(lams, problem), dict(rules))
    return Comparison(tuple(rules), {name: choices[name] for name in rules})


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
    path = _all(*_factor(problem, lams))
    found = _search(path, rule, per_target, refine)
    return _choice(path, rule, found, path.factored.at(found.lam), per_target)


@eqx.filter_jit
def _compare(problem: Problem, lams: Array | None, rules: dict[str, Any]) -> dict[str, Choice]:
    path = _all(*_factor(problem, lams))
    found = {name: _search(path, rule, False, True) for name, rule in rules.items()}
    # One program for all of their solutions.
    fits = jax.vmap(path.factored.at)(jnp.stack([each.lam for each in found.values()]))
    return {
        name: _choice(path, rules[name], found[name], jax.tree.map(lambda x, i=i: x[i], fits), False)
        for i, name in enumerate(rules)
    }


def _search(path: Path, rule: Any, per_target: bool, refine: bool) -> select.Found:
    """What a rule takes from a path."""
    spectrum, single = path.factored.spectrum, path.factored.problem.single
    if isinstance(spectrum, ProjectedSpectrum) and not isinstance(rule, select.Discrepancy):
        rule = _Solved(rule)
    return select.search(rule, spectrum, path.lams, select.lowest, per_target, refine, plan.MEMORY, single)


def _choice(path: Path, rule: Any, found: select.Found, fit: Solution, per_target: bool) -> Choice:
    """What was found, with what a reader should know of it."""
    lams, spectrum = path.lams, path.factored.spectrum
    solved = jnp.ones_like(path.rss, bool)
    if isinstance(spectrum, ProjectedSpectrum):
        solved = (path.error_bound <= spectrum.tol).reshape(path.rss.shape)
    columns = solved[:, None] if path.factored.problem.single else solved
    known = columns if per_target else jnp.all(columns, axis=1, keepdims=True)
    below = jax.vmap(_unsolved_below, in_axes=(None, 1, 0))(lams, known, jnp.atleast_1d(found.lam))
    below = below.reshape(found.lam.shape)
    if isinstance(rule, select.Discrepancy):
        fit = eqx.tree_at(lambda fit: fit.result, fit, _outcome(found.lam, fit.result, fit.rss.shape))
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
