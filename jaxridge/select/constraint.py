"""The λ at which a norm has a given size, that of the coefficients or that of the residual: secular equations."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxridge.core.implicit import implicit_root, still
from jaxridge.core.numbers import matmul
from jaxridge.core.types import Array, Float
from jaxridge.linalg import secular
from jaxridge.linear.spectrum import Spectrum


def lam_of_norm(spectrum: Spectrum, size: Float[Array, " t"]) -> Float[Array, " t"]:
    """λ >= 0 with ‖w(λ)‖ = size for each target; 0 where ‖w(0)‖ <= size, ∞ where size is 0, NaN where it is NaN.

    ‖w‖² = Σ (s z/(s²+μ))² over the penalised directions, with μ = λ scale² and norms in units of the factor.
    Newton's method on log‖w‖ in log μ, where it is nearly linear, within a bracket. Differentiable in the
    problem and in ``size``, by the implicit function theorem on the live coefficients.
    """
    factor = spectrum.factor
    s, penalised = factor.s[:, None], factor.mask[:, None] > 0
    sz = jnp.where(penalised, s * factor.z, 0.0)
    target = jax.lax.stop_gradient(size) / factor.scale / factor.y_scale

    def log_excess(log_mu: Array) -> tuple[Array, Array]:
        mu = jnp.exp(log_mu)[None, :]
        denominator = jnp.where(s > 0, jnp.square(s) + mu, jnp.inf)
        squared = jnp.square(sz / denominator)
        total = jnp.sum(squared, axis=0)
        return 0.5 * jnp.log(total) - jnp.log(target), -jnp.sum(squared * mu / denominator, axis=0) / total

    # Below eps·s² of the least direction nothing changes to rounding; at ‖s z‖/size the norm is below size.
    smallest = jnp.min(jnp.where((s > 0) & penalised, s, jnp.inf), initial=jnp.inf)
    smallest = jnp.where(jnp.isfinite(smallest), smallest, 1.0)
    low = jnp.full(target.shape, 2 * jnp.log(smallest) + jnp.log(jnp.finfo(s.dtype).eps))
    high = jnp.log(jnp.linalg.norm(sz, axis=0)) - jnp.log(target)
    full = jnp.sqrt(jnp.sum(jnp.square(jnp.where(s > 0, sz / jnp.where(s > 0, jnp.square(s), 1.0), 0.0)), axis=0))
    # A norm is known to so many roundings; within them the size is that of least squares.
    slack = 1.0 + s.shape[0] * jnp.finfo(s.dtype).eps
    inside = (full <= target * slack) | (log_excess(low)[0] <= 0)
    regular = ~inside & (target > 0) & jnp.isfinite(high)
    root = secular.find_root(log_excess, low, jnp.where(regular, jnp.maximum(high, low) + 1.0, low + 1.0))

    def live_excess(log_lam: Array) -> Array:
        norm = spectrum.norm(jnp.exp(log_lam))
        excess = jnp.log(jnp.where(regular, norm, 1.0)) - jnp.log(jnp.where(regular, size, 1.0))
        return jnp.where(regular, excess, log_lam)

    log_lam = implicit_root(live_excess, root - 2 * jnp.log(factor.scale))
    lam = jnp.where(regular, jnp.exp(log_lam), jnp.where(inside, 0.0, jnp.inf))
    return jnp.where(jnp.isnan(target), jnp.nan, lam)


def lam_of_residual(spectrum: Any, squared: Float[Array, " t"], share: Float[Array, " t"] | None) -> Array:
    """λ ≥ 0 with ‖r(λ)‖² = squared for each target, or with a ``share`` for each, one λ for their weighted sum.

    0 where even ‖r(0)‖² is not below it, ∞ where ‖r(∞)‖² is not above it, NaN where it is NaN.
    """

    def log_excess(spectrum: Any, squared: Array, lam: Array) -> Array:
        rss = spectrum.rss(lam)
        if share is not None:
            rss, squared = matmul(share, rss), matmul(share, squared)
        return jnp.log(rss) - jnp.log(squared)

    return _root(log_excess, spectrum, squared, squared.shape if share is None else ())


def lam_of_any_norm(spectrum: Any, size: Float[Array, " t"]) -> Array:
    """`lam_of_norm` of a spectrum that is known by its exits: ‖Lx(λ)‖ = size for each target."""

    def log_excess(spectrum: Any, size: Array, lam: Array) -> Array:
        squared = spectrum.squared_norm(lam)
        none = (squared == 0) & (size == 0)
        return 2.0 * jnp.log(jnp.where(none, 1.0, size)) - jnp.log(jnp.where(none, 1.0, squared))

    return _root(log_excess, spectrum, size, size.shape)


def _root(log_excess: Any, spectrum: Any, size: Float[Array, " t"], shape: tuple[int, ...]) -> Array:
    """λ with log_excess(spectrum, size, λ) = 0, which grows with λ; 0 or ∞ where it has one sign.

    Newton's method in log λ within a bracket; differentiable in the problem and in ``size``.
    """
    frozen, target = still(spectrum), jax.lax.stop_gradient(size)
    s = frozen.singular_values
    eps, largest = jnp.finfo(s.dtype).eps, jnp.max(s, initial=0.0)
    largest = jnp.where(largest > 0, largest, 1.0)
    smallest = jnp.min(jnp.where(s > 0, s, largest), initial=jnp.inf)
    # Beyond these nothing changes to rounding.
    low = jnp.full(shape, 2 * jnp.log(smallest) + jnp.log(eps))
    high = jnp.full(shape, 2 * jnp.log(largest) - jnp.log(eps))

    def value_and_slope(x: Array) -> tuple[Array, Array]:
        return jax.jvp(lambda x: log_excess(frozen, target, jnp.exp(x)), (x,), (jnp.ones_like(x),))

    at_low = log_excess(frozen, target, jnp.exp(low))
    at_high = log_excess(frozen, target, jnp.full(shape, jnp.inf, s.dtype))
    regular = (at_low < 0) & (at_high > 0)
    root = secular.find_root(value_and_slope, low, high)
    x = implicit_root(lambda x: jnp.where(regular, log_excess(spectrum, size, jnp.exp(x)), x), root)
    lam = jnp.where(regular, jnp.exp(x), jnp.where(at_low >= 0, 0.0, jnp.inf))
    return jnp.where(jnp.isnan(at_low) | jnp.isnan(at_high), jnp.nan, lam)
