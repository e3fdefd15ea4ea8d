"""Kernels: positive semidefinite functions of a pair of points, to be added, multiplied, scaled and trained.

A kernel is an equinox module that evaluates one pair, ``kernel(x, z)``; everything else follows from that:

    >>> import jax.numpy as jnp
    >>> from jaxridge import kernels
    >>> kernel = 2.0 * kernels.RBF(scale=0.5) + kernels.Linear()
    >>> kernel(jnp.array([1.0]), jnp.array([1.0])).item()
    3.0
    >>> kernel.matrix(jnp.zeros((3, 1)), jnp.ones((2, 1))).shape
    (3, 2)

Numbers in a kernel (length scales, weights) are its leaves, so that optax trains them and derivatives of first
and second order are right also where points coincide. Points are vectors (d,), a set of them (n, d); a kernel of
your own, and what `Kernel.on` selects from, may take any pytree with a leading axis of points.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxridge.core.implicit import moves, with_rule
from jaxridge.core.numbers import poison
from jaxridge.core.parts import Function
from jaxridge.core.report import brief
from jaxridge.core.rows import same_kind
from jaxridge.core.types import Array, Float, Scalar
from jaxridge.core.verbs import verb

__all__ = ["Kernel", "Pairwise", "Precomputed"]


class Kernel(eqx.Module):
    """A function k(x, z) of two points. ``k + l``, ``k * l`` and ``2.0 * k`` are kernels; so is ``k.on(map)``."""

    def __call__(self, x: Any, z: Any) -> Scalar:
        """k(x, z) of one pair."""
        raise NotImplementedError

    def matrix(self, X: Any, Z: Any = None) -> Float[Array, "n m"]:
        """k of every pair: (n, m) for n and m points, (n, n) with an exact diagonal if there is one set only."""
        return _pairs(self, X, X if Z is None else Z)

    def diagonal(self, X: Any) -> Float[Array, " n"]:
        """k(x, x) of every point."""
        return jax.vmap(lambda x: self(x, x))(X)

    @property
    def definite(self) -> bool:
        """Whether matrices are positive semidefinite by construction."""
        return all(part.definite for part in vars(self).values() if isinstance(part, Kernel))

    def on(self, map: Callable[[Any], Any]) -> "Kernel":
        """k(map(x), map(z)): on a part of the points, or on what a feature network makes of them.

        >>> import jax.numpy as jnp
        >>> from jaxridge import kernels
        >>> kernel = kernels.RBF().on(lambda p: p["place"]) * kernels.Periodic().on(lambda p: p["time"])
        >>> kernel.matrix({"place": jnp.ones((4, 2)), "time": jnp.ones((4, 1))}).shape
        (4, 4)
        """
        return _Mapped(self, map)

    def __add__(self, other: "Kernel") -> "Kernel":
        return _Sum(self, other) if isinstance(other, Kernel) else NotImplemented

    def __mul__(self, other: Any) -> "Kernel":
        return _Product(self, other) if isinstance(other, Kernel) else _Weighted(as_leaf("weight", other), self)

    def __rmul__(self, other: Any) -> "Kernel":
        return _Weighted(as_leaf("weight", other), self)


def _pairs(kernel: Callable[[Any, Any], Array], X: Any, Z: Any) -> Array:
    same_kind("Z", Z, "X", X)
    K = jax.vmap(lambda x: jax.vmap(lambda z: kernel(x, z))(Z))(X)
    if jnp.ndim(K) != 2:
        raise ValueError(f"kernel gives shape {jnp.shape(K)[2:]} for a pair of points; it must give a number, ().")
    return K


def as_leaf(name: str, value: Any) -> Array:
    """A positive parameter as a floating array; concrete values that are not positive are refused."""
    if isinstance(value, str):
        raise ValueError(f"{name} is {value!r}; a kernel needs a positive number, such as {name}=1.0.")
    leaf = jnp.asarray(value, None if isinstance(value, jax.Array | np.ndarray) else jnp.result_type(float))
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        leaf = leaf.astype(jnp.result_type(float))
    if not isinstance(leaf, Tracer) and not np.all(np.asarray(leaf) > 0):
        raise ValueError(f"{name} is {value}; a kernel needs a positive one, such as {name}=1.0.")
    return leaf


def _factor(kernel: Kernel) -> str:
    return f"({brief(kernel)})" if isinstance(kernel, _Sum) else brief(kernel)


class _Sum(Kernel):
    left: Kernel
    right: Kernel

    def __call__(self, x: Any, z: Any) -> Scalar:
        return self.left(x, z) + self.right(x, z)

    def matrix(self, X: Any, Z: Any = None) -> Array:
        return self.left.matrix(X, Z) + self.right.matrix(X, Z)

    def diagonal(self, X: Any) -> Array:
        return self.left.diagonal(X) + self.right.diagonal(X)

    def __str__(self) -> str:
        return f"{brief(self.left)} + {brief(self.right)}"


class _Product(Kernel):
    left: Kernel
    right: Kernel

    def __call__(self, x: Any, z: Any) -> Scalar:
        return self.left(x, z) * self.right(x, z)

    def matrix(self, X: Any, Z: Any = None) -> Array:
        return self.left.matrix(X, Z) * self.right.matrix(X, Z)

    def diagonal(self, X: Any) -> Array:
        return self.left.diagonal(X) * self.right.diagonal(X)

    def __str__(self) -> str:
        return f"{_factor(self.left)} * {_factor(self.right)}"


class _Weighted(Kernel):
    """weight · k; a weight that training has made negative gives NaN, which has a code."""

    weight: Array
    kernel: Kernel

    def _times(self, k: Array) -> Array:
        return poison(self.weight, self.weight >= 0).astype(k.dtype) * k

    def __call__(self, x: Any, z: Any) -> Scalar:
        return self._times(self.kernel(x, z))

    def matrix(self, X: Any, Z: Any = None) -> Array:
        return self._times(self.kernel.matrix(X, Z))

    def diagonal(self, X: Any) -> Array:
        return self._times(self.kernel.diagonal(X))

    def __str__(self) -> str:
        return f"{brief(self.weight)} * {_factor(self.kernel)}"


class _Mapped(Kernel):
    kernel: Kernel
    map: Callable[[Any], Any] = eqx.field(converter=Function.of)

    def __call__(self, x: Any, z: Any) -> Scalar:
        return self.kernel(self.map(x), self.map(z))

    def matrix(self, X: Any, Z: Any = None) -> Array:
        return self.kernel.matrix(jax.vmap(self.map)(X), None if Z is None else jax.vmap(self.map)(Z))

    def diagonal(self, X: Any) -> Array:
        return self.kernel.diagonal(jax.vmap(self.map)(X))

    def __str__(self) -> str:
        return f"{_factor(self.kernel)}.on({brief(self.map)})"


class Pairwise(Kernel):
    """Any function of a pair of points, ``Pairwise(lambda x, z: ...)``, or an equinox module with such a call.

    That it is symmetric and positive semidefinite is the caller's promise; a matrix that is not has a code.
    """

    function: Callable[[Any, Any], Scalar] = eqx.field(converter=Function.of)

    @property
    def definite(self) -> bool:
        return False

    def __call__(self, x: Any, z: Any) -> Scalar:
        return self.function(x, z)


class Precomputed(Kernel):
    """The matrix itself: fit on ``K`` (n, n), predict on rows (m, n) of the kernel with the n points fitted on.

    A "point" is then a row of that matrix. Equals ``kernel="precomputed"`` of scikit-learn.
    """

    @property
    def definite(self) -> bool:
        return False

    def __call__(self, x: Any, z: Any) -> Scalar:
        raise ValueError("Precomputed has no function of a pair of points; use kernels.Pairwise for one.")

    def matrix(self, X: Any, Z: Any = None) -> Array:
        wanted = X.shape[0] if Z is None else Z.shape[0]
        if X.ndim != 2 or X.shape[1] != wanted:
            raise ValueError(f"X has shape {X.shape}; with a precomputed kernel it has a column per point: {wanted}.")
        return X

    def diagonal(self, X: Any) -> Array:
        if X.shape[0] != X.shape[1]:
            raise ValueError("Precomputed does not know k(x, x) at new points; pass a kernel that does.")
        return jnp.diagonal(X)


class Scaled(Kernel):
    """Kernels of vectors that are divided by a length scale first: a scalar, or one for each dimension (d,)."""

    scale: Array

    @verb()
    def __init__(self, scale: Any = 1.0):
        self.scale = as_leaf("scale", scale)

    def _vectors(self, x: Any) -> None:
        if not isinstance(x, jax.Array | np.ndarray):
            raise ValueError(
                f"a point is a {type(x).__name__} and {type(self).__name__} needs vectors (d,); make some of it, "
                'as in RBF().on(lambda point: point["place"]).'
            )

    def units(self, x: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
        """x in units of the length scale."""
        self._vectors(x)
        if x.ndim == 0 or (self.scale.ndim and self.scale.shape != x.shape[-1:]):
            raise ValueError(
                f"scale has shape {self.scale.shape} and a point {x.shape[-1:]}; "
                "one length scale, or one for each dimension, is needed, and points are vectors (d,)."
            )
        scale = poison(self.scale, self.scale > 0).astype(x.dtype)
        return x / jnp.broadcast_to(scale, x.shape)


def with_slopes(value: Callable, slope: Callable, curvature: Callable) -> Callable:
    """``value``, whose first and second derivatives in its first argument are given as functions.

    At u = 0 automatic differentiation through √u gives NaN, or with a guard 0 for what is not 0.
    """

    def of_value(u: Any, du: Any) -> tuple[Array, Array]:
        return smooth(*u), first(*u) * du[0] if moves(du[0]) else jnp.zeros_like(u[0])

    def of_slope(u: Any, du: Any) -> tuple[Array, Array]:
        return first(*u), curvature(*u) * du[0] if moves(du[0]) else jnp.zeros_like(u[0])

    first = with_rule(lambda *u: slope(*u), of_slope)
    smooth = with_rule(lambda *u: value(*u), of_value)
    return smooth
