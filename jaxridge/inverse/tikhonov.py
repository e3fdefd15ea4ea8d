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

import dataclasses
from typing import Any, Unpack

import equinox as eqx
import jax.numpy as jnp

from jaxridge import select
from jaxridge.core.checks import as_lam, as_lams
from jaxridge.core.factored import Factored, Solver
from jaxridge.core.results import RESULTS, override
from jaxridge.core.types import Array
from jaxridge.core.verbs import verb
from jaxridge.inverse.fit import TikhonovFit, TikhonovProblem
from jaxridge.inverse.problem import Options, problem_of
from jaxridge.select.choice import Choice, Path
from jaxridge.select.constraint import fit_of_size, lam_of_residual

__all__ = ["tikhonov", "tikhonov_ball", "tikhonov_cv", "tikhonov_path", "tikhonov_residual"]


@verb(problem_of)
def tikhonov(A: Any, b: Any, lam: Any, **terms: Unpack[Options]) -> TikhonovFit:
    """The x that minimises ‖Ax − b‖² + λ‖L(x − x₀)‖², at one λ.

    Args:
        A: (m, n), or a lineax operator on arrays of any shape; `operators.function` makes one of a function.
        b: (m,), or like the output of A; a trailing axis t for several right-hand sides.
        lam: λ ≥ 0, a scalar or one for each right-hand side (t,), in units of b² / (Lx)².
        terms: ``L``, ``nullity``, ``x_ref``, ``weights``, ``whiten``, ``solver``; see `Options`.

    Returns a `TikhonovFit`; values that cannot be solved come back as a code in ``result``. Derivatives of every order
    in A (a matrix, or the arrays of an operator), b, λ, L, x₀ and weights are those of the normal equations.
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
    problem, solver = problem_of(A, b, **terms)
    return _tikhonov(problem, as_lam(lam, problem.y, problem.single), solver)


@verb(problem_of)
def tikhonov_path(A: Any, b: Any, lams: Any = None, **terms: Unpack[Options]) -> Path:
    """`tikhonov` at every λ of a grid (k,), from one factorisation, one transform or one Krylov space.

    ``lams`` None takes 100 λ over what the singular values resolve, or for products alone 50 from 1e-6 to 10 times the
    square of the largest one. A Krylov space grows until each λ > 0 is solved or its budget ends; every λ has its own
    code, error bound and number of steps.

    >>> import jax.numpy as jnp
    >>> from jaxridge import inverse
    >>> path = inverse.tikhonov_path(jnp.diag(jnp.array([2.0, 1.0])), jnp.array([4.0, 3.0]), [0.0, 1.0])
    >>> print(path.x, path.rss)
    [[2.  3. ]
     [1.6 1.5]] [0.   2.89]
    """
    problem, solver = problem_of(A, b, **terms)
    return _path(problem, as_lams(lams, problem.y), solver)


@verb(problem_of)
def tikhonov_cv(
    A: Any,
    b: Any,
    lams: Any = None,
    *,
    rule: Any = select.gcv,
    per_target: bool = False,
    refine: bool = True,
    **terms: Unpack[Options],
) -> Choice:
    """`tikhonov` at the λ that a rule takes.

    Args beyond those of `tikhonov_path`:
        rule: ``select.gcv``, ``select.discrepancy(σ²)``, ``select.l_curve``, ``select.quasi_optimality``,
            ``select.predictive_risk(σ²)``, ``select.evidence``, or any function ``(problem, factored, lam) -> (t,)``.
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
    problem, solver = problem_of(A, b, **terms)
    return _cv(problem, as_lams(lams, problem.y), rule, per_target, refine, solver)


