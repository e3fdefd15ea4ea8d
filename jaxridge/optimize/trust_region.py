"""The trust-region subproblem, exactly: the least value of a quadratic, convex or not, inside a ball."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxridge.core.checks import as_floats
from jaxridge.core.implicit import solution_of
from jaxridge.core.numbers import exponent, matmul, poison, power_of_two
from jaxridge.core.report import Record
from jaxridge.core.results import RESULTS, first_failure
from jaxridge.core.types import Array, Bool, Float, Scalar
from jaxridge.optimize import steps

__all__ = ["Subproblem", "trust_region_subproblem"]


class Subproblem(Record):
    """The global minimiser of gᵀp + ½ pᵀHp over ‖p‖ ≤ radius."""

    step: Float[Array, " n"]
    multiplier: Scalar  # λ ≥ 0 with (H + λI)p = −g and λ(radius − ‖p‖) = 0
    hard: Bool[Array, ""]  # the minimiser is not unique; its derivatives are NaN
    result: Any  # a `RESULTS` item


def trust_region_subproblem(H: Any, g: Any, radius: Any) -> Subproblem:
    """Minimise gᵀp + ½ pᵀHp over ‖p‖ ≤ radius, for any symmetric H.

    The minimiser is the p with (H + λI)p = −g, λ ≥ 0, H + λI positive semidefinite and λ(radius − ‖p‖) = 0. One
    eigendecomposition, then the secular equation ‖p(λ)‖ = radius in the logarithm of the distance to its pole, which
    keeps full relative precision where λ is within rounding of the pole. In the hard case, where g has no part along
    the eigenvectors of the least eigenvalue, the rest of the step goes along one of them.

    Args:
        H: (n, n), symmetric; its symmetric part is taken. g: (n,). radius: () ≥ 0.

    Returns a `Subproblem`. Derivatives in H, g and radius are those of the bordered system of the conditions above,
    to every order; where the solution is not unique (the hard case) they are NaN.
    Equals ``scipy.optimize.minimize(method="trust-exact")``'s subproblem; Moré and Sorensen (1983), SIAM J. Sci.
    Stat. Comput. 4, 553.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> found = jxr.trust_region_subproblem(jnp.diag(jnp.array([1.0, -1.0])), jnp.array([2.0, 0.0]), 2.0)
    >>> print(abs(found.step).round(3), found.multiplier, found.hard)
    [1.    1.732] 1.0 True
    """
    H, g, radius = as_floats("H", H, (2,)), as_floats("g", g, (1,)), as_floats("radius", radius, (0,))
    n = g.shape[0]
    if H.shape != (n, n) or n == 0:
        raise ValueError(f"H has shape {H.shape} and g {g.shape}; H must be (n, n) and g (n,) with n ≥ 1.")
    dtype = jnp.result_type(H, g)
    return _solve(H.astype(dtype), g.astype(dtype), radius.astype(dtype))


@jax.jit
def _solve(H: Array, g: Array, radius: Array) -> Subproblem:
    n = g.shape[0]
    H = 0.5 * (H + H.T)
    still, still_g, still_radius = jax.lax.stop_gradient((H, g, radius))
    finite = jnp.all(jnp.isfinite(still)) & jnp.all(jnp.isfinite(still_g)) & jnp.isfinite(still_radius)
    valid = finite & (still_radius >= 0)
    # In units of H, g and radius, so that squares stay in range: p = radius·q, H' = H/h, g' = g/(h·radius).
    h = power_of_two(exponent(jnp.max(jnp.abs(still))), H.dtype)
    safe = jnp.where(still_radius > 0, still_radius, 1.0)
    # LAPACK does not return from infinite entries.
    q, mu, hard = steps.exact_step(
        jnp.where(valid, still / h, jnp.eye(n, dtype=H.dtype)),
        jnp.where(valid, still_g / h / safe, 0.0),
        jnp.ones((), H.dtype),
    )
    p = jnp.where(valid, jnp.where(still_radius > 0, q * safe, 0.0), jnp.nan)
    multiplier = jnp.where(valid, jnp.where(still_radius > 0, mu * h, jnp.inf), jnp.nan)
    usable = valid & ~hard & (still_radius > 0)
    bound = (mu > 0) | ~usable

    def conditions(x: Array) -> Array:
        step, lam = x[:n], x[n]
        outside = 0.5 * (jnp.sum(jnp.square(step)) - jnp.square(radius))
        return jnp.append(matmul(H, step) + lam * step + g, jnp.where(bound, outside, lam))

    def solve(linear: Any, b: Array) -> Array:
        bordered = jax.vmap(linear, out_axes=1)(jnp.eye(n + 1, dtype=b.dtype))
        return jnp.linalg.solve(bordered, poison(b, usable))

    start = jnp.append(p, jnp.where(jnp.isfinite(multiplier), multiplier, 0.0))
    x = solution_of(conditions, start, solve)
    result = first_failure(
        (~finite, RESULTS.nonfinite_input),
        (~valid, RESULTS.invalid_radius),
        shape=(),
    )
    return Subproblem(x[:n], jnp.where(jnp.isfinite(multiplier), x[n], multiplier), hard & valid, result)
