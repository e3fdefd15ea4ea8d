"""Information criteria and Mallows' Cp: likelihood, and a price for every effective degree of freedom.

With n rows, ρ = Σωr² and the maximum-likelihood variance ρ/n a Gaussian fit has

    −2 log L = n log(2π ρ/n) + n − Σ log ω

and its parameters are counted by dof = tr H, the intercept among them and the variance not, as ``statsmodels`` has it
(R counts that too, which adds 2 to AIC and log n to BIC). All are defined by their degrees of freedom, so a factored
problem without `dof` refuses them. Hastie, Tibshirani and Friedman (2009), section 7.5–7.7.
"""

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp

from jaxridge.core.checks import as_floats
from jaxridge.core.factored import Factored, Problem
from jaxridge.core.numbers import poison
from jaxridge.core.types import Array, Float, Lam
from jaxridge.core.verbs import verb

__all__ = ["aic", "aicc", "bic", "cp", "figures"]


def _deviance(problem: Problem, factored: Factored, lam: Lam) -> Float[Array, " t"]:
    """−2 log L, −∞ for a perfect fit."""
    n = problem.rows()
    logs = jnp.log(2.0 * jnp.pi * factored.rss(lam) / n)
    if problem.weights is None:
        return n * (logs + 1.0)
    used = problem.weights > 0
    return n * (logs + 1.0) - jnp.sum(jnp.where(used, jnp.log(jnp.where(used, problem.weights, 1.0)), 0.0))


@verb()
def aic(problem: Problem, factored: Factored, lam: Lam) -> Float[Array, " t"]:
    """Akaike's criterion, −2 log L + 2 dof. Equals ``statsmodels``' OLS ``aic`` at λ = 0. Akaike (1974).

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> x = jnp.arange(6.0)[:, None]
    >>> print(jxr.ridge_cv(x, x[:, 0] ** 2, [0.0], rule=jxr.select.aic).scores.round(3))
    [31.996]
    """
    return _deviance(problem, factored, lam) + 2.0 * factored.dof(lam)


@verb()
def aicc(problem: Problem, factored: Factored, lam: Lam) -> Float[Array, " t"]:
    """`aic` for few rows, + 2 dof (dof + 1)/(n − dof − 1); infinite where that has no rows left. Sugiura (1978)."""
    dof = factored.dof(lam)
    left = factored.residual_dof(lam) - 1.0
    price = jnp.where(left > 0, 2.0 * dof * (dof + 1.0) / jnp.where(left > 0, left, 1.0), jnp.inf)
    return aic(problem, factored, lam) + price


@verb()
def bic(problem: Problem, factored: Factored, lam: Lam) -> Float[Array, " t"]:
    """Schwarz's criterion, −2 log L + dof log n. Equals ``statsmodels``' OLS ``bic`` at λ = 0. Schwarz (1978)."""
    return _deviance(problem, factored, lam) + factored.dof(lam) * jnp.log(problem.rows())


LABELS = {
    "sigma": "sigma",
    "dof": "dof",
    "residual_dof": "residual dof",
    "r2": "R2",
    "adjusted_r2": "adjusted R2",
    "rmse": "RMSE",
    "aic": "AIC",
    "bic": "BIC",
}


def rows_of_figures(record: Any) -> list[tuple[str, Any]]:
    """The lines of a table for what `figures` gave to a record."""
    return [(label, getattr(record, name)) for name, label in LABELS.items()]


def figures(factored: Factored, lam: Lam) -> dict[str, Any]:
    """The figures of a regression table at one λ, σ̂² = rss/(n − dof) and R² among them, by the names of its record."""
    problem = factored.problem
    n, rss, left = problem.rows(), factored.rss(lam), factored.residual_dof(lam)
    variation = jnp.sum(problem.weigh(jnp.square(problem.y - problem.mean(problem.y)[None, :])), axis=0)
    r2 = 1.0 - rss / jnp.where(variation > 0, variation, jnp.nan)
    total = n if problem.weights is None else jnp.sum(problem.weights)
    of_targets = {
        "sigma": jnp.sqrt(rss / jnp.where(left > 0, left, jnp.nan)),
        "r2": r2,
        "adjusted_r2": 1.0 - (1.0 - r2) * (n - 1) / left,
        "rmse": jnp.sqrt(rss / total),
        "aic": aic(problem, factored, lam),
        "bic": bic(problem, factored, lam),
    }
    return problem.squeeze(of_targets) | {"dof": factored.dof(lam), "residual_dof": left}


class Cp(eqx.Module):
    """Residual and degrees of freedom in units of a known variance; see `cp`."""

    noise: Array

    leverages: ClassVar[bool] = False

    def __call__(self, problem: Problem, factored: Factored, lam: Lam) -> Float[Array, " t"]:
        noise = self.noise.astype(problem.y.dtype)
        noise = poison(noise, noise > 0)
        return factored.rss(lam) / noise - problem.rows() + 2.0 * factored.dof(lam)


def cp(noise: Any) -> Cp:
    """Mallows' Cp, ρ/σ² − n + 2 dof, for the variance σ² = ``noise`` of one measurement of weight 1, () or (t,).

    The same order as `predictive_risk`, in units of σ². σ² is often that of the full model, rss(0)/(n − dof(0)).
    Mallows (1973), Technometrics 15, 661.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> x = jnp.arange(6.0)[:, None]
    >>> print(jxr.ridge_cv(x, x[:, 0] ** 2, [0.0], rule=jxr.select.cp(10.0)).scores.round(3))
    [1.733]
    """
    return Cp(as_floats("noise", noise, (0, 1)))
