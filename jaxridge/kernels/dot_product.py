"""Kernels of the product of two points and of the angle between them."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge.core.numbers import matmul, safe_divide, safe_sqrt
from jaxridge.core.rows import same_kind
from jaxridge.core.types import Array, Float, Scalar
from jaxridge.kernels.base import Scaled, as_leaf, with_slopes

__all__ = ["ArcCosine", "Cosine", "Linear", "Polynomial"]


class _OfProducts(Scaled):
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


def _direction(x: Float[Array, " d"]) -> tuple[Array, Array]:
    """x/‖x‖ and ‖x‖; the zero vector has no direction."""
    length = safe_sqrt(jnp.sum(jnp.square(x)))
    return safe_divide(x, jnp.broadcast_to(length, x.shape)), length


class Cosine(Scaled):
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


_arc0 = with_slopes(
    lambda w, v: 1.0 - _angle(w, v) / jnp.pi,
    lambda w, v: -_slope_of_angle(w, v) / jnp.pi,
    lambda w, v: 0.5 * (v - w) * _slope_of_angle(w, v) ** 3 / jnp.pi,
)
_arc1 = with_slopes(
    lambda w, v: (jnp.sin(_angle(w, v)) + (jnp.pi - _angle(w, v)) * (v - w)) / jnp.pi,
    lambda w, v: -2.0 * (1.0 - _angle(w, v) / jnp.pi),
    lambda w, v: 2.0 * _slope_of_angle(w, v) / jnp.pi,
)


class ArcCosine(Scaled):
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
