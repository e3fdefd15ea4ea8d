"""Kernels of the distance between two points, finite and with right derivatives also where that is 0."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxridge.core.numbers import centre_of, matmul, poison, safe_divide, safe_sqrt
from jaxridge.core.rows import same_kind
from jaxridge.core.types import Array, Float, Scalar
from jaxridge.kernels.base import Scaled, as_leaf, with_slopes

__all__ = ["RBF", "Laplace", "Matern12", "Matern32", "Matern52", "Periodic", "RationalQuadratic"]


class _Stationary(Scaled):
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
    centre = jax.lax.stop_gradient(centre_of(X if Z is None else Z))
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


def _decaying(polynomial: Callable[[Array], Array], factor: float) -> Callable[[Array], Array]:
    """u ↦ polynomial(a) exp(−a) with a = √(factor·u)."""

    def of(u: Array) -> Array:
        a = safe_sqrt(factor * u)
        return polynomial(a) * jnp.exp(-a)

    return of


# k″ of Matérn 3/2 is infinite at u = 0, where it is multiplied by distances: any finite number does.
_matern32 = with_slopes(
    _decaying(lambda a: 1.0 + a, 3.0),
    _decaying(lambda a: jnp.full_like(a, -1.5), 3.0),
    _decaying(lambda a: safe_divide(jnp.full_like(a, 2.25), a), 3.0),
)
_matern52 = with_slopes(
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


class _Kinked(Scaled):
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


class Periodic(Scaled):
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
