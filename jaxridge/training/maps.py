"""Conductance maps: the weight w = φ(x) that a synapse in state x shows, its inverse, and the states it can take."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge.core.checks import as_function
from jaxridge.core.types import Array

__all__ = ["Conductance", "Custom", "Exponential", "Linear", "Tanh"]


class Conductance(eqx.Module):
    """An increasing φ, elementwise, on states low ≤ x ≤ high."""

    low: eqx.AbstractVar[Any]
    high: eqx.AbstractVar[Any]

    @abstractmethod
    def __call__(self, x: Array) -> Array:
        """w = φ(x)."""

    @abstractmethod
    def inverse(self, w: Array) -> Array:
        """x = φ⁻¹(w)."""

    def slope(self, x: Array) -> Array:
        """φ′(x)."""
        return jax.jvp(self, (x,), (jnp.ones_like(x),))[1]

    def held(self, x: Array) -> Array:
        """The nearest state that there is."""
        return jnp.clip(x, self.low, self.high)

    def state(self, w: Array) -> Array:
        """φ⁻¹ of the nearest weight that there is."""
        ends = jnp.stack([jnp.asarray(self.low, w.dtype), jnp.asarray(self.high, w.dtype)])
        return self.held(self.inverse(jnp.clip(w, *self(ends))))


class Tanh(Conductance):
    """w = tanh x: conductance that saturates at both ends, as that of a differential pair does.

    >>> import jax.numpy as jnp
    >>> from jaxridge.training import Tanh
    >>> print(Tanh()(jnp.array([0.0, 1.0])).round(3), Tanh().slope(jnp.array([0.0])))
    [0.    0.762] [1.]
    """

    low: Any = -3.0
    high: Any = 3.0

    def __call__(self, x: Array) -> Array:
        return jnp.tanh(x)

    def inverse(self, w: Array) -> Array:
        return jnp.arctanh(w)


class Exponential(Conductance):
    """w = eˣ: a filament's conductance, always positive; `differential` gives it both signs."""

    low: Any = -5.0
    high: Any = 2.0

    def __call__(self, x: Array) -> Array:
        return jnp.exp(x)

    def inverse(self, w: Array) -> Array:
        return jnp.log(w)


class Linear(Conductance):
    """w = x: the state is the weight, as it is for soft bounds."""

    low: Any = -1.0
    high: Any = 1.0

    def __call__(self, x: Array) -> Array:
        return x

    def inverse(self, w: Array) -> Array:
        return w


def _none(w: Array) -> Array:
    raise ValueError("map has no inverse, and this update sets weights through it; pass Custom(map, inverse=...).")


class Custom(Conductance):
    """A map of yours: an elementwise, increasing function of JAX, with its inverse where an update needs it.

    Args:
        map: φ. inverse: φ⁻¹, or None if no update sets weights. low, high: the states that there are.

    >>> import jax.numpy as jnp
    >>> from jaxridge.training import Custom
    >>> print(f"{Custom(jnp.sinh, jnp.arcsinh)(1.0):.3f}")
    1.175
    """

    map: Callable[[Array], Array] = eqx.field(
        static=True, converter=lambda map: as_function("map", map, "an elementwise function")
    )
    back: Callable[[Array], Array] = eqx.field(static=True)
    low: Any = -3.0
    high: Any = 3.0

    def __init__(self, map: Any, inverse: Any = None, low: Any = -3.0, high: Any = 3.0):
        self.map = as_function("map", map, "an elementwise function")
        self.back = _none if inverse is None else as_function("inverse", inverse, "the inverse function of map")
        self.low, self.high = low, high

    def __call__(self, x: Array) -> Array:
        return self.map(x)

    def inverse(self, w: Array) -> Array:
        return self.back(w)
