"""The λ of a ridge problem at which the coefficients have a given norm, from the spectrum itself."""

import jax
import jax.numpy as jnp

from jaxridge.core import implicit
from jaxridge.core.types import Array, Float
from jaxridge.linalg import secular
from jaxridge.linear.spectrum import Spectrum


def lam_of_norm(spectrum: Spectrum, size: Float[Array, " t"]) -> Float[Array, " t"]:
    """λ >= 0 with ‖w(λ)‖ = size for each target; 0 where ‖w(0)‖ <= size, ∞ where size is 0, NaN where it is NaN.

    ‖w‖² = Σ (s z/(s²+μ))² over the penalised directions, with μ = λ scale² and norms in units of the factor.
    Newton's method on log‖w‖ in log μ, where it is nearly linear, within a bracket. Differentiable in the
    problem and in ``size``, by the implicit function theorem on the live coefficients; where ``size`` is ‖w(0)‖ itself
    the derivative is the one towards smaller sizes.
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
    # Where the size is that of least squares λ = 0 is the root itself, with the derivative towards smaller sizes.
    edge = inside & (full > 0) & (jnp.abs(full - target) <= (slack - 1.0) * target)
    failed = jnp.isnan(target) | jnp.isnan(high)
    regular = ~inside & (target > 0) & jnp.isfinite(high)
    root = secular.find_root(log_excess, low, jnp.where(regular, jnp.maximum(high, low) + 1.0, low + 1.0))

    # What failed has NaN in its derivatives too, through the same equation.
    regular, root = regular | failed, jnp.where(failed, jnp.nan, root - 2 * jnp.log(factor.scale))

    def lam_at(x: Array) -> Array:
        return jnp.where(edge, x, jnp.exp(jnp.where(edge, 0.0, x)))

    def live_excess(x: Array) -> Array:
        norm = spectrum.norm(lam_at(x))
        excess = jnp.log(jnp.where(regular, norm, 1.0)) - jnp.log(jnp.where(regular, size, 1.0))
        return jnp.where(regular, excess, jnp.where(edge, norm - size, x))

    x = implicit.root(live_excess, jnp.where(edge, 0.0, root))
    return jnp.where(regular | edge, lam_at(x), jnp.where(inside, 0.0, jnp.inf))
