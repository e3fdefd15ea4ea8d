"""Rules for λ that inverse problems use: by the size of the noise, or by the shape of the solution's own curve.

Each is a function ``(problem, factored, lam) -> (t,)`` of which less is better, as all rules of `jaxridge.select`.
"""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge.core.checks import as_floats
from jaxridge.core.factored import Factored, Problem
from jaxridge.core.numbers import poison, ratio, safe_divide
from jaxridge.core.types import Array, Float, Lam
from jaxridge.core.verbs import verb
from jaxridge.select.constraint import lam_of_residual

__all__ = ["discrepancy", "l_curve", "predictive_risk", "quasi_optimality"]


def _noise(noise: Any) -> Array:
    return as_floats("noise", noise, (0, 1))


def noise_of(noise: Array, problem: Problem) -> Array:
    """The variance as the problem takes it, a number or one for each target, or a ``ValueError``."""
    if noise.ndim and noise.shape != problem.y.shape[1:]:
        raise ValueError(
            f"noise has shape {noise.shape}; pass one variance, or one for each target: where it differs between "
            "measurements write weights=1 / variance and noise=1.0."
        )
    return noise.astype(problem.y.dtype)


class Discrepancy(eqx.Module):
    """The λ at which the residual is as large as the noise; see `discrepancy`."""

    noise: Array
    safety: Array

    leverages: ClassVar[bool] = False

    def target(self, problem: Problem) -> Float[Array, " t"]:
        """safety² · m · σ²."""
        dtype = problem.y.dtype
        size = jnp.square(self.safety.astype(dtype)) * noise_of(self.noise, problem) * problem.rows()
        return jnp.broadcast_to(size.astype(problem.y.dtype), problem.y.shape[1:])

    def __call__(self, problem: Problem, factored: Factored, lam: Lam) -> Float[Array, " t"]:
        return jnp.abs(jnp.log(factored.rss(lam)) - jnp.log(self.target(problem)))

    def root(self, problem: Problem, factored: Factored, share: Float[Array, " t"] | None) -> Array:
        """λ for each target, or with a ``share`` for each of them one for all together."""
        return lam_of_residual(factored, self.target(problem), share)


def discrepancy(noise: Any, safety: Any = 1.0) -> Discrepancy:
    """Morozov's discrepancy principle: the λ with ‖√ω(Ax − b)‖² = safety² · m · σ².

    ``noise`` is the variance σ² of one measurement (of weight 1), a number or one for each target (t,); safety ≥ 1.
    λ is found between grid points and beyond the grid; it is 0 if no λ brings the residual down to the noise, and ∞ if
    even the smoothest solution leaves less. Scores are |log(‖r‖²/target)|.
    Morozov (1966), Soviet Math. Dokl. 7, 414.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> rule = jxr.select.discrepancy(noise=2.0)
    >>> print(jxr.ridge_cv(jnp.eye(2), jnp.array([2.0, 2.0]), [1.0], rule=rule, intercept=False).lam.round(3))
    2.414
    """
    return Discrepancy(_noise(noise), as_floats("safety", safety, (0,)))


class PredictiveRisk(eqx.Module):
    """An unbiased estimate of ‖Ax(λ) − Ax‖²/m; see `predictive_risk`."""

    noise: Array

    leverages: ClassVar[bool] = False

    def __call__(self, problem: Problem, factored: Factored, lam: Lam) -> Float[Array, " t"]:
        m = problem.rows()
        rss, noise = factored.rss(lam), noise_of(self.noise, problem)
        # Where there is no residual, or no such noise, the derivative in the noise is none either.
        noise = poison(noise, (noise >= 0) & ~jnp.isnan(rss))
        return (rss - 2.0 * noise * jnp.atleast_1d(factored.residual_dof(lam))) / m + noise


def predictive_risk(noise: Any) -> PredictiveRisk:
    """UPRE, Mallows' C_p, Stein's estimate: ‖r‖²/m + 2σ² dof/m − σ², whose mean is the risk of the fit.

    ``noise`` is the variance σ² of one measurement, a number or one for each target (t,).
    Mallows (1973), Technometrics 15, 661; Stein (1981), Ann. Statist. 9, 1135.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> rule = jxr.select.predictive_risk(noise=1.0)
    >>> print(jxr.ridge_cv(jnp.eye(2), jnp.array([2.0, 2.0]), [1.0], rule=rule, intercept=False).scores)
    [1.]
    """
    return PredictiveRisk(_noise(noise))


@verb()
def l_curve(problem: Problem, factored: Factored, lam: Lam) -> Float[Array, " t"]:
    """Minus the curvature of (log ‖r‖, log ‖Lx‖) along λ: its least value marks the corner of the L.

    With ρ = ‖r‖², η = ‖Lx‖² and η' = dη/dλ, where dρ/dλ = −λη', the curvature is

        κ = 2ρη (ρη + λη'(ρ + λη)) / (|η'| (ρ² + λ²η²)^(3/2)).

    Hansen and O'Leary (1993), SIAM J. Sci. Comput. 14, 1487, in their λ², with λ⁴η² in the denominator.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> X, y = jnp.diag(jnp.array([1.0, 1e-3])), jnp.array([1.0, 0.1])
    >>> lams = jnp.logspace(-8, 0, 9)
    >>> print(jxr.ridge_cv(X, y, lams, rule=jxr.select.l_curve, intercept=False).lam)
    0.01
    """
    lam = jnp.broadcast_to(jnp.atleast_1d(lam), problem.y.shape[1:])
    rho = factored.rss(lam)
    # In units of ρ and of η: a = λη/ρ and c = λη'/η, from √η, which has half the range, and its derivative by log λ.
    norm, slope = jax.jvp(factored.norm, (lam,), (lam,))
    a, c = ratio(jnp.square(jnp.sqrt(jnp.where(lam > 0, lam, 0.0)) * norm), rho), 2.0 * ratio(slope, norm)
    curvature = safe_divide(2.0 * a * (1.0 + c * (1.0 + a)), jnp.abs(c) * (1.0 + a * a) ** 1.5)
    return jnp.where((rho > 0) & (norm > 0) & (lam > 0) & jnp.isfinite(lam), -curvature, jnp.nan)


@verb()
def quasi_optimality(problem: Problem, factored: Factored, lam: Lam) -> Float[Array, " t"]:
    """‖λ d(Lx)/dλ‖²: the λ at which the solution answers least to a change of log λ.

    Tikhonov, Glasko and Kriksin (1979), Soviet Math. Dokl. 20, 1036. NaN at λ = 0 and above the square of the largest
    singular value, since it falls to 0 at either end for any data; let the grid end where λ is surely too small.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> rule = jxr.select.quasi_optimality
    >>> print(jxr.ridge_cv(jnp.eye(1), jnp.array([2.0]), [1.0], rule=rule, intercept=False).scores)
    [0.25]
    """
    lam = jnp.broadcast_to(jnp.atleast_1d(lam), problem.y.shape[1:])
    size = factored.penalty_of(jax.jvp(factored.coef, (lam,), (lam,))[1])
    # At the square of the largest singular value itself, rounding must not decide.
    high = factored.span()[1] + 1e-6
    return jnp.where((lam > 0) & (jnp.log10(jnp.where(lam > 0, lam, 1.0)) <= high), size, jnp.nan)