@verb(problem_of)
def tikhonov_ball(A: Any, b: Any, radius: Any, **terms: Unpack[Options]) -> TikhonovFit:
    """min ‖Ax − b‖² subject to ‖L(x − x₀)‖ ≤ radius, with the multiplier as ``lam``: 0 where the bound is slack.

    Args as for `tikhonov`, with radius ≥ 0 a scalar or (t,). Differentiable in radius and all arrays.

    >>> import jax.numpy as jnp
    >>> from jaxridge import inverse
    >>> fit = inverse.tikhonov_ball(jnp.eye(2), jnp.array([3.0, 4.0]), 1.0)
    >>> print(fit.x.round(5), fit.lam.round(4))
    [0.6 0.8] 4.0
    """
    problem, solver = problem_of(A, b, **terms)
    return _ball(problem, as_lam(radius, problem.y, problem.single, "radius"), solver)


@verb(problem_of)
def tikhonov_residual(A: Any, b: Any, delta: Any, **terms: Unpack[Options]) -> TikhonovFit:
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
    problem, solver = problem_of(A, b, **terms)
    return _residual(problem, as_lam(delta, problem.y, problem.single, "delta"), solver)


@eqx.filter_jit
def _tikhonov(problem: TikhonovProblem, lam: Array, solver: Solver) -> TikhonovFit:
    return solver.factor(problem, jnp.atleast_1d(lam)).fit(lam)


@eqx.filter_jit
def _path(problem: TikhonovProblem, lams: Array | None, solver: Solver) -> Path:
    return path_of(problem, lams, solver)


def path_of(problem: TikhonovProblem, lams: Array | None, solver: Solver) -> Path:
    """Every solution of a grid, and the factored problem behind it."""
    factored = solver.factor(problem, lams)
    grid: Array = factored.default_grid() if lams is None else lams
    return Path(grid, factored.fits(grid), factored)


@eqx.filter_jit
def _cv(
    problem: TikhonovProblem, lams: Array | None, rule: Any, per_target: bool, refine: bool, solver: Solver
) -> Choice:
    path = path_of(problem, lams, solver)
    found = select.search(rule, path.factored, path.lams, per_target=per_target, refined=refine)
    choice = Choice(*found, select.with_code(found, path.factored.fit(found.lam)))
    return outcome_of(path, rule, choice, lams is None)


def outcome_of(path: Path, rule: Any, found: Choice, searched: bool) -> Choice:
    """What was found, with a code where there is no such λ; ``searched`` says that the grid was not given."""
    fit, result = found.fit, found.fit.result
    if hasattr(rule, "root"):
        result = _outcome(found.lam, result, fit.rss.shape)
    if searched or hasattr(rule, "root"):
        result = _within(path.factored, result, fit.rss.shape)
    return dataclasses.replace(found, fit=eqx.tree_at(lambda fit: fit.result, fit, result), path=path)


def _outcome(lam: Array, result: Any, shape: tuple[int, ...]) -> Any:
    """Codes for a residual that no λ, or every one, brings down."""
    lam = jnp.broadcast_to(lam, shape)
    result = override(RESULTS.unreachable_residual, lam == 0, result)
    return override(RESULTS.trivial_residual, jnp.isinf(lam), result)


def _within(factored: Factored, result: Any, shape: tuple[int, ...]) -> Any:
    """A code where the λ that was looked for is beyond the range of the dtype; what data are wrong comes first."""
    beyond = factored.beyond_range() & (result != RESULTS.nonfinite_input)
    return override(RESULTS.overflow, jnp.broadcast_to(beyond, shape), result)


@eqx.filter_jit
def _ball(problem: TikhonovProblem, radius: Array, solver: Solver) -> TikhonovFit:
    factored = solver.factor(problem)
    return fit_of_size(factored, radius, outcome=lambda fit: _within(factored, fit.result, fit.rss.shape))


@eqx.filter_jit
def _residual(problem: TikhonovProblem, delta: Array, solver: Solver) -> TikhonovFit:
    factored = solver.factor(problem)

    def multiplier(factored: Factored, delta: Array) -> Array:
        return lam_of_residual(factored, jnp.square(delta), None)

    def outcome(fit: TikhonovFit) -> Any:
        shape = fit.rss.shape
        return _within(factored, _outcome(fit.lam, fit.result, shape), shape)

    return fit_of_size(factored, delta, multiplier, outcome)
