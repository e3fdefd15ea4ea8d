"""The residual and its Jacobian where a search ended, computed when they are asked for."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxridge.core.report import Record
from jaxridge.core.types import Array, Float
from jaxridge.core.verbs import verb
from jaxridge.optimize.arguments import as_model, as_solution, shapes_of
from jaxridge.optimize.flat import flat_residual
from jaxridge.optimize.least_squares import Solution

__all__ = ["Linearised", "linearised"]


class Linearised(Record):
    """r and J, parameters in the order in which ``ravel_pytree`` lays them out."""

    residual: Float[Array, " m"]
    jacobian: Float[Array, "m n"]


@verb()
def linearised(
    residual: Callable[[Any, Any], Any],
    fit: Solution,
    args: Any = None,
    *,
    jacobian: Callable[..., Any] = jax.jacfwd,
) -> Linearised:
    """The final residual and Jacobian of a fit, SciPy's ``fun`` and ``jac``.

    Args: residual and args are those of the fit, jacobian ``jax.jacfwd`` or ``jax.jacrev``.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> from jaxridge import optimize
    >>> line = lambda x, y: x[0] + x[1] * jnp.arange(3.0) - y
    >>> y = jnp.array([0.0, 1.0, 5.0])
    >>> found = optimize.linearised(line, jxr.least_squares(line, jnp.zeros(2), y), y)
    >>> print(found.residual.round(3), found.jacobian[2])
    [-0.5  1.  -0.5] [1. 2.]
    """
    return _linearised(as_model("residual", residual), as_solution("fit", fit).value, args, jacobian)


@eqx.filter_jit
def _linearised(residual: Any, value: Any, args: Any, jacobian: Any) -> Linearised:
    shapes_of("residual", residual, value, args)
    flat, restore = ravel_pytree(value)
    fn = flat_residual(residual, restore, args, flat.dtype)
    return Linearised(fn(flat), jnp.asarray(jacobian(fn)(flat)))
