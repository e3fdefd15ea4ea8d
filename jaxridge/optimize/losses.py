"""Robust losses ρ(z) of the squared residual z = r²: the cost is ½ Σ ρ(rᵢ²), and ρ(z) = z is least squares.

Every loss here has ρ(z) ≈ z near 0, so that small residuals count as in least squares, and grows more slowly for
large ones. A loss of your own is any elementwise function of z with ρ(0) = 0 and ρ'(0) = 1. The definitions are
those of ``scipy.optimize.least_squares``.
"""

from collections.abc import Callable

import jax.numpy as jnp

from jaxridge.core.types import Array

__all__ = ["Loss", "arctan", "cauchy", "huber", "linear", "scaled", "soft_l1"]

Loss = Callable[[Array], Array]


def linear(z: Array) -> Array:
    """ρ(z) = z: least squares."""
    return z


def huber(z: Array) -> Array:
    """ρ(z) = z up to 1, 2√z − 1 beyond: squares near 0, absolute values far out. Huber (1964).

    >>> import jax.numpy as jnp
    >>> from jaxridge import losses
    >>> print(losses.huber(jnp.array([0.25, 9.0])))
    [0.25 5.  ]
    """
    outer = z > 1
    return jnp.where(outer, 2.0 * jnp.sqrt(jnp.where(outer, z, 1.0)) - 1.0, z)


def soft_l1(z: Array) -> Array:
    """ρ(z) = 2(√(1+z) − 1), as 2z/(√(1+z) + 1): a smooth `huber`."""
    return 2.0 * z / (jnp.sqrt(1.0 + z) + 1.0)


def cauchy(z: Array) -> Array:
    """ρ(z) = log(1 + z): the likelihood of Cauchy errors. Strong, and no longer convex."""
    return jnp.log1p(z)


def arctan(z: Array) -> Array:
    """ρ(z) = arctan z: bounded, so that a far outlier has no influence at all."""
    return jnp.arctan(z)


def scaled(loss: Loss, scale: float) -> Loss:
    """C² ρ(z/C²): residuals below the scale C count as in least squares. SciPy's ``f_scale``.

    >>> import jax.numpy as jnp
    >>> from jaxridge import losses
    >>> print(losses.scaled(losses.huber, 2.0)(jnp.array(16.0)))
    12.0
    """
    if not callable(loss):
        raise ValueError(f"loss is {loss!r}; pass the function, such as losses.huber.")

    def rho(z: Array) -> Array:
        return scale * scale * loss(z / (scale * scale))

    return rho
