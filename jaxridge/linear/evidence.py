"""The λ of most evidence for each target, from one spectrum: a stationary point in log λ, or an end, λ = 0 or ∞.

With e = s² and z = Uᵀŷ over the r penalised directions, f = e/(e + λ), the misfit Q(λ) = Σ(1−f)z² + rss⊥ and N
measurements, minus twice the log evidence with the most probable variance σ² = Q/N in it is, up to a constant,

    E(λ) = N log Q + Σ log(1 + e/λ)        dE/d log λ = Σ f [(1−f)z²/σ² − 1]

and Q/σ² stands for N log Q where σ² is known. As λ → ∞ the slope has the sign of Σe(z²/σ² − 1): where that is negative
the prior is all there is. As λ → 0 the evidence stays below its value elsewhere unless rss⊥ = 0, a perfect fit.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxridge.core import implicit
from jaxridge.core.numbers import matmul, safe_divide
from jaxridge.core.types import Array, Bool, Float, Scalar
from jaxridge.linalg import secular
from jaxridge.linear import rounding
from jaxridge.linear.spectrum import Spectrum
from jaxridge.select.rules import MarginalLikelihood

GRID = 96  # points between which the slope changes sign once: it varies over log λ as f does, on a scale of 1
BEYOND = 40.0  # log λ above log e₁: rounding hides the sign of a slope that far out


class Best(NamedTuple):
    """λ (t,) of most evidence, live where it is a stationary point, and which end it lies at."""

    lam: Float[Array, " t"]
    prior_only: Bool[Array, " t"]
    perfect: Bool[Array, " t"]
    at_perfect: Float[Array, " t"]  # the log evidence of a perfect fit, infinite where it grows without bound


class Profile(NamedTuple):
    """What the evidence of every target depends on, frozen, in the units of the standard form."""

    e: Float[Array, " r"]
    squares: Float[Array, "r t"]  # z²
    outside: Float[Array, " t"]  # rss⊥, 0 where it is rounding
    count: Scalar  # N
    noise: Float[Array, " t"] | None

    def misfit(self, x: Float[Array, " t"]) -> Float[Array, " t"]:
        """Q at log λ = x."""
        _, rest = _filter(self.e[:, None], x[None, :])
        return self.outside + jnp.sum(rest * self.squares, axis=0)

    def slope(self, x: Float[Array, " t"]) -> Float[Array, " t"]:
        """dE/d log λ at log λ = x."""
        f, rest = _filter(self.e[:, None], x[None, :])
        noise = self.misfit(x) / self.count if self.noise is None else self.noise
        return jnp.sum(f * (safe_divide(rest * self.squares, jnp.broadcast_to(noise, f.shape)) - 1.0), axis=0)

    def above_prior(self, x: Float[Array, " k"]) -> Float[Array, "k t"]:
        """E(λ) − E(∞) at every log λ of a grid."""
        f, rest = _filter(self.e[None, :], x[:, None])
        gain = matmul(f, self.squares)
        logdet = jnp.sum(jnp.log1p(self.e[None, :] * jnp.exp(-x)[:, None]), axis=1)[:, None]
        if self.noise is not None:
            return logdet - gain / self.noise[None, :]
        whole = self.outside + jnp.sum(self.squares, axis=0)
        left = safe_divide(self.outside[None, :] + matmul(rest, self.squares), jnp.broadcast_to(whole, gain.shape))
        share = safe_divide(gain, jnp.broadcast_to(whole, gain.shape))
        # Whichever of Q/Q(∞) and 1 − Q/Q(∞) is smaller keeps its digits.
        near = share < 0.5
        logs = jnp.where(near, jnp.log1p(-jnp.where(near, share, 0.0)), jnp.log(jnp.where(near, 1.0, left)))
        return self.count * logs + logdet

    def at_zero(self) -> Float[Array, " t"]:
        """lim E(λ) as λ → 0: N log Σz²/e + Σ log e where as many directions as measurements are fitted perfectly."""
        seen = self.e > 0
        size = jnp.sum(safe_divide(self.squares, jnp.broadcast_to(self.e[:, None], self.squares.shape)), axis=0)
        logs = jnp.sum(jnp.log(jnp.where(seen, self.e, 1.0)))
        limit = self.count * jnp.log(size) + logs
        unseen = jnp.sum(jnp.where(seen[:, None], 0.0, self.squares), axis=0)
        bounded = jnp.where(jnp.sum(seen, dtype=self.e.dtype) >= self.count, limit, -jnp.inf)
        return jnp.where((self.outside + unseen > 0) | (self.noise is not None), jnp.inf, bounded)


def _filter(e: Array, x: Array) -> tuple[Array, Array]:
    """f = e/(e + λ) and 1 − f at log λ = x."""
    lam = jnp.exp(x)
    return e / (e + lam), lam / (e + lam)


def most_evident(factored: Spectrum, noise: Float[Array, " t"] | None, restricted: bool) -> Best:
    """The λ of each target, with N = n − q (``restricted``) or n, for a variance of each or its most probable one."""
    profile = _profile(factored, noise, restricted)
    positive = profile.e > 0
    largest = jnp.log(jnp.max(profile.e, initial=0.0))
    least = jnp.log(jnp.min(jnp.where(positive, profile.e, jnp.inf), initial=jnp.inf))
    empty = ~jnp.any(positive)
    largest, least = (jnp.where(empty, 0.0, x) for x in (largest, least))
    grid = least - 3.0 + (largest - least + 6.0) * jnp.linspace(0.0, 1.0, GRID, dtype=least.dtype)

    whole = profile.outside + jnp.sum(profile.squares, axis=0)
    at_zero = profile.at_zero() - (0.0 if noise is not None else profile.count * jnp.log(whole))
    levels = jnp.concatenate([at_zero[None], profile.above_prior(grid), jnp.zeros_like(at_zero)[None]])
    index = jnp.argmin(jnp.where(jnp.isnan(levels), jnp.inf, levels), axis=0)

    # Below: where N λ Σz²/e reaches rss⊥ the slope is that of the determinant, −r.
    size = jnp.sum(safe_divide(profile.squares, jnp.broadcast_to(profile.e[:, None], profile.squares.shape)), axis=0)
    floor = profile.outside / profile.count if profile.noise is None else profile.noise
    balance = jnp.log(safe_divide(floor, size)) - 1.0
    resolved = least + 0.5 * jnp.log(jnp.finfo(least.dtype).eps)
    bottom = jnp.where(floor > 0, jnp.minimum(balance, resolved), resolved)
    bottom = jnp.where(jnp.isfinite(bottom), bottom, resolved)
    ends = jnp.broadcast_to(grid[:, None], (GRID, index.shape[0]))
    ends = jnp.concatenate([bottom[None], ends, jnp.full_like(bottom, largest + BEYOND)[None]])
    take = lambda i: jnp.take_along_axis(ends, i[None], axis=0)[0]  # noqa: E731
    low, here, high = take(jnp.maximum(index - 1, 0)), take(index), take(jnp.minimum(index + 1, GRID + 1))
    rising = profile.slope(here) > 0
    inner = (index > 0) & (index < GRID + 1)
    low, high = jnp.where(inner & ~rising, here, low), jnp.where(inner & rising, here, high)
    found = (profile.slope(low) < 0) & (profile.slope(high) > 0) & ~empty
    found &= ~((index == 0) & (at_zero == -jnp.inf))
    step = lambda x: jax.jvp(profile.slope, (x,), (jnp.ones_like(x),))  # noqa: E731
    root = secular.find_root(step, low, high, jnp.full_like(low, -1.0))

    usable = jnp.isfinite(whole) & (whole >= 0)
    # A target that its unpenalised columns explain has nothing for the others.
    prior_only = usable & ~found & ((index > GRID // 2) | empty | (whole == 0))
    perfect = usable & ~found & ~prior_only
    shift = 2.0 * jnp.log(factored.factor.scale)
    x = _live(factored, root - shift, found, noise, restricted)
    lam = jnp.where(found, jnp.exp(x), jnp.where(prior_only, jnp.inf, 0.0))
    lam = jnp.where(usable, lam, jnp.nan)
    return Best(lam, prior_only, perfect, _level(profile, factored.factor.y_scale))


def _live(
    factored: Spectrum, x: Float[Array, " t"], found: Array, noise: Array | None, restricted: bool
) -> Float[Array, " t"]:
    """log λ with the derivative of a stationary point."""
    rule = MarginalLikelihood(noise, restricted)

    def slope(x: Array) -> Array:
        score = lambda x: rule(factored.problem, factored, jnp.exp(x))  # noqa: E731
        return jax.jvp(score, (x,), (jnp.ones_like(x),))[1]

    start = jax.lax.stop_gradient(x)
    return implicit.root(lambda x: jnp.where(found, slope(x), x - start), start)


def _profile(factored: Spectrum, noise: Array | None, restricted: bool) -> Profile:
    factored, noise = jax.lax.stop_gradient((factored, noise))
    factor, problem = factored.factor, factored.problem
    r = factor.V.shape[1]
    squares = jnp.square(factor.z[:r])
    # What rounding leaves of y outside the columns that explain it is no noise.
    unit = rounding.unit(problem.X.shape, squares.dtype)
    whole = factor.rss_perp + jnp.sum(squares, axis=0)
    outside = jnp.where(factor.rss_perp <= unit * unit * whole, 0.0, factor.rss_perp)
    count = jnp.asarray(problem.rows() - (problem.free if restricted else 0), squares.dtype)
    if noise is not None:
        noise = jnp.broadcast_to(noise, outside.shape) / factor.y_scale / factor.y_scale
    return Profile(jnp.square(factor.s[:r]), squares, outside, count, noise)


def _level(profile: Profile, y_scale: Float[Array, " t"]) -> Float[Array, " t"]:
    """The log evidence of a perfect fit."""
    count = profile.count
    constant = count * jnp.log(2.0 * jnp.pi * jnp.square(y_scale) / count) + count
    return -0.5 * (profile.at_zero() + constant)
