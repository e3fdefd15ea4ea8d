"""The mean change of a weight when its state is disturbed: E[φ(x + σξ)] − φ(x), exactly and by its expansion."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxridge.core.checks import as_floats
from jaxridge.core.types import Array, Float

__all__ = ["drift", "drift_expansion", "normal_nodes"]

NODES = 40  # of Gauss–Hermite: tanh to 1e-12 at σ = 0.1 and to 1e-8 at 0.5
LEGENDRE = 8


def normal_nodes(count: int, dtype: Any) -> tuple[Array, Array]:
    """Nodes ξ and weights of Gauss–Hermite for a standard normal number."""
    z, p = np.polynomial.hermite_e.hermegauss(count)
    return jnp.asarray(z, dtype), jnp.asarray(p / p.sum(), dtype)


def drift(map: Callable[[Array], Array], x: Any, noise: Any, *, nodes: int = NODES) -> Float[Array, "..."]:
    """The mean one-step drift E[φ(x + σξ)] − φ(x), ξ standard normal.

    Args:
        map: φ, elementwise, twice differentiable. x: states, any shape. noise: σ, a number or like x.
        nodes: of Gauss–Hermite.

    Written as σ²∫₀¹ t E φ″(x + tσξ) dt, the heat equation, which subtracts nothing: float32 keeps its digits at any σ.
    For tanh it is −σ²w(1 − w²) to lowest order, a decay towards zero.
    Equals that difference by ``scipy.integrate.quad``.

    >>> import jax.numpy as jnp
    >>> from jaxridge.training import drift
    >>> print(f"{drift(jnp.tanh, 1.0, 0.3):.5f}")
    -0.02795
    """
    x, sigma = _states(x, noise)
    z, p = normal_nodes(nodes, x.dtype)
    t, q = np.polynomial.legendre.leggauss(LEGENDRE)
    t, q = jnp.asarray((t + 1) / 2, x.dtype), jnp.asarray(q / 2, x.dtype)
    second = _derivative(map, 2)
    at = lambda x, sigma: sigma**2 * jnp.sum(jnp.outer(t * q, p) * second(x + sigma * jnp.outer(t, z)))  # noqa: E731
    return jnp.vectorize(at)(x, sigma)


def drift_expansion(map: Callable[[Array], Array], x: Any, noise: Any, *, order: int = 4) -> Float[Array, "..."]:
    """σ²φ″/2, and with ``order`` 4 + σ⁴φ⁗/8: what `drift` is for small noise.

    For tanh at x = 0.4 the first term alone is 1.6 % off at σ = 0.1 and 14 % at 0.3, both 0.03 % and 2.4 %.

    >>> import jax.numpy as jnp
    >>> from jaxridge.training import drift_expansion
    >>> print(f"{drift_expansion(jnp.tanh, 1.0, 0.3, order=2):.5f}")
    -0.02879
    """
    if order not in (2, 4):
        raise ValueError(f"order is {order!r}; pass 2 or 4.")
    x, sigma = _states(x, noise)
    second = sigma**2 * _derivative(map, 2)(x) / 2
    return second if order == 2 else second + sigma**4 * _derivative(map, 4)(x) / 8


def _states(x: Any, noise: Any) -> tuple[Array, Array]:
    """x and σ in one dtype and one shape."""
    x = as_floats("x", x, tuple(range(9)))
    x, sigma = jnp.broadcast_arrays(x, jnp.asarray(noise, x.dtype))
    return x, sigma


def _derivative(map: Callable[[Array], Array], order: int) -> Callable[[Array], Array]:
    """The derivative of an elementwise function."""
    for _ in range(order):
        map = lambda x, map=map: jax.jvp(map, (x,), (jnp.ones_like(x),))[1]  # noqa: E731
    return map
