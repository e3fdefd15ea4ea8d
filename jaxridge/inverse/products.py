"""Ridge regression by products with X alone: sparse matrices, for every λ from one Krylov space.

In x = [w c], c the intercept and other columns without a penalty, it is the Tikhonov problem of A = [X Z] and
L = [√P 0]. Centring is the projection that takes Z out, so X stays as it is. What needs single rows or all directions
of X is missing here; GCV has its traces from random probes, and folds are fitted anew, each in its own space.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxridge import operators, select
from jaxridge.core import plan
from jaxridge.core.checks import as_flag, as_floats, as_lam, as_lams
from jaxridge.core.factored import Factored, Terms, as_solver
from jaxridge.core.implicit import map_with_rules
from jaxridge.core.numbers import filled, poison_tangent
from jaxridge.core.results import RESULTS, override
from jaxridge.core.types import Array, Bool, Float, Lam
from jaxridge.inverse.fit import TikhonovProblem
from jaxridge.inverse.maps import Map, columns
from jaxridge.inverse.projected import ProjectedSpectrum
from jaxridge.inverse.seminorm import seminorm
from jaxridge.inverse.solvers import GolubKahan
from jaxridge.linear.design import static_columns
from jaxridge.linear.fit import Fit
from jaxridge.linear.route import ROUTES, Route
from jaxridge.operators.base import structure
from jaxridge.select.choice import Choice, Path
from jaxridge.select.partition import Partition, mean_losses, take_rows
from jaxridge.select.rules import Holdout, KFold


class WithOnes(operators.Operator):
    """[X 1]."""

    X: operators.Sparse

    def apply(self, x: Float[Array, " a"]) -> Float[Array, " n"]:
        return self.X.apply(x[:-1]) + x[-1]

    def transpose(self) -> operators.Operator:
        return OnesBelow(self.codomain, self.domain, self.X.transpose())


class OnesBelow(operators.Operator):
    """[X 1]ᵀ."""

    XT: operators.Sparse

    def apply(self, x: Float[Array, " n"]) -> Float[Array, " a"]:
        return jnp.append(self.XT.apply(x), jnp.sum(x))

    def transpose(self) -> operators.Operator:
        return WithOnes(self.codomain, self.domain, self.XT.transpose())


class Penalised(operators.Operator):
    """[√P 0], with its pseudo-inverse and null space."""

    root: Float[Array, " r"]

    def apply(self, x: Float[Array, " a"]) -> Float[Array, " r"]:
        return self.root.astype(x.dtype) * x[: self.root.shape[0]]

    def pinv(self, u: Float[Array, " r"]) -> Float[Array, " a"]:
        """What √P takes to u."""
        return jnp.pad(u / self.root.astype(u.dtype), (0, self.domain.shape[0] - self.root.shape[0]))

    @property
    def null(self) -> Float[Array, "q a"]:
        """The last coordinates."""
        a, r = self.domain.shape[0], self.root.shape[0]
        return jnp.eye(a - r, a, r, dtype=self.root.dtype)


class Layout(eqx.Module):
    """How x lies: the columns with a penalty, those without, the intercept."""

    back: Array | None  # the place of each of the user's columns; None where they are in order
    features: int = eqx.field(static=True)
    free: int = eqx.field(static=True)  # columns without a penalty
    intercept: bool = eqx.field(static=True)

    def split(self, x: Float[Array, "a t"]) -> tuple[Array, Array]:
        """Coefficients in the user's order, and the intercept."""
        w = x[: self.features]
        w = w if self.back is None else w[self.back]
        return w, x[self.features] if self.intercept else jnp.zeros(x.shape[1:], x.dtype)


