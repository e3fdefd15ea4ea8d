"""The λ at which something has a given size, the norm of the solution or that of the residual: secular equations."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge.core import implicit
from jaxridge.core.factored import Factored
from jaxridge.core.implicit import frozen
from jaxridge.core.numbers import matmul, poison
from jaxridge.core.results import RESULTS, override
from jaxridge.core.types import Array, Float
from jaxridge.linalg import secular


def lam_of_residual(factored: Factored, squared: Float[Array, " t"], share: Float[Array, " t"] | None) -> Array:
    """λ ≥ 0 with ‖r(λ)‖² = squared for each target, or with a ``share`` for each, one λ for their weighted sum.

    0 where even ‖r(0)‖² is not below it, ∞ where ‖r(∞)‖² is not above it, NaN where it is NaN.
    """

    def log_excess(factored: Factored, squared: Array, lam: Array) -> Array:
        rss = factored.rss(lam)
        if share is not None:
            rss, squared = matmul(share, rss), matmul(share, squared)
        return jnp.log(rss) - jnp.log(squared)

    return _root(log_excess, factored, squared, squared.shape if share is None else ())


def lam_of_norm(factored: Factored, size: Float[Array, " t"]) -> Array:
    """λ ≥ 0 at which the norm that λ penalises is ``size`` for each target; 0 where it is smaller at λ = 0 already."""

    def log_excess(factored: Factored, size: Array, lam: Array) -> Array:
        norm = factored.norm(lam)
        none = (norm == 0) & (size == 0)
        return jnp.log(jnp.where(none, 1.0, size)) - jnp.log(jnp.where(none, 1.0, norm))

    return _root(log_excess, factored, size, size.shape)


def fit_of_size(
    factored: Factored,
    size: Array,
    multiplier: Callable[[Factored, Array], Array] = lam_of_norm,
    outcome: Callable[[Any], Any] = lambda fit: fit.result,
) -> Any:
    """The model at the λ where something has that size for each target, with a code for a size that cannot be.

    ``outcome`` is the code of a model whose λ is one for each target of y as it came.
    """
    problem = factored.problem
    size = jnp.broadcast_to(size, problem.y.shape[1:])
    fit = factored.fit(multiplier(factored, poison(size, size >= 0)))
    lam, valid = problem.squeeze((fit.lam, size >= 0))
    fit = eqx.tree_at(lambda fit: fit.lam, fit, lam)
    result = override(RESULTS.invalid_radius, ~valid, outcome(fit))
    return eqx.tree_at(lambda fit: fit.result, fit, result)


def _root(
    log_excess: Callable[[Factored, Array, Array], Array],
    factored: Factored,
    size: Float[Array, " t"],
    shape: tuple[int, ...],
) -> Array:
    """λ with log_excess(factored, size, λ) = 0, which grows with λ; 0 or ∞ where it has one sign.

    By values within a bracket of log λ; differentiable in the problem and in ``size``.
    """
    still, target = frozen(factored), jax.lax.stop_gradient(size)
    # Beyond these nothing changes to rounding.
    eps = jnp.finfo(size.dtype).eps
    low, high = (math.log(10.0) * end for end in still.span())
    low, high = jnp.full(shape, low + jnp.log(eps)), jnp.full(shape, high - jnp.log(eps))

    def excess(x: Array) -> tuple[Array, Array]:
        return log_excess(still, target, jnp.exp(x)), x

    root, at_low, *_ = secular.from_values(excess, low, 0.5 * (low + high), high)
    at_high = log_excess(still, target, jnp.full(shape, jnp.inf, size.dtype))
    # What failed has NaN in its derivatives too, through the same equation.
    failed = jnp.isnan(at_low) | jnp.isnan(at_high)
    regular = failed | ((at_low < 0) & (at_high > 0))
    root = jnp.where(failed, jnp.nan, root)
    x = implicit.root(lambda x: jnp.where(regular, log_excess(factored, size, jnp.exp(x)), x), root)
    return jnp.where(regular, jnp.exp(x), jnp.where(at_low >= 0, 0.0, jnp.inf))
