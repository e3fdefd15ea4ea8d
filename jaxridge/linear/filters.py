"""Filters: what a method keeps of each singular direction, f, and what it leaves of it, 1 − f, without subtraction.

A filter is a function ``(e, lam) -> (f, 1 − f)`` of squares of singular values and one parameter, elementwise.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxridge.core.numbers import safe_divide
from jaxridge.core.types import Array

__all__ = ["Filter", "stopping", "tikhonov", "truncated"]

Filter = Callable[[Array, Array], tuple[Array, Array]]


def tikhonov(e: Array, lam: Array) -> tuple[Array, Array]:
    """Ridge: e/(e + λ).

    >>> import jax.numpy as jnp
    >>> from jaxridge.linear import filters
    >>> print(filters.tikhonov(jnp.array([3.0, 0.0]), jnp.array(1.0))[0])
    [0.75 0.  ]
    """
    far = jnp.isinf(lam)
    lam = jnp.where(far, 1.0, lam)
    f, rest = safe_divide(e, e + lam), jnp.where(e == 0, 1.0, safe_divide(lam, e + lam))
    return jnp.where(far, 0.0, f), jnp.where(far, 1.0, rest)


def truncated(e: Array, lam: Array) -> tuple[Array, Array]:
    """Truncation, the pseudo-inverse of a lower rank: 1 where e > 0 and e ≥ λ, else 0."""
    kept = ((e > 0) & (e >= lam)).astype(e.dtype)
    return kept, 1.0 - kept


def stopping(rate: Any) -> Filter:
    """Gradient descent from 0 on ‖Xw − y‖², stopped after λ steps: f = 1 − (1 − 2 rate e)^λ, for 2 rate e < 1.

    >>> import jax.numpy as jnp
    >>> from jaxridge.linear import filters
    >>> print(filters.stopping(0.25)(jnp.array([1.0]), jnp.array(2.0))[0])
    [0.75]
    """

    def stopped(e: Array, lam: Array) -> tuple[Array, Array]:
        logs = lam * jnp.log1p(-2.0 * jnp.asarray(rate, e.dtype) * e)
        return -jnp.expm1(logs), jnp.exp(logs)

    return stopped