class ByProducts(Factored):
    """A ridge problem in the Krylov space of its products; exits are those of `ProjectedSpectrum`."""

    inner: ProjectedSpectrum
    layout: Layout
    valid: Bool[Array, ""]  # whether every penalty is positive

    model = Fit
    direct = False

    @property
    def problem(self) -> TikhonovProblem:
        return self.inner.problem

    @property
    def missing(self) -> str:
        return (
            "needs the rows of a dense X, which products with a sparse one do not give; use select.gcv, "
            "select.kfold(5) or select.holdout(X, y)"
        )

    def coef(self, lam: Lam) -> Float[Array, "a t"]:
        return self.inner.coef(lam)

    def penalty_of(self, w: Float[Array, "a t"]) -> Float[Array, " t"]:
        return self.inner.penalty_of(w)

    def residual(self, lam: Lam) -> Float[Array, "n t"]:
        return self.inner.residual(lam)

    def rss(self, lam: Lam) -> Float[Array, " t"]:
        return self.inner.rss(lam)

    def squared_norm(self, lam: Lam) -> Float[Array, " t"]:
        return self.inner.squared_norm(lam)

    def misfit(self, lam: Lam) -> Float[Array, " t"]:
        return self.inner.misfit(lam)

    def dof(self, lam: Lam) -> Lam:
        return self.inner.dof(lam)

    def dof_or_nan(self, lam: Lam) -> Lam:
        return jnp.full_like(lam, jnp.nan) if self.inner.traces is None else self.inner.dof(lam)

    def residual_dof(self, lam: Lam) -> Lam:
        return self.inner.residual_dof(lam)

    def logdet(self, lam: Lam) -> Lam:
        return self.inner.logdet(lam)

    def resolved(self, lam: Lam) -> Bool[Array, " t"]:
        return self.inner.resolved(lam)

    def result(self, lam: Lam) -> Any:
        found = self.inner.result(lam)
        return override(RESULTS.invalid_penalty, jnp.broadcast_to(~self.valid, found._value.shape), found)

    def span(self) -> tuple[Array, Array]:
        return self.inner.span()

    def default_grid(self) -> Float[Array, " k"]:
        return self.inner.default_grid()

    def fit(self, lam: Lam) -> Fit:
        x, rss, _, result = self.inner.solution(lam)
        result = override(RESULTS.invalid_penalty, jnp.broadcast_to(~self.valid, rss.shape), result)
        coef, intercept = self.layout.split(x)
        parts = self.problem.squeeze((coef, intercept, rss, result))
        return Fit(parts[0], parts[1], lam, self.dof_or_nan(lam), parts[2], parts[3])

    def predict_at(self, name: str, X: Any, lams: Float[Array, "k *t"]) -> Float[Array, "k v t"]:
        def at(lam: Array) -> Array:
            coef, intercept = self.layout.split(self.coef(lam))
            return Fit(coef, intercept, lam, lam, lam, None).predict(X)

        return jax.vmap(at)(lams)

    def fold(self, partition: Partition) -> "RefittedFolds":
        """Every fold's complement in a space of its own, for the λs of the grid."""
        problem, grid, inner = self.problem, self.inner.grid, self.inner
        n = problem.y.shape[0]
        weights = filled((n,), 1.0, problem.y.dtype) if problem.weights is None else problem.weights

        def losses(rows: tuple[Array, Array]) -> tuple[Array, Array]:
            train, test = rows
            kept = jnp.zeros(n, weights.dtype).at[train].set(1.0, mode="drop")
            part = eqx.tree_at(lambda p: p.weights, problem, weights * kept, is_leaf=lambda x: x is None)
            solver = GolubKahan(
                tol=inner.tol, budget=inner.run.bidiagonal.alpha.shape[1] - 1, max_steps=inner.max_steps
            )
            fitted = solver.factor(part, grid)

            def at(lam: Array) -> tuple[Array, Array]:
                e = take_rows(problem.y - columns(problem.A, fitted.coef(lam)), test)
                return e, fitted.resolved(lam)

            e, solved = jax.vmap(at)(grid)
            return jnp.where(solved[:, None, :], e, jnp.nan), take_rows(weights, test)

        e, held = map_with_rules(losses, (partition.train, partition.test))
        return RefittedFolds(grid, e, held)


