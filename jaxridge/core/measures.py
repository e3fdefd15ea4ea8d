"""How well predictions meet targets: R², mean squared error, explained variance, one number for each target."""

from typing import Any

import jax.numpy as jnp

from jaxridge.core.checks import as_floats
from jaxridge.core.numbers import matmul, safe_divide
from jaxridge.core.types import Array, Float

__all__ = ["explained_variance", "mse", "r2"]


def mse(y: Any, predicted: Any, *, weights: Any = None) -> Float[Array, "*t"]:
    """Σω(y − ŷ)²/Σω, () or (t,). Equals ``sklearn.metrics.mean_squared_error(multioutput="raw_values")``.

    Args: y and predicted (n,) or (n, t); weights (n,), or None for all ones.

    >>> import jax.numpy as jnp
    >>> from jaxridge.core import measures
    >>> print(measures.mse(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])))
    2.0
    """
    y, predicted, weights = _checked(y, predicted, weights)
    return _mean(jnp.square(y - predicted), weights)


def r2(y: Any, predicted: Any, *, weights: Any = None) -> Float[Array, "*t"]:
    """1 − Σω(y − ŷ)²/Σω(y − ȳ)², NaN for targets that do not vary. Equals ``sklearn.metrics.r2_score`` elsewhere.

    >>> import jax.numpy as jnp
    >>> from jaxridge.core import measures
    >>> print(measures.r2(jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 2.0, 4.0])))
    0.5
    """
    y, predicted, weights = _checked(y, predicted, weights)
    return _share(_mean(jnp.square(y - predicted), weights), _variance(y, weights))


def explained_variance(y: Any, predicted: Any, *, weights: Any = None) -> Float[Array, "*t"]:
    """1 − Var(y − ŷ)/Var(y): `r2` of predictions whose mean error is taken off.

    Equals ``sklearn.metrics.explained_variance_score``.

    >>> import jax.numpy as jnp
    >>> from jaxridge.core import measures
    >>> print(measures.explained_variance(jnp.array([1.0, 2.0, 3.0]), jnp.array([2.0, 3.0, 4.0])))
    1.0
    """
    y, predicted, weights = _checked(y, predicted, weights)
    return _share(_variance(y - predicted, weights), _variance(y, weights))


def _checked(y: Any, predicted: Any, weights: Any) -> tuple[Array, Array, Array | None]:
    y, predicted = as_floats("y", y, (1, 2)), as_floats("predicted", predicted, (1, 2))
    if y.shape != predicted.shape:
        raise ValueError(f"y has shape {y.shape} and the predictions {predicted.shape}; pass targets of the same rows.")
    if weights is not None:
        weights = as_floats("weights", weights, (1,))
        if weights.shape != y.shape[:1]:
            raise ValueError(f"weights has shape {weights.shape}; pass one for each of the {y.shape[0]} rows.")
        weights = weights.astype(y.dtype)
    return y, predicted.astype(y.dtype), weights


def _mean(x: Float[Array, "n *t"], weights: Float[Array, " n"] | None) -> Float[Array, "*t"]:
    return jnp.mean(x, axis=0) if weights is None else matmul(weights, x) / jnp.sum(weights)


def _variance(x: Float[Array, "n *t"], weights: Float[Array, " n"] | None) -> Float[Array, "*t"]:
    return _mean(jnp.square(x - _mean(x, weights)[None]), weights)


def _share(part: Array, whole: Array) -> Array:
    return jnp.where(whole == 0, jnp.nan, 1.0 - safe_divide(part, whole))
