"""How well a fit is determined: covariance of the parameters, standard errors, confidence and prediction bands.

At a solution with Jacobian J and m residuals rᵢ, the n free parameters have covariance

    C = τ² (JᵀJ)⁻¹,     τ² = K² Σ ψ(rᵢ)²/(m − n) / (mean ψ')²,     K = 1 + (n/m) var ψ' / (mean ψ')²,

where ψ(r) = ρ'(r²) r is what a residual counts under the loss ρ: with ρ(z) = z it is r, and τ² = ‖r‖²/(m − n).
A prediction f(x) has variance ∇fᵀ C ∇f (+ σ² for a new measurement). All of it is first order: right where f is nearly
linear over the width of the band. Huber and Ronchetti (2009), Robust Statistics, section 7.6.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.tree_util import keystr
from jax.tree_util import tree_leaves_with_path as leaves_with_path

from jaxridge.core.numbers import exponent, matmul, poison, power_of_two, safe_divide
from jaxridge.core.report import Record, table
from jaxridge.core.results import RESULTS, messages
from jaxridge.core.types import Array, Bool, Float, Scalar
from jaxridge.core.verbs import verb
from jaxridge.linalg import secular
from jaxridge.optimize.arguments import as_solution, shapes_of
from jaxridge.optimize.flat import flat_residual
from jaxridge.optimize.least_squares import Solution, converged
from jaxridge.optimize.losses import Loss, linear

__all__ = ["Uncertainty", "student", "uncertainty"]

_OFFSET = 0.1  # of Bates and Watts's criterion (1988, section 2.2.3): a tenth of the radius of a confidence region
_ROUGH = 100.0  # how many times its estimate rounding of residuals may be; heuristic
_NORMAL = 1.482602218505602  # standard deviations of normal errors for each of their median absolute deviation


class Uncertainty(Record):
    """Covariance of a fit, in the order in which ``ravel_pytree`` lays the parameters out."""

    value: Any
    covariance: Float[Array, "n n"]  # NaN where ``result`` is a failure
    sigma: Scalar  # standard deviation of one residual; under a robust loss that of the bulk, 1.48 median |r|
    dof: Scalar  # m − n, for Student's t; infinite where σ is known
    result: Any  # a `RESULTS` item: that of a fit that did not converge, or ``not_at_minimum``

    @property
    def standard_errors(self) -> Any:
        """√Cⱼⱼ, in the structure of the parameters."""
        return ravel_pytree(self.value)[1](jnp.sqrt(jnp.diagonal(self.covariance)))

    def summary(self, level: float = 0.95) -> str:
        """A line for each parameter, and the figures of the fit."""
        columns = [self.value, self.standard_errors, *self.interval(level)]
        places = [(f"x{keystr(path)}", leaf) for path, leaf in leaves_with_path(self.value)]
        names = [f"{name}[{i}]" if leaf.ndim else name for name, leaf in places for i in range(leaf.size)]
        rows = zip(names, *(ravel_pytree(column)[0] for column in columns), strict=True)
        head = ("", "value", "std err", f"[{(1 - level) / 2:.3g}", f"{(1 + level) / 2:.3g}]")
        figures = [("sigma", self.sigma), ("dof", self.dof)]
        return "\n".join([table(head, rows), "", table(("", ""), figures), *messages(self.result)])

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


@verb()
@eqx.filter_jit
def uncertainty(
    residual: Callable[[Any, Any], Any], solution: Solution, args: Any = None, *, sigma: Any = None, loss: Loss = linear
) -> Uncertainty:
    """Covariance τ² (JᵀJ)⁻¹ of the parameters of a least-squares or robust fit, from the SVD of J.

    Args:
        residual, args, loss: as they were given to `jaxridge.least_squares`, without penalty.
        solution: what it returned. Parameters that a bound holds have variance 0 and take no degree of freedom.
        sigma: the standard deviation of the residuals where it is known (1 for residuals that are already divided
            by theirs); None estimates it. A robust loss takes no sigma: its fit depends on the tails of the errors too.

    Returns an `Uncertainty`. Directions that J does not determine have infinite variance. The covariance is NaN, with
    the code of the fit, where that did not converge, and with ``RESULTS.not_at_minimum`` where the solution is no
    minimum of ½Σρ(rᵢ²): there the relative offset ‖Pψ‖/√n / (‖ψ − Pψ‖/√(m − n)), P on the range of J, is above
    0.1, because the residual or the loss are not those of the fit, or a penalty pulled it away.

    Raises a ``ValueError`` for sigma with a robust loss. Equals ``scipy.optimize.curve_fit``'s ``pcov`` (with
    ``absolute_sigma=True`` where sigma is given), and for a robust loss that of ``statsmodels.RLM`` with ``cov="H1"``.
    Seber and Wild (1989), Nonlinear Regression, section 5.1.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> from jaxridge.optimize import uncertainty
    >>> t, y = jnp.array([0.0, 1.0, 2.0, 3.0]), jnp.array([1.0, 2.9, 5.1, 7.0])
    >>> line = lambda x, args: x["slope"] * t + x["start"] - y
    >>> fit = jxr.least_squares(line, {"slope": 1.0, "start": 0.0})
    >>> print(f"{fit.value['slope']:.2f} ± {uncertainty(line, fit).standard_errors['slope']:.4f}")
    2.02 ± 0.0424
    """
    if sigma is not None and loss is not linear:
        raise ValueError("uncertainty: sigma says too little about a fit with a robust loss; leave it out.")
    flat, restore = ravel_pytree(as_solution("solution", solution).value)
    free = ~ravel_pytree(solution.active)[0]
    shapes_of("residual", residual, solution.value, args)
    fn = flat_residual(residual, restore, args, flat.dtype)
    r = fn(flat)
    J = (jax.jacrev if r.shape[0] < flat.shape[0] else jax.jacfwd)(fn)(flat)
    J = jnp.where(free[None, :], J, 0.0)
    dof = r.shape[0] - jnp.sum(free, dtype=flat.dtype)

    influence = _influence(loss, r)
    directions = _directions(J)
    if sigma is None:
        scale = influence.scale(len(r) - dof, dof)
        sigma = scale if loss is linear else _bulk(r, dof)
    else:
        scale = sigma = jnp.asarray(sigma, flat.dtype)
        dof = jnp.full((), jnp.inf, flat.dtype)

    rounding = jnp.finfo(r.dtype).eps * (jnp.abs(r) + matmul(jnp.abs(J), jnp.abs(flat)))
    arrived = influence.arrived(directions.range_of_J, rounding)
    result = RESULTS.where(arrived, RESULTS.successful, RESULTS.not_at_minimum)
    result = RESULTS.where(converged(solution.result), result, solution.result)
    good = converged(solution.result) & arrived
    return Uncertainty(solution.value, poison(directions.covariance(free, scale), good), sigma, dof, result)


class _Influence(NamedTuple):
    """ψ(rᵢ) and ψ'(rᵢ)."""

    psi: Float[Array, " m"]
    slope: Float[Array, " m"]

    def scale(self, n: Scalar, dof: Scalar) -> Scalar:
        """τ; NaN without degrees of freedom."""
        mean = jnp.mean(self.slope)
        K = 1.0 + n / len(self.psi) * jnp.var(self.slope) / jnp.square(mean)
        return K * _norm(self.psi) / jnp.sqrt(jnp.where(dof > 0, dof, jnp.nan)) / mean

    def arrived(self, U: Float[Array, "m k"], rounding: Float[Array, " m"]) -> Bool[Array, ""]:
        """Whether what ψ still has in the range of J is little beside the rest, or no more than rounding."""
        inside = matmul(U.T, self.psi)
        count = jnp.sum(jnp.any(U != 0, axis=0), dtype=U.dtype)
        rest = _norm(self.psi - matmul(U, inside)) / jnp.sqrt(jnp.maximum(len(self.psi) - count, 1.0))
        offset = _norm(inside) / jnp.sqrt(jnp.maximum(count, 1.0))
        return ((offset <= _OFFSET * rest) | (_norm(inside) <= _ROUGH * _norm(rounding))) & (jnp.mean(self.slope) > 0)