class RefittedFolds(eqx.Module):
    """Residuals of each fold's rows at the λs of a grid."""

    grid: Float[Array, " k"]
    e: Float[Array, "f k v t"]
    weights: Float[Array, "f v"]

    def losses(self, factored: Any, lam: Lam, loss: Callable[[Array], Array], frozen: bool) -> Float[Array, "f t"]:
        """Of a λ of the grid, NaN for any other; the derivative in λ is NaN too."""
        lam = jnp.atleast_1d(lam)[0]
        there = self.grid == lam
        e = self.e[:, jnp.argmax(there)]
        values = jax.vmap(lambda e, weights: mean_losses(e, weights, loss))(e, self.weights)
        return values * poison_tangent(jnp.where(jnp.any(there), 1.0, jnp.nan) + 0.0 * lam, jnp.array(False))


class Given(eqx.Module):
    """A sparse ridge problem as the verbs take it."""

    X: operators.Sparse
    y: Float[Array, "n t"]
    weights: Float[Array, " n"] | None
    penalty: Float[Array, " r"] | None
    layout: Layout
    standardize: bool = eqx.field(static=True)
    single: bool = eqx.field(static=True)


def given(
    X: Any,
    y: Any,
    *,
    intercept: bool = True,
    standardize: bool = False,
    weights: Any = None,
    penalty: Any = None,
    unpenalized: int | tuple[int, ...] = (),
) -> Given:
    """Shapes and dtypes are checked here, values never."""
    n, d = (X.codomain.shape[0], X.domain.shape[0]) if isinstance(X, operators.Sparse) else X.shape
    y = as_floats("y", y, (1, 2))
    if y.shape[0] != n or n == 0:
        raise ValueError(f"y has {y.shape[0]} rows and X has {n}; they must be the same observations, one at least.")
    free = np.array(static_columns(unpenalized, d), int)
    kept = np.setdiff1d(np.arange(d), free)
    order = np.concatenate([kept, free])
    if not isinstance(X, operators.Sparse) or len(free):
        X = operators.sparse(X, columns=order if len(free) else None)
    dtype = np.promote_types(X.data.dtype, y.dtype)
    X, y = X.astype(dtype), y.astype(dtype)
    if weights is not None:
        weights = as_floats("weights", weights, (1,)).astype(dtype)
        if weights.shape != (n,):
            raise ValueError(f"weights has shape {weights.shape}; one weight per row of X is needed: ({n},).")
    if penalty is not None:
        penalty = as_floats("penalty", penalty, (1,)).astype(dtype)
        if penalty.shape != (d,):
            raise ValueError(f"penalty has shape {penalty.shape}; one positive number per column of X: ({d},).")
        penalty = penalty[kept]
    layout = Layout(
        jnp.asarray(np.argsort(order)) if len(free) else None, d, len(free), as_flag("intercept", intercept)
    )
    return Given(X, y.reshape(n, -1), weights, penalty, layout, as_flag("standardize", standardize), y.ndim == 1)


