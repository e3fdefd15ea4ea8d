"""Ridge on rows that lie on several devices: their triangle by TSQR, and every λ from it on each device.

No row leaves its device, and what moves is O(p²) for p columns, targets among them. What needs single rows is missing,
as for rows that are streamed.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge import select
from jaxridge.core import plan
from jaxridge.core.checks import as_lam, as_lams, names_of
from jaxridge.core.factored import Solver
from jaxridge.core.numbers import poison, safe_divide
from jaxridge.core.types import Array
from jaxridge.linalg.mesh import Rows as Cut
from jaxridge.linalg.mesh import rows_of, tsqr
from jaxridge.linear import accumulator
from jaxridge.linear.design import Data, Design, Terms, checked
from jaxridge.linear.fit import Fit
from jaxridge.linear.route import ROUTES, Route
from jaxridge.linear.spectrum import Spectrum, from_design
from jaxridge.select.choice import Choice, Path
from jaxridge.select.rules import KFold


class OnMesh(Solver):
    """Rows cut along axes of a mesh: what `ridge`, `ridge_path` and `ridge_cv` take by themselves for arrays at hand.

    Under ``jit`` arrays of an Auto mesh do not say how they lie, and this does: ``solver=OnMesh(mesh, "rows")``.
    """

    mesh: Any = eqx.field(static=True)
    axes: tuple[str, ...] = eqx.field(static=True)

    takes: ClassVar[type] = Design

    def __init__(self, mesh: Any, axes: str | tuple[str, ...]):
        self.mesh, self.axes = mesh, (axes,) if isinstance(axes, str) else tuple(axes)

    def factor(self, problem: Any, lams: Any = None) -> Spectrum:
        raise ValueError("OnMesh factors what ridge, ridge_path and ridge_cv take; pass it as their solver.")


def gathered(data: Data, terms: Terms, cut: Cut) -> accumulator.Rows:
    """The sums of all rows, on every device: their mean, then the triangle of what is left of them."""
    Y, X = data.y, data.X
    n, t = X.shape[0], Y.shape[1]
    weights = jnp.ones(n, X.dtype) if data.weights is None else poison(data.weights, data.weights >= 0)
    A = jnp.concatenate([cut.cut(X), cut.cut(Y)], axis=1)
    weights = cut.cut(weights)

    def moments(A: Array, weights: Array) -> Any:
        seen = jnp.where(weights[:, None] > 0, A, 0.0)
        return jax.lax.psum((jnp.sum(weights[:, None] * seen, axis=0), jnp.sum(weights)), cut.axes)

    def sizes(A: Array, weights: Array) -> Any:
        largest = jnp.max(jnp.abs(A), axis=0, initial=0.0)
        return jax.lax.pmax(largest, cut.axes), jax.lax.psum(jnp.sum(weights > 0), cut.axes)

    total, weight = cut.over(moments, *jax.lax.stop_gradient((A, weights)))
    shift = safe_divide(total, weight)
    root = jnp.sqrt(weights)[:, None]
    A = jnp.concatenate([root, root * (A - shift[None, :])], axis=1)
    largest, used = cut.over(sizes, *jax.lax.stop_gradient((A[:, 1:], weights)))
    R = tsqr(A, cut)
    count = used.astype(jnp.result_type(int))
    return accumulator.Rows(shift, R, largest, count, count, terms.intercept, t, False, 0, terms.single)


def factored_of(data: Data, terms: Terms, cut: Cut) -> Spectrum:
    """The spectrum of all rows."""
    rows = gathered(data, terms, cut)
    more = {"unpenalized": terms.unpenalized, "standardize": terms.standardize}
    return accumulator.finish(rows, data.penalty, **more)


def cut_of(X: Any, solver: Any) -> Cut | None:
    """How rows lie, as the solver says or the array; None for solvers and shapes that do not go by a tall triangle."""
    if isinstance(solver, OnMesh):
        return Cut(solver.mesh, solver.axes)
    cut = rows_of(X) if solver is None or solver is from_design else None
    return cut if cut is not None and (cut.explicit or X.shape[0] > X.shape[1]) else None


def ridge(X: Any, y: Any, lam: Any, *, solver: Any = None, **problem: Any) -> Fit:
    """`jaxridge.ridge` of rows on several devices."""
    data, terms = checked(X, y, **problem)
    return _ridge(data, as_lam(lam, data.y, terms.single), terms, cut_of(X, solver)).with_names(names_of(X))


def ridge_path(X: Any, y: Any, lams: Any = None, *, solver: Any = None, **problem: Any) -> Path:
    """`jaxridge.ridge_path` of rows on several devices."""
    data, terms = checked(X, y, **problem)
    return _path(data, as_lams(lams, data.y), terms, cut_of(X, solver))


def ridge_cv(
    X: Any,
    y: Any,
    lams: Any = None,
    *,
    rule: Callable[..., Array] = select.loo,
    pick: Callable[..., Array] = select.lowest,
    per_target: bool = False,
    refine: bool = False,
    solver: Any = None,
    memory: int = plan.MEMORY,
    **problem: Any,
) -> Choice | None:
    """`jaxridge.ridge_cv` of rows on several devices, by a rule that needs no single rows.

    None for other rules where shardings are no types, so that XLA may bring all rows together.
    """
    cut = cut_of(X, solver)
    if select.needs_leverages(rule) or isinstance(rule, KFold):
        if solver is None and not getattr(cut, "explicit", True):
            return None
        raise ValueError(
            "rule needs single rows, which lie on several devices; pass select.gcv, select.evidence or "
            "select.holdout(X, y), or gather X first."
        )
    data, terms = checked(X, y, **problem)
    return _choose(data, as_lams(lams, data.y), rule, terms, pick, per_target, refine, cut, memory)


@eqx.filter_jit
def _ridge(data: Data, lam: Array, terms: Terms, cut: Any) -> Fit:
    return factored_of(data, terms, cut).fit(lam)


@eqx.filter_jit
def _path(data: Data, lams: Array | None, terms: Terms, cut: Any) -> Path:
    factored = factored_of(data, terms, cut)
    grid: Array = factored.default_grid() if lams is None else lams
    return Path(grid, factored.fits(grid), factored)


@eqx.filter_jit
def _choose(
    data: Data,
    lams: Array | None,
    rule: Any,
    terms: Terms,
    pick: Any,
    per_target: bool,
    refine: bool,
    cut: Any,
    memory: int,
) -> Choice:
    factored = factored_of(data, terms, cut)
    grid: Array = factored.default_grid() if lams is None else lams
    found = select.search(rule, factored, grid, pick, per_target, refine, memory)
    return Choice(*found, select.with_code(found, factored.fit(found.lam)))


ROUTES.append(
    Route(
        "sharded",
        lambda X, solver: cut_of(X, solver) is not None,
        {"ridge": ridge, "ridge_path": ridge_path, "ridge_cv": ridge_cv},
    )
)
