"""How well a fit is determined: covariance of the parameters, standard errors, confidence and prediction bands.

At a least-squares solution with Jacobian J and m residuals of variance σ², the parameters have covariance
C = σ² (JᵀJ)⁻¹, and a prediction f(x) the variance ∇fᵀ C ∇f (+ σ² for a new measurement). All of it is first order:
right where f is nearly linear over the width of the band.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxridge.core.numbers import matmul, safe_divide
from jaxridge.core.types import Array, Float, Scalar
from jaxridge.linalg import secular
from jaxridge.optimize.flat import flat_residual
from jaxridge.optimize.least_squares import Solution

__all__ = ["Uncertainty", "student", "uncertainty"]


class Uncertainty(eqx.Module):
    """Covariance of a fit, in the order in which ``ravel_pytree`` lays the parameters out."""

    value: Any
    covariance: Float[Array, "n n"]
    sigma: Scalar  # standard deviation of one residual
    dof: Scalar  # m − n, for Student's t; infinite where σ is known

    @property
    def standard_errors(self) -> Any:
        """√Cⱼⱼ, in the structure of the parameters."""
        return ravel_pytree(self.value)[1](jnp.sqrt(jnp.diagonal(self.covariance)))

    @property
    def correlation(self) -> Float[Array, "n n"]:
        """Cᵢⱼ / √(Cᵢᵢ Cⱼⱼ), 0 for a parameter that is held."""
        sd = jnp.sqrt(jnp.diagonal(self.covariance))
        return safe_divide(self.covariance, sd[:, None] * sd[None, :])

    def interval(self, level: float = 0.95) -> tuple[Any, Any]:
        """Lower and upper ends of the confidence interval of each parameter."""
        width = jax.tree.map(lambda sd: student(level, self.dof) * sd, self.standard_errors)
        return jax.tree.map(jnp.subtract, self.value, width), jax.tree.map(jnp.add, self.value, width)

    def confidence(self, predict: Callable[[Any], Array], level: float = 0.95) -> tuple[Array, Array, Array]:
        """Prediction and the pointwise band in which the fitted curve lies, ``predict(value)`` being the curve."""
        return self._band(predict, level, jnp.zeros_like(self.sigma))

    def prediction(self, predict: Callable[[Any], Array], level: float = 0.95) -> tuple[Array, Array, Array]:
        """Prediction and the pointwise band in which a new measurement lies, of the variance of the old ones."""
        return self._band(predict, level, jnp.square(self.sigma))

    def _band(self, predict: Callable[[Any], Array], level: float, more: Scalar) -> tuple[Array, Array, Array]:
        flat, restore = ravel_pytree(self.value)
        centre = predict(self.value)
        G = jax.jacfwd(lambda x: jnp.ravel(predict(restore(x))))(flat)
        return _band(centre, G, self.covariance, more, student(level, self.dof))


@jax.jit
def _band(
    centre: Array, G: Float[Array, "p n"], covariance: Float[Array, "n n"], more: Scalar, t: Scalar
) -> tuple[Array, Array, Array]:
    """The curve, and t standard deviations to either side of it."""
    half = t * jnp.sqrt(jnp.sum(matmul(G, covariance) * G, axis=1) + more).reshape(jnp.shape(centre))
    return centre, centre - half, centre + half


@eqx.filter_jit
def uncertainty(
    residual: Callable[[Any, Any], Any], solution: Solution, args: Any = None, *, sigma: Any = None
) -> Uncertainty:
    """Covariance σ² (JᵀJ)⁻¹ of the parameters of a least-squares fit, from the SVD of J.

    Args:
        residual, args: as they were given to `jaxridge.least_squares`, without penalty and with linear loss.
        solution: what it returned. Parameters that a bound holds have variance 0 and take no degree of freedom.
        sigma: the standard deviation of the residuals where it is known (1 for residuals that are already divided
            by theirs); None estimates σ² = ‖r‖²/(m − n).

    Directions that J does not determine have infinite variance. Equals ``scipy.optimize.curve_fit``'s ``pcov``
    (with ``absolute_sigma=True`` where sigma is given). Seber and Wild (1989), Nonlinear Regression, section 5.1.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> from jaxridge.optimize import uncertainty
    >>> t, y = jnp.array([0.0, 1.0, 2.0, 3.0]), jnp.array([1.0, 2.9, 5.1, 7.0])
    >>> line = lambda x, args: x["slope"] * t + x["start"] - y
    >>> fit = jxr.least_squares(line, {"slope": 1.0, "start": 0.0})
    >>> print(f"{fit.value['slope']:.2f} ± {uncertainty(line, fit).standard_errors['slope']:.4f}")
    2.02 ± 0.0424
    """
    flat, restore = ravel_pytree(solution.value)
    free = ~ravel_pytree(solution.active)[0]
    fn = flat_residual(residual, restore, args, flat.dtype)
    r = fn(flat)
    J = (jax.jacrev if r.shape[0] < flat.shape[0] else jax.jacfwd)(fn)(flat)
    J = jnp.where(free[None, :], J, 0.0)
    # Column norms out first: parameters have units.
    unit = jnp.linalg.norm(J, axis=0)
    unit = jnp.where(unit > 0, unit, 1.0)
    _, s, Vt = jnp.linalg.svd(J / unit[None, :], full_matrices=False)
    lost = s <= max(J.shape) * jnp.finfo(s.dtype).eps * jnp.max(s, initial=0.0)
    root = safe_divide(Vt, jnp.broadcast_to(jnp.where(lost, 0.0, s)[:, None], Vt.shape)) / unit[None, :]
    covariance = matmul(root.T, root)
    # What a lost direction touches is not determined; with fewer residuals than parameters some have no direction.
    seen = jnp.sum(jnp.square(jnp.where(lost[:, None], 0.0, Vt)), axis=0)
    vague = free & (seen < 1.0 - jnp.sqrt(jnp.finfo(s.dtype).eps))
    covariance = jnp.where(
        vague[:, None] | vague[None, :], jnp.where(jnp.eye(len(unit)) > 0, jnp.inf, jnp.nan), covariance
    )
    left = r.shape[0] - jnp.sum(free, dtype=flat.dtype)
    if sigma is None:
        sigma, dof = jnp.sqrt(jnp.sum(jnp.square(r)) / jnp.where(left > 0, left, jnp.nan)), left
    else:
        sigma, dof = jnp.asarray(sigma, flat.dtype), jnp.full((), jnp.inf, flat.dtype)
    return Uncertainty(solution.value, jnp.square(sigma) * covariance, sigma, dof)


@jax.jit
def student(level: Any, dof: Scalar) -> Scalar:
    """The t with P(|T| ≤ t) = level for Student's distribution; normal where dof is infinite.

    P(|T| > t) = I_{ν/(ν+t²)}(ν/2, ½), solved for log t. Equals ``scipy.stats.t.ppf((1 + level)/2, dof)``.

    >>> import jax.numpy as jnp
    >>> from jaxridge.optimize.uncertainty import student
    >>> print(f"{student(0.95, jnp.array(2.0)):.4f}")
    4.3027
    """
    finite = jnp.isfinite(dof)
    nu = jax.lax.stop_gradient(jnp.where(finite & (dof > 0), dof, 1.0))
    tail = jnp.asarray(1.0 - level, nu.dtype)

    def excess(log_t: Array) -> tuple[Array, Array]:
        def value(log_t: Array) -> Array:
            share = nu / (nu + jnp.exp(2.0 * log_t))
            return jnp.log(jax.scipy.special.betainc(0.5 * nu, jnp.full_like(nu, 0.5), share)) - jnp.log(tail)

        return jax.jvp(value, (log_t,), (jnp.ones_like(log_t),))

    # t = 1e-6 to that of the tail 1e-9 with one degree of freedom.
    t = jnp.exp(secular.find_root(excess, jnp.full_like(nu, -14.0), jnp.full_like(nu, 20.0)))
    normal = jax.scipy.special.ndtri(jnp.asarray(0.5 * (1.0 + level), nu.dtype))
    return jnp.where(finite, jnp.where(dof > 0, t, jnp.nan), normal)
