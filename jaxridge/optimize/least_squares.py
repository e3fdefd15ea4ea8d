"""Nonlinear least squares and smooth minimisation, differentiable in everything but the start.

    least_squares   min over x of  ½ (Σ ρ(rᵢ(x)²) + λ‖x − x_ref‖²),   lower ≤ x ≤ upper
    minimize        min over x of  f(x),                                lower ≤ x ≤ upper

A linear residual y − Xx is ridge regression, with the same λ. Derivatives of the solution are those of its optimality
condition, ∇F = 0 in the variables that no bound holds: never of the iterations.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Generic, TypeVar, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge.core import implicit
from jaxridge.core.implicit import first_order_only, frozen
from jaxridge.core.numbers import poison
from jaxridge.core.report import Record
from jaxridge.core.results import RESULTS, first_failure
from jaxridge.core.types import Array, Bool, Int, Scalar
from jaxridge.core.verbs import verb
from jaxridge.optimize import loop, verdict
from jaxridge.optimize.arguments import WithoutAux, as_bounds, as_model, as_nonlinear_solver, shapes_of
from jaxridge.optimize.control import LevenbergMarquardt, TrustRegion
from jaxridge.optimize.derivative import Derivative, full_hessian, gauss_newton
from jaxridge.optimize.flat import (
    as_real,
    closed,
    flat_box,
    flatten,
)
from jaxridge.optimize.loop import Box, Tolerances
from jaxridge.optimize.objective import Objective, Smooth, SumOfSquares, cholesky, products, qr
from jaxridge.optimize.problem import NonlinearProblem, Options, Prepared, as_arrays, make_problem, tolerances
from jaxridge.optimize.steps import dogleg, exact, steihaug

__all__ = [
    "LevenbergMarquardt",
    "Solution",
    "TrustRegion",
    "cholesky",
    "dogleg",
    "exact",
    "full_hessian",
    "gauss_newton",
    "least_squares",
    "least_squares_path",
    "minimize",
    "products",
    "qr",
    "steihaug",
]

Tree = TypeVar("Tree")

NO_FORWARD_MODE = (
    "residual: derivatives of a solution need second derivatives of the residual, and one with a custom_vjp has none. "
    "Give it a custom_jvp instead."
)


class Solution(Record, Generic[Tree]):
    """What a solver found. ``value`` and ``cost`` carry derivatives; the rest is a record of the run.

    Where ``result`` is a failure ``value`` is the best point that was seen, and its derivatives are NaN.
    """

    value: Tree
    cost: Scalar  # the objective, with its ½ and its penalty
    result: Any  # a `RESULTS` item: which test stopped it, or why it failed
    gradient_norm: Scalar  # the largest |∂F/∂xⱼ| of a variable that no bound holds
    active: Tree  # true where a bound holds the variable
    steps: Int[Array, ""]
    residual_evaluations: Int[Array, ""]
    jacobian_evaluations: Int[Array, ""]
    aux: Any = None  # what the residual gives beside its residuals at ``value``, with ``has_aux=True``

    @property
    def success(self) -> Bool[Array, ""]:
        """Whether a convergence test was met."""
        return converged(self.result)


def converged(result: Any) -> Bool[Array, "..."]:
    """Whether results are those of a met convergence test."""
    return (
        (result == RESULTS.successful)
        | (result == RESULTS.gradient_converged)
        | (result == RESULTS.cost_converged)
        | (result == RESULTS.step_converged)
        | (result == RESULTS.undetermined)
        | (result == RESULTS.no_influence)
    )


@verb(make_problem)
def least_squares(
    residual: Callable[[Tree, Any], Any],
    x0: Tree,
    args: Any = None,
    *,
    has_aux: bool = False,
    callback: Callable[..., None] | None = None,
    **options: Unpack[Options],
) -> Solution[Tree]:
    """Minimise F(x) = ½ (Σ ρ(rᵢ(x)²) + λ‖x − x_ref‖²) over lower ≤ x ≤ upper.

    Args:
        residual: ``residual(x, args)``, any pytree of real arrays. Whatever you want derivatives in goes into args.
        x0: where to start, any pytree; its dtype is that of the fit. A start outside the bounds is moved inside,
            with a warning that names it.
        args: anything that residual reads.
        solver: `LevenbergMarquardt()` (the default) or `TrustRegion()`, with their options.
        lam: λ ≥ 0, a scalar; x_ref: the point that it pulls to, in the structure of x0, or one number for all; 0.
        bounds: ``(lower, upper)``, each in the structure of x0, or one number for all, or None. Every iterate
            satisfies them; a variable ends exactly on a bound, or off it.
        loss: ρ, one of `jaxridge.losses` or your own.
        jacobian: ``jax.jacfwd`` or ``jax.jacrev``, or your own function of a function; None takes forward mode
            unless there are fewer residuals than parameters, or the residual has a ``custom_vjp``.
        derivative: ``optimize.full_hessian`` (exact), or ``optimize.gauss_newton``, which leaves second derivatives
            of the residual out.
        ftol, xtol, gtol: stop where a step that neither damping nor radius shortened gains less than ftol·F, where it
            is shorter than xtol‖Nx‖ with the column norms N of J, or where no column of J has a cosine above gtol with
            the residual: 0, 1e-12 and 0. Otherwise rounding ends the descent, and Newton steps with the whole Hessian
            say what is there, also where all three are 0. None are compiled in.
        max_steps: proposals, rejected ones included; 1000. Reaching it is a result code with NaN derivatives.
        has_aux: ``residual`` returns (residuals, aux), and the aux at the end is ``fit.aux``.
        callback: ``callback(step, cost, x)`` at every proposal, x the flat vector, for progress. It puts a host
            callback into the program, which has none otherwise.

    Returns a `Solution`. Its value has exact derivatives in args, lam, x_ref and bounds, forward and reverse, to
    every order that the residual has: those of ∇F = 0 with the full Hessian, 0 where a bound holds. Its start
    carries none. Fewer residuals than parameters, and a singular J, are fine: steps are of least norm.
    Equals ``scipy.optimize.least_squares``; for a linear residual, `jaxridge.ridge`. Moré (1978), Lecture Notes in
    Mathematics 630, 105.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> t = jnp.linspace(0.0, 2.0, 9)
    >>> def decay(x, y):
    ...     return x["height"] * jnp.exp(-x["rate"] * t) - y
    >>> fit = jxr.least_squares(decay, {"height": 1.0, "rate": 1.0}, 3.0 * jnp.exp(-0.5 * t))
    >>> print(fit.value["rate"].round(4), bool(fit.success))
    0.5 True
    """
    if not has_aux:
        return _least_squares(make_problem(residual, x0, args, **options), callback)
    both = as_model("residual", residual)
    fit = _least_squares(make_problem(WithoutAux(both), x0, args, **options), callback)
    return dataclasses.replace(fit, aux=both(fit.value, args)[1])


@verb(make_problem)
def least_squares_path(
    residual: Callable[[Tree, Any], Any], x0: Tree, args: Any = None, *, lams: Any, **options: Any
) -> Solution[Tree]:
    """`least_squares` at every λ of a grid (k,), side by side: the nonlinear regularisation path.

    Args: those of `least_squares`, with lams (k,) in the place of lam. Every leaf of what comes back has an axis k in
    front. For a linear residual it is ``jaxridge.ridge_path(..., intercept=False).coef``.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> path = jxr.least_squares_path(lambda x, y: x - y, jnp.zeros(1), jnp.ones(1), lams=[0.0, 1.0, 3.0])
    >>> print(path.value[:, 0].round(4))
    [1.   0.5  0.25]
    """
    return jax.vmap(lambda lam: least_squares(residual, x0, args, lam=lam, **options))(jnp.asarray(lams))


@verb()
def minimize(
    fn: Callable[[Tree, Any], Scalar],
    x0: Tree,
    args: Any = None,
    *,
    solver: TrustRegion | None = None,
    bounds: tuple[Any, Any] | None = None,
    derivative: Derivative | None = full_hessian,
    ftol: float = 0.0,
    xtol: float = 1e-12,
    gtol: float = 1e-8,
    max_steps: int = 1000,
    callback: Callable[..., None] | None = None,
) -> Solution[Tree]:
    """Minimise a smooth f(x, args) over lower ≤ x ≤ upper, by Newton's method in a trust region.

    Args: as for `least_squares`, with ``fn(x, args)`` a twice differentiable number. gtol: stop where Newton's step
    promises to gain no more than gtol²·|f|. ``solver=TrustRegion(step=optimize.exact)`` (the default) forms the
    Hessian, follows negative curvature and leaves saddles; ``step=optimize.steihaug`` takes Hessian-vector products
    only, for many parameters.

    Returns a `Solution`, differentiable like that of `least_squares`, whose evaluations are those of f.
    Equals ``scipy.optimize.minimize(method="trust-exact")``.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> valley = lambda x, steep: (1 - x[0]) ** 2 + steep * (x[1] - x[0] ** 2) ** 2
    >>> print(jxr.minimize(valley, jnp.array([-1.2, 1.0]), 100.0).value.round(4))
    [1. 1.]
    """
    solver = TrustRegion() if solver is None else solver
    if not isinstance(as_nonlinear_solver(solver), TrustRegion):
        raise ValueError(f"solver is {type(solver).__name__}; minimize takes TrustRegion(step=...).")
    fn, x0 = as_model("fn", fn), jax.tree.map(as_real("x0"), x0)
    bounds = as_bounds(bounds, x0)
    tol = tolerances(x0, ftol, xtol, gtol, max_steps)
    shapes_of("fn", fn, x0, args)
    return _minimize(fn, x0, args, bounds, as_arrays(solver), tol, derivative, callback)


@eqx.filter_jit
def _least_squares(problem: NonlinearProblem, callback: Callable[..., None] | None) -> Solution:
    ready = problem.prepare()
    return solution_of(ready, _search(ready, problem.tol, callback))


@eqx.filter_jit
def _minimize(
    fn: Callable[[Any, Any], Scalar],
    x0: Any,
    args: Any,
    bounds: Any,
    solver: TrustRegion,
    tol: Tolerances,
    derivative: Derivative | None,
    callback: Callable[..., None] | None,
) -> Solution:
    flat, restore = flatten("x0", x0)
    flat_fn = lambda x: fn(restore(x), args)  # noqa: E731
    shape = jax.eval_shape(flat_fn, flat)
    if not hasattr(shape, "shape") or shape.shape != ():
        raise ValueError("fn must return one number, of shape (); for a vector of residuals use least_squares.")
    objective = Smooth(closed(flat_fn, flat), solver.step is not steihaug)
    ready = Prepared(objective, solver, flat_box(bounds, x0, flat), flat, restore, derivative)
    return solution_of(ready, _search(ready, tol, callback))


def _search(ready: Prepared, tol: Tolerances, callback: Callable[..., None] | None) -> loop.State:
    """Run the loop and what follows, without derivatives."""
    objective, solver, box, tol = frozen((ready.objective, ready.solver, ready.box, tol))
    x = jax.lax.stop_gradient(ready.x)
    x = x if box is None else box.clip(x)
    state = loop.run(objective, solver, box, tol, x, callback)
    curved = ready.derivative is not None
    return jax.lax.cond(
        verdict.open_question(objective, state),
        lambda: verdict.judge(objective, box, state, curved),
        lambda: state,
    )


def solution_of(ready: Prepared, state: loop.State) -> Solution:
    """What the end of a search says, with derivatives."""
    objective, box, restore = ready.objective, ready.box, ready.restore
    still_box = frozen(box)
    x, g, unit, e = state.x, loop.gradient(state), state.local.unit, state.point.exponent
    held = jnp.zeros(x.shape, bool) if still_box is None else ~still_box.free(x, g)
    inside = jnp.ones((), bool) if still_box is None else jnp.all(still_box.lower <= still_box.upper)
    result = _result(state, inside, objective)
    value = _live(objective, box, x, (unit, e), held, converged(result), ready.derivative)
    return Solution(
        value=restore(value),
        cost=objective.cost(value),
        result=result,
        gradient_norm=jnp.max(jnp.where(held, 0.0, jnp.abs(g)), initial=0.0),
        active=jax.tree.map(lambda held: held > 0, restore(held.astype(x.dtype))),
        steps=state.steps,
        residual_evaluations=state.steps + 1,
        jacobian_evaluations=state.jacobians,
    )


def _live(
    objective: Objective,
    box: Box | None,
    x: Array,
    units: tuple[Array, Array],
    held: Array,
    good: Array,
    derivative: Derivative | None,
) -> Array:
    """x, with the derivatives that ∇F = 0 in the free variables and x = bound in the others imply.

    In x + unit·q and F over 4ᵉ, in which squares are in range.
    """
    if derivative is None:
        return first_order_only(x, eqx.filter((objective, box), eqx.is_inexact_array), NO_FORWARD_MODE)
    unit, e = units
    around = objective.around(x, unit, e)

    def optimality(v: Array) -> Array:
        q = (v - x) / unit
        g = jax.grad(around.cost)(q)
        if box is None:
            return g
        bound = jnp.where(x <= frozen(box).lower, box.lower, box.upper)
        g = jnp.where(held, q - (jnp.where(held, bound, x) - x) / unit, g)
        # Which bounds would hold a search that failed is not known: any, and the derivative is poisoned.
        return g + jnp.where(good, 0.0, box.lower + box.upper)

    def tangent(jvp: Callable[[Array], Array], b: Array) -> Array:
        return unit * derivative(around, jnp.zeros_like(x), held, lambda q: jvp(unit * q), poison(b, good))

    return implicit.solution_of(optimality, x, tangent)


def _result(state: loop.State, inside: Array, objective: Objective) -> Any:
    code = state.stop
    bad_lam = jnp.zeros((), bool)
    if isinstance(objective, SumOfSquares) and objective.lam is not None:
        bad_lam = ~(objective.lam >= 0)
    return first_failure(
        (~inside, RESULTS.crossed_bounds),
        (bad_lam, RESULTS.invalid_lam),
        (code == loop.START, RESULTS.nonfinite_start),
        (code == loop.NONFINITE, RESULTS.nonfinite_region),
        (code == verdict.ROUNDING, RESULTS.rounding_limited),
        (code == verdict.SADDLE, RESULTS.saddle),
        (code == verdict.STALLED, RESULTS.stalled),
        (code == verdict.EVAPORATED, RESULTS.evaporated),
        (code == verdict.UNDETERMINED, RESULTS.undetermined),
        (code == verdict.NO_INFLUENCE, RESULTS.no_influence),
        (code == loop.RUNNING, RESULTS.max_steps),
        (code == loop.GRADIENT, RESULTS.gradient_converged),
        (code == loop.COST, RESULTS.cost_converged),
        ((code == loop.STEP) | (code == loop.JITTER), RESULTS.step_converged),
        shape=(),
    )
