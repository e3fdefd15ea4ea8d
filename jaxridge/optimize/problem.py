"""The arguments of `least_squares`, checked, as one pytree to compile and batch, and flattened for the solvers."""

import dataclasses
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypedDict, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxridge.core.types import Array
from jaxridge.optimize.arguments import (
    as_bounds,
    as_jacobian,
    as_loss,
    as_model,
    as_nonlinear_solver,
    refuse_square,
    say_outside,
)
from jaxridge.optimize.control import LevenbergMarquardt, TrustRegion
from jaxridge.optimize.derivative import Derivative, full_hessian
from jaxridge.optimize.flat import as_real, closed, flat_box, flat_like, flat_residual, flatten, has_forward_mode
from jaxridge.optimize.loop import Box, Tolerances
from jaxridge.optimize.losses import Loss, linear
from jaxridge.optimize.objective import Objective, SumOfSquares, products
from jaxridge.optimize.steps import steihaug

Tree = TypeVar("Tree")


class Options(TypedDict, Generic[Tree], total=False):
    """What `least_squares` takes beyond the problem itself."""

    solver: LevenbergMarquardt | TrustRegion | None
    lam: Any
    x_ref: Tree | None
    bounds: tuple[Any, Any] | None
    loss: Loss
    jacobian: Callable[[Callable[[Array], Array]], Callable[[Array], Array]] | None
    derivative: Derivative
    ftol: float
    xtol: float
    gtol: float
    max_steps: int


class NonlinearProblem(eqx.Module):
    """The arguments of `least_squares`, as one pytree to compile, batch and take apart."""

    residual: Callable[[Any, Any], Any]
    x0: Any
    args: Any
    lam: Array | None
    x_ref: Any
    bounds: Any
    solver: LevenbergMarquardt | TrustRegion
    tol: Tolerances
    loss: Loss = eqx.field(static=True)
    jacobian: Callable[..., Any] | None = eqx.field(static=True)
    derivative: Derivative | None = eqx.field(static=True)

    def prepare(self) -> "Prepared":
        """Flat vectors in the place of pytrees."""
        flat, restore = flatten("x0", self.x0)
        solver, jacobian, derivative = self.solver, self.jacobian, self.derivative
        if isinstance(solver, TrustRegion) and solver.linear is products and solver.step is not steihaug:
            step = solver.step.__name__
            raise ValueError(f"solver: step={step} needs a matrix; with linear=products use step=steihaug.")
        refuse_square(self.residual, self.x0, self.args)
        fn = flat_residual(self.residual, restore, self.args, flat.dtype)
        if jax.eval_shape(fn, flat).shape == (0,):
            raise ValueError("residual returns no number; return at least one residual.")
        if not has_forward_mode(fn, flat):
            jacobian, derivative = jacobian or jax.jacrev, None
            solver = dataclasses.replace(solver, acceleration=False)
        zero = jnp.zeros_like(flat)
        reference = zero if self.x_ref is None else flat_like("x_ref", self.x_ref, self.x0, flat.dtype)
        lam = None if self.lam is None else self.lam.astype(flat.dtype)
        objective = SumOfSquares(closed(fn, flat), lam, reference, None, self.loss, solver.linear, jacobian)
        return Prepared(objective, solver, flat_box(self.bounds, self.x0, flat), flat, restore, derivative)


class Prepared(NamedTuple):
    """A problem in terms of one flat vector."""

    objective: Objective
    solver: LevenbergMarquardt | TrustRegion
    box: Box | None
    x: Array
    restore: Callable[[Array], Any]
    derivative: Derivative | None


def make_problem(
    residual: Callable[[Any, Any], Any],
    x0: Any,
    args: Any,
    *,
    solver: LevenbergMarquardt | TrustRegion | None = None,
    lam: Any = 0.0,
    x_ref: Any = None,
    bounds: tuple[Any, Any] | None = None,
    loss: Loss = linear,
    jacobian: Callable[..., Any] | None = None,
    derivative: Derivative | None = full_hessian,
    ftol: float = 0.0,
    xtol: float = 1e-12,
    gtol: float = 0.0,
    max_steps: int = 1000,
) -> NonlinearProblem:
    """The arguments of `least_squares` with its defaults, every number an array."""
    solver = LevenbergMarquardt() if solver is None else as_nonlinear_solver(solver)
    residual, loss = as_model("residual", residual), as_loss(loss)
    x0 = jax.tree.map(as_real("x0"), x0)
    bounds = as_bounds(bounds, x0)
    if bounds is not None:
        say_outside(x0, flat_box(bounds, x0, flatten("x0", x0)[0]))
    lam = None if isinstance(lam, int | float) and lam == 0 else jnp.asarray(lam)
    jacobian = as_jacobian(jacobian)
    tol = tolerances(x0, ftol, xtol, gtol, max_steps)
    return NonlinearProblem(residual, x0, args, lam, x_ref, bounds, as_arrays(solver), tol, loss, jacobian, derivative)


def as_arrays(solver: Any) -> Any:
    """Numbers as arrays, so that a new one does not compile again: of NumPy, which compile nothing."""
    return jax.tree.map(lambda number: _as_array(f"a setting of {type(solver).__name__}", number), solver)


def _as_array(name: str, number: Any, dtype: Any = None) -> Any:
    array = number if isinstance(number, jax.Array) else np.asarray(number)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be a number, got {number!r}.")
    return array if dtype is None else array.astype(dtype)


def tolerances(x0: Any, ftol: Any, xtol: Any, gtol: Any, max_steps: Any) -> Tolerances:
    """Tolerances in the dtype of x0, as arrays, so that a new number does not compile again."""
    leaves = jax.tree.leaves(x0)
    dtype = jnp.result_type(*leaves) if leaves else jnp.result_type(float)
    given = {"ftol": ftol, "xtol": xtol, "gtol": gtol}
    f, s, g = (_as_array(name, tol, dtype) for name, tol in given.items())
    return Tolerances(f, s, g, _as_array("max_steps", max_steps, jnp.int32))
