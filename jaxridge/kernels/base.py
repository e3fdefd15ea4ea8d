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

from jaxridge.core.numbers import matmul, poison, safe_divide, safe_sqrt
from jaxridge.core.rows import same_kind
from jaxridge.core.types import Array, Float, Scalar

__all__ = [
    "RBF",
    "ArcCosine",
    "Cosine",
    "Kernel",
    "Laplace",
    "Linear",
    "Matern12",
    "Matern32",
    "Matern52",
    "Pairwise",
    "Periodic",
    "Polynomial",
    "Precomputed",
    "RationalQuadratic",
]


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
    leaf = jnp.asarray(value, None if isinstance(value, jax.Array | np.ndarray) else jnp.result_type(float))
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        leaf = leaf.astype(jnp.result_type(float))
    if not isinstance(leaf, Tracer) and not np.all(np.asarray(leaf) > 0):
        raise ValueError(f"{name} is {value}; a kernel needs a positive one, such as {name}=1.0.")
    return leaf


class _Sum(Kernel):
    left: Kernel
    right: Kernel

    def __call__(self, x: Any, z: Any) -> Scalar:
        return self.left(x, z) + self.right(x, z)

    def matrix(self, X: Any, Z: Any = None) -> Array:
        return self.left.matrix(X, Z) + self.right.matrix(X, Z)

    def diagonal(self, X: Any) -> Array:
        return self.left.diagonal(X) + self.right.diagonal(X)


class _Product(Kernel):
    left: Kernel
    right: Kernel

    def __call__(self, x: Any, z: Any) -> Scalar:
        return self.left(x, z) * self.right(x, z)

    def matrix(self, X: Any, Z: Any = None) -> Array:
        return self.left.matrix(X, Z) * self.right.matrix(X, Z)

    def diagonal(self, X: Any) -> Array:
        return self.left.diagonal(X) * self.right.diagonal(X)


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


class _Mapped(Kernel):
    kernel: Kernel
    map: Callable[[Any], Any]

    def __call__(self, x: Any, z: Any) -> Scalar:
        return self.kernel(self.map(x), self.map(z))

    def matrix(self, X: Any, Z: Any = None) -> Array:
        return self.kernel.matrix(jax.vmap(self.map)(X), None if Z is None else jax.vmap(self.map)(Z))

    def diagonal(self, X: Any) -> Array:
        return self.kernel.diagonal(jax.vmap(self.map)(X))


class Pairwise(Kernel):
    """Any function of a pair of points, ``Pairwise(lambda x, z: ...)``, or an equinox module with such a call.

    That it is symmetric and positive semidefinite is the caller's promise; a matrix that is not has a code.
    """

    function: Callable[[Any, Any], Scalar]

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


class _Scaled(Kernel):
    """Kernels of vectors that are divided by a length scale first: a scalar, or one for each dimension (d,)."""

    scale: Array

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


class _OfProducts(_Scaled):
    """Kernels of x·z, ‖x‖² and ‖z‖²."""

    def of(self, product: Array) -> Array:
        raise NotImplementedError

    def __call__(self, x: Array, z: Array) -> Scalar:
        return self.of(jnp.sum(self.units(x) * self.units(z)))

    def matrix(self, X: Array, Z: Array | None = None) -> Array:
        return self.of(_products(self.units(X), None if Z is None else self.units(Z)))


def _products(X: Float[Array, "n d"], Z: Float[Array, "m d"] | None) -> Float[Array, "n m"]:
    """xᵢ·zⱼ."""
    if Z is None:
        return matmul(X, X.T)
    same_kind("Z", Z, "X", X)
    return matmul(X, Z.T)


class Linear(_OfProducts):
    """Σⱼ xⱼzⱼ/ℓⱼ²: kernel ridge with it is ridge. Equals ``sklearn.metrics.pairwise.linear_kernel`` at ℓ = 1."""

    def of(self, product: Array) -> Array:
        return product


class Polynomial(_OfProducts):
    """(Σⱼ xⱼzⱼ/ℓⱼ² + c)^degree, with c = ``offset``.

    Equals ``sklearn.metrics.pairwise.polynomial_kernel`` with gamma = 1/ℓ² and coef0 = c.
    """

    degree: int = eqx.field(static=True)
    offset: Array

    def __init__(self, degree: int = 3, offset: Any = 1.0, scale: Any = 1.0):
        super().__init__(scale)
        if not isinstance(degree, int) or degree < 1:
            raise ValueError(f"degree is {degree!r}; a polynomial kernel needs a whole number from 1 on.")
        self.degree, self.offset = degree, as_leaf("offset", offset)

    def of(self, product: Array) -> Array:
        return (product + self.offset.astype(product.dtype)) ** self.degree