def _influence(loss: Loss, r: Float[Array, " m"]) -> _Influence:
    """ψ = ½ d/dr ρ(r²) and its derivative."""
    if loss is linear:
        return _Influence(r, jnp.ones_like(r))
    psi = lambda r: 0.5 * jax.jvp(lambda r: loss(jnp.square(r)), (r,), (jnp.ones_like(r),))[1]  # noqa: E731
    return _Influence(*jax.jvp(psi, (r,), (jnp.ones_like(r),)))


def _norm(x: Float[Array, " m"]) -> Scalar:
    """‖x‖, whose squares stay in range."""
    unit = power_of_two(exponent(jnp.max(jnp.abs(x), initial=0.0)), x.dtype)
    return unit * jnp.linalg.norm(x / unit)


def _bulk(r: Float[Array, " m"], dof: Scalar) -> Scalar:
    """The standard deviation of normal errors with these residuals in the middle."""
    return _NORMAL * jnp.median(jnp.abs(r)) * jnp.sqrt(len(r) / jnp.where(dof > 0, dof, jnp.nan))


class _Directions(NamedTuple):
    """J = U diag(s) Vᵀ diag(unit): columns have units."""

    range_of_J: Float[Array, "m k"]  # U, 0 in lost directions
    s: Float[Array, " k"]  # 0 where lost
    Vt: Float[Array, "k n"]
    unit: Float[Array, " n"]

    def covariance(self, free: Bool[Array, " n"], scale: Scalar) -> Float[Array, "n n"]:
        """scale² (JᵀJ)⁻¹ of the free parameters."""
        s = jnp.broadcast_to(self.s[:, None], self.Vt.shape)
        root = scale * safe_divide(self.Vt, s) / self.unit[None, :]
        covariance = matmul(root.T, root)
        # What a lost direction touches is not determined; with fewer residuals than parameters some have no direction.
        seen = jnp.sum(jnp.square(jnp.where(s > 0, self.Vt, 0.0)), axis=0)
        vague = free & (seen < 1.0 - jnp.sqrt(jnp.finfo(s.dtype).eps))
        unknown = jnp.where(jnp.eye(len(self.unit)) > 0, jnp.inf, jnp.nan)
        return jnp.where(vague[:, None] | vague[None, :], unknown, covariance)


def _directions(J: Float[Array, "m n"]) -> _Directions:
    unit = jax.vmap(_norm, 1)(J)
    unit = jnp.where(unit > 0, unit, 1.0)
    U, s, Vt = jnp.linalg.svd(J / unit[None, :], full_matrices=False)
    lost = s <= max(J.shape) * jnp.finfo(s.dtype).eps * jnp.max(s, initial=0.0)
    return _Directions(jnp.where(lost[None, :], 0.0, U), jnp.where(lost, 0.0, s), Vt, unit)


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
