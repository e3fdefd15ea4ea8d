"""The arguments of nonlinear verbs that are not numbers, or a ``ValueError`` that says what to write instead."""

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxridge.core.checks import as_function
from jaxridge.optimize import losses
from jaxridge.optimize.loop import LevenbergMarquardt, TrustRegion

SOLVERS = "LevenbergMarquardt() or TrustRegion()"


def as_model(name: str, fn: Any) -> Callable[[Any, Any], Any]:
    """A function of (x, args)."""
    as_function(name, fn, f"a function {name}(x, args)")
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):  # a builtin, which shows none
        return fn
    try:
        signature.bind(None, None)
    except TypeError:
        raise ValueError(
            f"{name} takes {signature} and is called as {name}(x, args); write for example lambda x, args: ..., with "
            "data in args."
        ) from None
    return fn


def as_solution(name: str, given: Any) -> Any:
    """What a search returned, not its parameters alone."""
    if not (hasattr(given, "value") and hasattr(given, "active")):
        raise ValueError(f"{name} is of type {type(given).__name__}; pass all of what least_squares returned.")
    return given


def as_nonlinear_solver(solver: Any) -> Any:
    """One of the solvers, not their class nor their name."""
    if isinstance(solver, type) and issubclass(solver, LevenbergMarquardt | TrustRegion):
        raise ValueError(f"solver is the class {solver.__name__}; pass an instance of it, {solver.__name__}().")
    if not isinstance(solver, LevenbergMarquardt | TrustRegion):
        raise ValueError(f"solver is {solver!r}; pass {SOLVERS}.")
    return solver


def as_loss(loss: Any) -> losses.Loss:
    """A robust loss, not its name."""
    if isinstance(loss, str):
        known = loss if loss in losses.__all__ else "huber"
        raise ValueError(f"loss is {loss!r}; pass the function, losses.{known} of jaxridge.losses.")
    return as_function("loss", loss, "a function of jaxridge.losses, losses.huber or losses.scaled(losses.huber, 2.0)")


def as_jacobian(jacobian: Any) -> Any:
    """None, or a function of a function."""
    return None if jacobian is None else as_function("jacobian", jacobian, "None, jax.jacfwd or jax.jacrev")


def as_bounds(bounds: Any, x0: Any) -> Any:
    """A pair (lower, upper) or None, not pairs of each variable."""
    if bounds is None:
        return None
    pair = "(lower, upper), each like x0, a number or None"
    if hasattr(bounds, "lb") and hasattr(bounds, "ub"):
        raise ValueError(f"bounds is a {type(bounds).__name__}; pass {pair}: (bounds.lb, bounds.ub).")
    if isinstance(bounds, np.ndarray | jax.Array):
        raise ValueError(f"bounds is one array of shape {bounds.shape}; pass {pair}: (bounds[:, 0], bounds[:, 1]).")
    if not isinstance(bounds, tuple | list) or len(bounds) != 2:
        raise ValueError(f"bounds has {_size(bounds)}; pass {pair}, not a pair for each variable.")
    bounds = type(bounds)(_without_none(side, end) for side, end in zip(bounds, (-jnp.inf, jnp.inf), strict=True))
    sides = [side for side in bounds if isinstance(side, tuple | list)]
    if not sides or not isinstance(x0, np.ndarray | jax.Array):
        return bounds
    # Two pairs in a list are meant as such; a pair of lists is (lower, upper).
    if (isinstance(bounds, list) and isinstance(sides[0], tuple)) or any(len(side) != x0.size for side in sides):
        raise ValueError(f"bounds has a pair for each variable, or as many numbers as x0 has not; pass {pair}.")
    return tuple(jnp.asarray(side, x0.dtype) if isinstance(side, tuple | list) else side for side in bounds)


def _without_none(side: Any, end: float) -> Any:
    """One side of the bounds, its None as that infinity."""
    return jax.tree.map(lambda bound: end if bound is None else bound, side, is_leaf=lambda bound: bound is None)


class WithoutAux(eqx.Module):
    """The residual of a function that returns it with something else beside it."""

    both: Callable[[Any, Any], tuple[Any, Any]]

    def __call__(self, x: Any, args: Any) -> Any:
        """The first of the pair."""
        pair = self.both(x, args)
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ValueError("residual returns no pair; with has_aux=True it returns (residuals, aux).")
        return pair[0]


def say_outside(x0: Any, box: Any) -> None:
    """A warning that names the parameters of x0 that lie outside of their bounds, where numbers are known."""
    if box is None or any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((x0, box))):
        return
    sides, start = (np.asarray(box.lower), np.asarray(box.upper)), 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(x0):
        lower, upper = (side[start : start + leaf.size].reshape(leaf.shape) for side in sides)
        start += leaf.size
        leaf = np.asarray(leaf)
        if ((leaf < lower) | (leaf > upper)).any() and (lower <= upper).all():
            name = f"x0{jax.tree_util.keystr(path)}"
            said = f"{name} lies outside its bounds; the search starts at the nearest point inside."
            warnings.warn(said, stacklevel=5)


def _size(bounds: Any) -> str:
    return f"{len(bounds)} entries" if isinstance(bounds, tuple | list) else f"the type {type(bounds).__name__}"


def shapes_of(name: str, fn: Callable[[Any, Any], Any], x: Any, args: Any) -> Any:
    """What a function returns, in shapes, or a ``ValueError`` where it is not one that JAX can trace."""
    try:
        return jax.eval_shape(fn, x, args)
    except jax.errors.TracerArrayConversionError as error:
        raise ValueError(
            f"{name} gives its parameters to a function of NumPy, which has no derivatives; write that of jax.numpy, "
            "such as jnp.exp for np.exp."
        ) from error
    except jax.errors.ConcretizationTypeError as error:
        raise ValueError(
            f"{name} needs the values of its parameters in Python, as if, float() and int() do; write jnp.where for "
            "if, and leave float() and int() out."
        ) from error
    except TypeError as error:
        if args is not None or "NoneType" not in str(error):
            raise
        raise ValueError(f"{name} was called with args=None, and says {error}; pass its data as args.") from error


def refuse_square(residual: Callable[[Any, Any], Any], x: Any, args: Any) -> None:
    """``ValueError`` where a residual is square because a column (n, 1) met a vector (n,)."""
    for leaf in jax.tree.leaves(shapes_of("residual", residual, x, args)):
        shape = jnp.shape(leaf)
        if len(shape) == 2 and shape[0] == shape[1] > 1 and _crossed(residual, x, args, shape[0]):
            raise ValueError(
                f"residual has shape {shape}, for a column {(shape[0], 1)} was combined with a vector {(shape[0],)}: "
                "ravel the column. If a matrix is meant, write [None, :] to make the vector a row."
            )


def _crossed(residual: Callable[[Any, Any], Any], x: Any, args: Any, n: int) -> bool:
    """Whether (n, 1) and (n,) meet in it: what JAX says first where arrays of different numbers of axes do."""
    with jax.numpy_rank_promotion("raise"):
        try:
            jax.eval_shape(lambda x, args: residual(x, args), x, args)
        except ValueError as error:
            said = str(error)
            return "rank_promotion" in said and (f"({n}, 1) ({n},)" in said or f"({n},) ({n}, 1)" in said)
    return False