class _Stationary(_Scaled):
    """Kernels of the squared distance u = Σⱼ (xⱼ − zⱼ)²/ℓⱼ², smooth enough in u to form it from products."""

    def of(self, u: Array) -> Array:
        raise NotImplementedError

    def __call__(self, x: Array, z: Array) -> Scalar:
        return self.of(jnp.sum(jnp.square(self.units(x) - self.units(z))))

    def matrix(self, X: Array, Z: Array | None = None) -> Array:
        return self.of(_squared_distances(self.units(X), None if Z is None else self.units(Z)))

    def diagonal(self, X: Array) -> Array:
        return self.of(jnp.sum(0.0 * self.units(X), axis=1))


def _squared_distances(X: Float[Array, "n d"], Z: Float[Array, "m d"] | None) -> Float[Array, "n m"]:
    """‖xᵢ − zⱼ‖² as ‖x‖² + ‖z‖² − 2x·z, about the mean of the points, where little cancels.

    What rounding takes below 0 is 0 in value, but keeps its derivatives; a point's distance from itself is 0.
    """
    if Z is not None:
        same_kind("Z", Z, "X", X)
    centre = jax.lax.stop_gradient(jnp.mean(X if Z is None else Z, axis=0, keepdims=True))
    X = X - centre
    other = X if Z is None else Z - centre
    sums = jnp.sum(jnp.square(X), axis=1)[:, None] + jnp.sum(jnp.square(other), axis=1)[None, :]
    u = sums - 2.0 * matmul(X, other.T)
    u = u + jax.lax.stop_gradient(jnp.maximum(u, 0.0) - u)
    return jnp.where(jnp.eye(X.shape[0], dtype=bool), 0.0 * u, u) if Z is None else u


class RBF(_Stationary):
    """exp(−u/2), u = Σⱼ (xⱼ − zⱼ)²/ℓⱼ²: the Gaussian, or squared exponential.

    Equals ``sklearn.gaussian_process.kernels.RBF(length_scale=scale)``, and ``rbf_kernel`` with gamma = 1/(2ℓ²).
    """

    def of(self, u: Array) -> Array:
        return jnp.exp(-0.5 * u)


class RationalQuadratic(_Stationary):
    """(1 + u/(2α))^(−α): Gaussians of all length scales, α = ``mixture``.

    Equals ``sklearn.gaussian_process.kernels.RationalQuadratic(length_scale=scale, alpha=mixture)``.
    """

    mixture: Array

    def __init__(self, mixture: Any = 1.0, scale: Any = 1.0):
        super().__init__(scale)
        self.mixture = as_leaf("mixture", mixture)

    def of(self, u: Array) -> Array:
        alpha = self.mixture.astype(u.dtype)
        return jnp.exp(-alpha * jnp.log1p(u / (2.0 * alpha)))


def _with_slopes(value: Callable, slope: Callable, curvature: Callable) -> Callable:
    """``value``, whose first and second derivatives in its first argument are given as functions.

    At u = 0 automatic differentiation through √u gives NaN, or with a guard 0 for what is not 0.
    """

    @jax.custom_jvp
    def first(*u: Array) -> Array:
        return slope(*u)

    @jax.custom_jvp
    def smooth(*u: Array) -> Array:
        return value(*u)

    first.defjvp(lambda u, du: (first(*u), curvature(*u) * du[0]))
    smooth.defjvp(lambda u, du: (smooth(*u), first(*u) * du[0]))
    return smooth


def _decaying(polynomial: Callable[[Array], Array], factor: float) -> Callable[[Array], Array]:
    """u ↦ polynomial(a) exp(−a) with a = √(factor·u)."""

    def of(u: Array) -> Array:
        a = safe_sqrt(factor * u)
        return polynomial(a) * jnp.exp(-a)

    return of


# k″ of Matérn 3/2 is infinite at u = 0, where it is multiplied by distances: any finite number does.
_matern32 = _with_slopes(
    _decaying(lambda a: 1.0 + a, 3.0),
    _decaying(lambda a: jnp.full_like(a, -1.5), 3.0),
    _decaying(lambda a: safe_divide(jnp.full_like(a, 2.25), a), 3.0),
)
_matern52 = _with_slopes(
    _decaying(lambda a: 1.0 + a + jnp.square(a) / 3.0, 5.0),
    _decaying(lambda a: -(1.0 + a) * (5.0 / 6.0), 5.0),
    _decaying(lambda a: jnp.full_like(a, 25.0 / 12.0), 5.0),
)


class Matern32(_Stationary):
    """(1 + a) exp(−a), a = √(3u): paths with one derivative.

    Equals ``sklearn.gaussian_process.kernels.Matern(length_scale=scale, nu=1.5)``.
    """

    def of(self, u: Array) -> Array:
        return _matern32(u)


class Matern52(_Stationary):
    """(1 + a + a²/3) exp(−a), a = √(5u): paths with two derivatives.

    Equals ``sklearn.gaussian_process.kernels.Matern(length_scale=scale, nu=2.5)``.
    """

    def of(self, u: Array) -> Array:
        return _matern52(u)


class _Kinked(_Scaled):
    """Kernels with a kink where points coincide, where their derivative is defined as 0: by plain differences.

    The product form of distances would lose a thousandth near duplicates in float32.
    """

    def of_difference(self, difference: Float[Array, " d"]) -> Scalar:
        raise NotImplementedError

    def __call__(self, x: Array, z: Array) -> Scalar:
        return self.of_difference(self.units(x) - self.units(z))