def factored_of(of: Given, lams: Array | None, solver: GolubKahan) -> ByProducts:
    """The Tikhonov problem of a ridge problem, bidiagonalised."""
    X, dtype = of.X, of.y.dtype
    (d,) = X.domain.shape
    penalised = d - of.layout.free
    penalty = jnp.ones(penalised, dtype) if of.penalty is None else of.penalty
    if of.standardize:
        mean, variance = X.centred(of.weights)
        # A column that is constant up to rounding is left as it is.
        constant = variance <= jnp.square(2.0 * jnp.finfo(dtype).eps * mean)
        penalty = penalty * jnp.where(constant, 1.0, variance)[:penalised]
    A: Any = X
    if of.layout.intercept:
        A = WithOnes(structure((d + 1,), dtype), X.codomain, X)
    valid = jnp.all(penalty > 0)
    L = Penalised(A.domain, structure((penalised,), dtype), jnp.sqrt(jnp.where(penalty > 0, penalty, 1.0)))
    norm = seminorm(L, A.domain.shape[0], dtype, None)
    assert norm is not None
    terms = Terms(intercept=of.layout.intercept, single=of.single)
    problem = TikhonovProblem(A=Map.of("A", A), norm=norm, y=of.y, weights=of.weights, x_ref=None, terms=terms)
    return ByProducts(solver.factor(problem, lams), of.layout, valid)  # pyright: ignore[reportCallIssue]


SOLVER = "GolubKahan(), the one solver that needs products only"


def ridge(X: Any, y: Any, lam: Any, *, solver: Any = None, **problem: Any) -> Fit:
    """`jaxridge.ridge` of a sparse X."""
    of = given(X, y, **problem)
    return _ridge(of, as_lam(lam, of.y, of.single), as_solver(solver or GolubKahan(), TikhonovProblem, SOLVER))


def ridge_path(X: Any, y: Any, lams: Any = None, *, solver: Any = None, **problem: Any) -> Path:
    """`jaxridge.ridge_path` of a sparse X; ``dof`` is NaN without probes, which ``solver=GolubKahan(key)`` has."""
    of = given(X, y, **problem)
    return _path(of, as_lams(lams, of.y), as_solver(solver or GolubKahan(), TikhonovProblem, SOLVER))


def ridge_cv(
    X: Any,
    y: Any,
    lams: Any = None,
    *,
    rule: Any = select.loo,
    pick: Any = select.lowest,
    per_target: bool = False,
    refine: bool = False,
    solver: Any = None,
    memory: int = plan.MEMORY,
    **problem: Any,
) -> Choice:
    """`jaxridge.ridge_cv` of a sparse X, by GCV with probes of a fixed key, by folds, or rows kept apart."""
    if refine:
        raise ValueError("refine needs the factor of a dense X; pass a finer grid of lams instead.")
    if rule is select.loo:
        raise ValueError(
            "rule is select.loo, which needs the rows of a dense X; with a sparse one pass rule=select.gcv, "
            "select.kfold(5) or select.holdout(X, y)."
        )
    of = given(X, y, **problem)
    lams = as_lams(lams, of.y)
    if lams is not None and lams.ndim == 2:
        raise ValueError("lams has a grid for each target; a sparse X takes one grid (k,) for all.")
    probes = None if isinstance(rule, KFold | Holdout) else jax.random.key(0)
    solver = as_solver(solver or GolubKahan(probes), TikhonovProblem, SOLVER)
    return _choose(of, lams, rule, pick, per_target, solver, memory)


@eqx.filter_jit
def _ridge(of: Given, lam: Array, solver: Any) -> Fit:
    return factored_of(of, jnp.atleast_1d(lam), solver).fit(lam)


@eqx.filter_jit
def _path(of: Given, lams: Array | None, solver: Any) -> Path:
    factored = factored_of(of, lams, solver)
    grid: Array = factored.default_grid() if lams is None else lams
    return Path(grid, factored.fits(grid), factored)


@eqx.filter_jit
def _choose(of: Given, lams: Array | None, rule: Any, pick: Any, per_target: bool, solver: Any, memory: int) -> Choice:
    factored = factored_of(of, lams, solver)
    grid: Array = factored.default_grid() if lams is None else lams
    found = select.search(rule, factored, grid, pick, per_target, False, memory)
    return Choice(*found, select.with_code(found, factored.fit(found.lam)))


verbs = {"ridge": ridge, "ridge_path": ridge_path, "ridge_cv": ridge_cv}
ROUTES.append(Route("sparse", lambda X, solver: operators.is_sparse(X), verbs))
