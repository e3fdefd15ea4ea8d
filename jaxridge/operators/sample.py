"""Some entries of an array, and any linear function, as operators."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer

from jaxridge.core.types import Array, Int
from jaxridge.operators.base import Operator, image_shape, structure, take


class Subsample(Operator):
    """Some entries of an array; see `subsample`."""

    at: Int[Array, "..."]

    def apply(self, x: Array) -> Array:
        return take(x.ravel(), self.at)


def subsample(shape: Any, where: Any, *, dtype: Any = None) -> Subsample:
    """The entries A x = x[where] of an array: what was observed, or every second pixel.

    Args:
        shape: of x. where: whatever NumPy takes between those brackets: a mask of that shape, slices such as
            ``numpy.s_[::2, ::2]``, arrays of indices, one for each axis. dtype: JAX's default float when None.

    Returns what NumPy would. ValueError for indices that NumPy refuses, or that are traced.

    >>> import jax.numpy as jnp
    >>> from jaxridge import operators
    >>> operators.subsample(5, slice(None, None, 2)).mv(jnp.arange(5.0)).tolist()
    [0.0, 2.0, 4.0]
    """
    shape = image_shape(shape, range(1, 9))
    if any(isinstance(part, Tracer) for part in jax.tree.leaves(where)):
        raise ValueError("where is traced; give a mask or indices that are known: build the operator outside jit.")
    where = jax.tree.map(lambda part: np.asarray(part) if isinstance(part, jax.Array) else part, where)
    try:
        at = np.arange(math.prod(shape)).reshape(shape)[where]
    except IndexError as error:
        raise ValueError(f"where does not index an array of shape {shape}: {error}.") from None
    return Subsample(structure(shape, dtype), structure(at.shape, dtype), jnp.asarray(at, jnp.int32))


def function(fn: Callable[[Any], Any], shape: Any, dtype: Any = None) -> lx.FunctionLinearOperator:
    """A linear function as an operator: ``fn`` of an array x of that shape, its adjoint by ``jax.linear_transpose``.

    ``shape`` may be a pytree of ``jax.ShapeDtypeStruct`` where x is one of arrays; `check_adjoint` tells whether fn is
    linear. Arrays that fn closes over are leaves of the operator, so that derivatives flow through them. Each operator
    is compiled anew: make it once, or write an `Operator` of your own.

    >>> import jax.numpy as jnp
    >>> from jaxridge import inverse, operators
    >>> A = operators.function(lambda x: jnp.cumsum(x), 3)
    >>> print(inverse.tikhonov(A, jnp.array([1.0, 2.0, 3.0]), 0.0).x.round(4))
    [1. 1. 1.]
    """
    if isinstance(shape, int):
        shape = (shape,)
    plain = isinstance(shape, tuple) and all(isinstance(n, int) for n in shape)
    x = structure(shape, dtype) if plain else shape
    try:
        jax.eval_shape(jax.linear_transpose(fn, x), jax.eval_shape(fn, x))
    except jax.errors.TracerArrayConversionError as error:
        raise ValueError("fn gives x to a function of NumPy or SciPy; write it with jax.numpy or jax.scipy.") from error
    except NotImplementedError as error:
        raise ValueError(f"fn has no adjoint, for it is not linear in x ({error}); pass a linear function.") from error
    return lx.FunctionLinearOperator(fn, x)