class Matern12(_Kinked):
    """exp(−r), r = √u: the exponential, or Ornstein–Uhlenbeck kernel.

    Equals ``sklearn.gaussian_process.kernels.Matern(length_scale=scale, nu=0.5)``.
    """

    def of_difference(self, difference: Array) -> Scalar:
        return jnp.exp(-safe_sqrt(jnp.sum(jnp.square(difference))))


class Laplace(_Kinked):
    """exp(−Σⱼ |xⱼ − zⱼ|/ℓⱼ): the ℓ1 kernel. Equals ``sklearn.metrics.pairwise.laplacian_kernel``, gamma = 1/ℓ."""

    def of_difference(self, difference: Array) -> Scalar:
        # |x| has the derivative 1 at 0 for JAX.
        size = jnp.where(difference == 0, 0.0, jnp.abs(jnp.where(difference == 0, 1.0, difference)))
        return jnp.exp(-jnp.sum(size))


class Periodic(_Scaled):
    """exp(−2 Σⱼ sin²(π(xⱼ − zⱼ)/pⱼ)/ℓⱼ²), p = ``period``; smooth.

    Equals ``sklearn.gaussian_process.kernels.ExpSineSquared`` in one dimension.
    """

    period: Array

    def __init__(self, period: Any = 1.0, scale: Any = 1.0):
        super().__init__(scale)
        self.period = as_leaf("period", period)

    def __call__(self, x: Array, z: Array) -> Scalar:
        period = jnp.broadcast_to(poison(self.period, self.period > 0).astype(x.dtype), x.shape)
        return jnp.exp(-2.0 * jnp.sum(jnp.square(self.units(jnp.sin(jnp.pi * (x - z) / period)))))


def _direction(x: Float[Array, " d"]) -> tuple[Array, Array]:
    """x/‖x‖ and ‖x‖; the zero vector has no direction."""
    length = safe_sqrt(jnp.sum(jnp.square(x)))
    return safe_divide(x, jnp.broadcast_to(length, x.shape)), length


class Cosine(_Scaled):
    """x·z/(‖x‖‖z‖), and 0 for a zero vector. Equals ``sklearn.metrics.pairwise.cosine_similarity``."""

    def __call__(self, x: Array, z: Array) -> Scalar:
        return jnp.sum(_direction(self.units(x))[0] * _direction(self.units(z))[0])

    def matrix(self, X: Array, Z: Array | None = None) -> Array:
        unit = jax.vmap(lambda x: _direction(self.units(x))[0])
        return _products(unit(X), None if Z is None else unit(Z))


def _angle(w: Array, v: Array) -> Array:
    """θ from w = sin²(θ/2) and v = cos²(θ/2), each to full precision."""
    return 2.0 * jnp.arctan2(safe_sqrt(w), safe_sqrt(v))


def _slope_of_angle(w: Array, v: Array) -> Array:
    """dθ/dw = 1/√(wv), 0 at the kink."""
    product = safe_sqrt(w * v)
    return safe_divide(jnp.ones_like(product), product)


_arc0 = _with_slopes(
    lambda w, v: 1.0 - _angle(w, v) / jnp.pi,
    lambda w, v: -_slope_of_angle(w, v) / jnp.pi,
    lambda w, v: 0.5 * (v - w) * _slope_of_angle(w, v) ** 3 / jnp.pi,
)
_arc1 = _with_slopes(
    lambda w, v: (jnp.sin(_angle(w, v)) + (jnp.pi - _angle(w, v)) * (v - w)) / jnp.pi,
    lambda w, v: -2.0 * (1.0 - _angle(w, v) / jnp.pi),
    lambda w, v: 2.0 * _slope_of_angle(w, v) / jnp.pi,
)


class ArcCosine(_Scaled):
    """The kernel of an infinitely wide layer: ‖x‖‖z‖ (sin θ + (π − θ) cos θ)/π for ReLU units, order 1.

    Order 0, 1 − θ/π, is that of step units; θ is the angle between x and z. Sums and products of both, as in
    ``ArcCosine(1) + Linear() * ArcCosine(0)``, make neural tangent kernels.
    Cho and Saul (2009), NeurIPS 22, equation 6.
    """

    order: int = eqx.field(static=True)

    def __init__(self, order: int = 1, scale: Any = 1.0):
        super().__init__(scale)
        if order not in (0, 1):
            raise ValueError(f"order is {order!r}; arc-cosine kernels of order 0 and 1 are here.")
        self.order = order

    def __call__(self, x: Array, z: Array) -> Scalar:
        (x, x_length), (z, z_length) = _direction(self.units(x)), _direction(self.units(z))
        w, v = 0.25 * jnp.sum(jnp.square(x - z)), 0.25 * jnp.sum(jnp.square(x + z))
        return _arc0(w, v) if self.order == 0 else x_length * z_length * _arc1(w, v)
