"""What λ costs and what it saves: bias and variance along a path, for coefficients that are known.

With X̂ = √ωXD = U diag(s) Vᵀ after the unpenalised columns, D = P^(−½), c = VᵀD⁻¹w and any filter f, the estimate
D V (f/s) Uᵀŷ of w from y = Xw + ε, Var εᵢ = σ²/ωᵢ, has

    bias        −D [V(1−f)c + (I − VVᵀ)D⁻¹w]          variance        σ² D V (f/s)² Vᵀ D
    of √ωXw:    −U (1−f) s c                                          σ² U f² Uᵀ

The risk is the sum of squares and variances. What the unpenalised columns add, σ² for each and no bias, is the same at
every λ and left out. Hoerl and Kennard (1970), Technometrics 12, 55, equations 4.3 to 4.6.
"""

from functools import partial
from typing import Any, NamedTuple, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge.core.checks import as_floats, as_function, as_key, as_lams
from jaxridge.core.implicit import without_derivatives
from jaxridge.core.numbers import matmul, poison, safe_divide
from jaxridge.core.plan import whole
from jaxridge.core.report import Record
from jaxridge.core.types import Array, Float, Scalar
from jaxridge.core.verbs import verb
from jaxridge.linalg import secular
from jaxridge.linear.bayes import ridge_posterior
from jaxridge.linear.design import Data, Design, Options, Terms, checked, design_of
from jaxridge.linear.filters import Filter, tikhonov
from jaxridge.linear.inference import ridge_inference
from jaxridge.linear.spectrum import from_design

__all__ = [
    "RidgeRisk",
    "condition_number",
    "hoerl_kennard_baldwin",
    "ridge_risk",
    "simulated_risk",
    "variance_inflation",
]


NO_DERIVATIVES = "ridge_risk has derivatives in coef, noise and lams alone; pass X, weights and penalty as they are."


class RidgeRisk(Record):
    """Expected squared errors at every λ, (k,) or (k, t): of coefficients, and of predictions at the rows of X.

    ``bias2 + variance`` is ``mse``, E‖ŵ − w‖²; ``prediction_bias2 + prediction_variance`` is ``prediction_risk``,
    E‖√ωX(ŵ − w)‖². ``coef_lam`` and ``prediction_lam`` () or (t,) are the λs at which these are least, between points
    of the grid. ``dof`` Σf (k,), ``condition`` (s₁² + λ)/(s_d² + λ) (k,).
    """

    lams: Float[Array, " k"]
    bias2: Float[Array, "k *t"]
    variance: Float[Array, "k *t"]
    mse: Float[Array, "k *t"]
    prediction_bias2: Float[Array, "k *t"]
    prediction_variance: Float[Array, "k *t"]
    prediction_risk: Float[Array, "k *t"]
    coef_lam: Float[Array, "*t"]
    prediction_lam: Float[Array, "*t"]
    dof: Float[Array, " k"]
    condition: Float[Array, " k"]


@verb(checked)
def ridge_risk(
    X: Any, coef: Any, noise: Any, lams: Any = None, *, filter: Filter = tikhonov, **problem: Unpack[Options]
) -> RidgeRisk:
    """Bias², variance and risk of ridge, or of any filter, for true coefficients and a known variance of the noise.

    Args:
        X: (n, d) features. coef: (d,) or (d, t), the truth. noise: σ², the variance of a measurement of weight 1, () or
            (t,).
        lams: (k,) parameters of the filter; None takes the default grid of `jaxridge.ridge_path`.
        filter: ``filters.tikhonov``, ``filters.truncated``, ``filters.stopping(rate)`` or a function of that kind, of
            squares of singular values in the user's units.
        problem: as for `jaxridge.ridge`.

    Returns a `RidgeRisk`. NaN for a negative noise. Derivatives in coef, noise and lams; one in X raises ValueError.
    ‖√ωX(ŵ − w)‖² has the mean that ``select.predictive_risk`` and ``select.cp`` estimate from data.

    With X = I what comes back is the truth times 1/(1 + λ), and with singular values 100, 1 and 0.01 the condition
    number of XᵀX + λ falls from 1e8 to 1e4 at λ = 1 and to 2 at λ = 1e4:

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> identity = jxr.ridge_risk(jnp.eye(2), [3.0, 4.0], 1.0, [0.0, 1.0], intercept=False)
    >>> print(identity.bias2, identity.variance, f"{identity.coef_lam:.2f}")
    [0.   6.25] [2.  0.5] 0.08
    >>> X = jnp.diag(jnp.array([100.0, 1.0, 0.01]))
    >>> print([f"{x:.3g}" for x in jxr.ridge_risk(X, jnp.ones(3), 1.0, [0.0, 1.0, 1e4], intercept=False).condition])
    ['1e+08', '1e+04', '2']
    """
    coef, noise = as_floats("coef", coef, (1, 2)), as_floats("noise", noise, (0, 1))
    X = as_floats("X", X, (2,))
    if coef.shape[0] != X.shape[1]:
        raise ValueError(f"coef has {coef.shape[0]} rows and X {X.shape[1]} columns; pass a coefficient for each.")
    if noise.ndim and noise.shape != coef.shape[1:]:
        raise ValueError(f"noise has shape {noise.shape}; pass one variance, or one for each column of coef.")
    data, terms = checked(X, X[:, 0] if coef.ndim == 1 else jnp.zeros((X.shape[0], coef.shape[1]), X.dtype), **problem)
    filter = as_function("filter", filter, "filters.tikhonov, filters.truncated or filters.stopping(rate)")
    lams = as_lams(lams, data.y)
    if lams is not None and lams.ndim == 2:
        raise ValueError("lams has a grid for each target; pass one grid (k,) for all.")
    return _risk(data, coef.astype(X.dtype), noise.astype(X.dtype), lams, terms, filter)


class Parts(NamedTuple):
    """What the risk depends on beside λ; frozen but for what is linear in coefficients and noise."""

    e: Float[Array, " r"]  # s² in the user's units
    V: Float[Array, "d r"]  # D V
    lengths: Float[Array, " r"]  # Σⱼ (D V)²
    c: Float[Array, "r t"]  # w = D V c + outside
    outside: Float[Array, "d t"]
    noise: Float[Array, " t"]
    filter: Filter

    def at(self, lam: Float[Array, "*t"]) -> tuple[Array, Array, Array, Array]:
        """Bias² and variance of coefficients and of predictions, (t,) each; λ may be one for each target."""
        f, rest = self.filter(self.e[:, None], jnp.atleast_1d(lam)[None, :])
        bias = matmul(self.V, rest * self.c) + self.outside
        gain = safe_divide(f * f, jnp.broadcast_to(self.e[:, None], f.shape))
        variance = jnp.sum(gain * self.lengths[:, None], axis=0) * self.noise
        of_rows = jnp.sum(jnp.square(rest * self.c) * self.e[:, None], axis=0)
        return jnp.sum(bias * bias, axis=0), variance, of_rows, jnp.sum(f * f, axis=0) * self.noise


def _parts(data: Data, coef: Array, noise: Array, terms: Terms, filter: Filter) -> tuple[Parts, Any]:
    problem = design_of(without_derivatives(data, NO_DERIVATIVES), terms)
    factored = from_design.factor(problem)
    factor, r = factored.factor, factored.factor.V.shape[1]
    kept = jnp.array([j for j in range(coef.shape[0]) if j not in terms.unpenalized], int)
    w = coef.reshape(coef.shape[0], -1)[kept]
    V = factor.V if factor.basis is None else matmul(factor.basis, factor.V)
    D = (factor.unit / factor.scale)[:, None]
    c = matmul(V.T, w / D)
    outside = jnp.zeros_like(w) if factor.basis is None else w - D * matmul(V, c)
    noise = poison(jnp.broadcast_to(noise, w.shape[1:]), noise >= 0)
    e = jnp.square(factor.s[:r] / factor.scale)
    return Parts(e, D * V, jnp.sum(jnp.square(D * V), axis=0), c, outside, noise, filter), factored


@partial(jax.jit, static_argnames=("terms", "filter"))
def _risk(data: Data, coef: Array, noise: Array, lams: Array | None, terms: Terms, filter: Filter) -> RidgeRisk:
    parts, factored = _parts(data, coef, noise, terms, filter)
    grid: Array = factored.default_grid() if lams is None else lams
    grid = poison(grid, grid >= 0)
    bias2, variance, of_rows, spread = jax.vmap(parts.at)(grid)
    f, _ = parts.filter(parts.e[None, :], grid[:, None])
    largest, least = jnp.max(parts.e, initial=0.0), jnp.min(parts.e, initial=jnp.inf)
    far = jnp.isinf(grid)
    condition = jnp.where(far, 1.0, (largest + jnp.where(far, 0.0, grid)) / (least + jnp.where(far, 1.0, grid)))
    coef_lam = _least(grid, bias2 + variance, lambda lam: sum(parts.at(lam)[:2]))
    row_lam = _least(grid, of_rows + spread, lambda lam: sum(parts.at(lam)[2:]))
    values = (bias2, variance, bias2 + variance, of_rows, spread, of_rows + spread, coef_lam, row_lam)
    return RidgeRisk(grid, *factored.problem.squeeze(values), dof=jnp.sum(f, axis=1), condition=condition)


def _least(grid: Float[Array, " k"], risk: Float[Array, "k t"], of: Any) -> Float[Array, " t"]:
    """Where a risk is least: between the neighbours of the best grid point, as far as its slope changes sign there."""
    order = jnp.argsort(grid)
    grid, risk = grid[order], risk[order]
    index = jnp.argmin(jnp.where(jnp.isnan(risk), jnp.inf, risk), axis=0)
    here = grid[index]
    low, high = grid[jnp.maximum(index - 1, 0)], grid[jnp.minimum(index + 1, grid.shape[0] - 1)]
    eps = jnp.finfo(grid.dtype).eps
    low, high = jnp.maximum(low, here * eps), jnp.where(here > 0, jnp.minimum(high, here / eps), high)
    inner = (low > 0) & (here > low) & (high > here) & jnp.isfinite(high)
    # λ = 0 as a neighbour has no logarithm, and as the best point it may only be left upwards.
    at_zero = (here == 0) & (high > 0) & jnp.isfinite(high)
    low = jnp.where(inner, low, jnp.where(at_zero, high * eps, 0.5))
    high = jnp.where(inner | at_zero, high, 2.0)

    def slope_and_risk(x: Array) -> tuple[Array, Array]:
        value, slope = jax.jvp(lambda x: of(jnp.exp(x)), (x,), (jnp.ones_like(x),))
        return slope, value

    low, high = jax.lax.stop_gradient((jnp.log(low), jnp.log(high)))
    root = secular.from_values(slope_and_risk, low, jnp.where(inner, jnp.log(here), 0.5 * (low + high)), high)
    lower = root.level <= jnp.where(inner, root.level_tried, jnp.min(risk, axis=0))
    found = (inner | at_zero) & (root.at_low < 0) & (root.at_high > 0) & lower
    return jax.lax.stop_gradient(jnp.where(found, jnp.exp(root.x), here))


class Simulated(NamedTuple):
    """Means over repetitions (k,), with their standard errors."""

    mse: Float[Array, " k"]
    mse_error: Float[Array, " k"]
    prediction_risk: Float[Array, " k"]
    prediction_error: Float[Array, " k"]


@verb(checked)
def simulated_risk(
    X: Any, coef: Any, noise: Any, lams: Any, *, key: Any, repeats: int = 1000, **problem: Unpack[Options]
) -> Simulated:
    """`ridge_risk` by Monte Carlo: y = Xw + ε drawn again and again, and ridge fitted to each.

    Args: those of `ridge_risk`, coef (d,), noise a scalar, lams (k,); key: of ``jax.random``; repeats: how many.

    Returns means over the repetitions and their standard errors, of ``mse`` and of ``prediction_risk``.

    >>> import jax, jax.numpy as jnp
    >>> from jaxridge.linear import risk
    >>> found = risk.simulated_risk(jnp.eye(2), [3.0, 4.0], 1.0, [1.0], key=jax.random.key(0), intercept=False)
    >>> print(bool(abs(found.mse[0] - 6.75) < 4 * found.mse_error[0]))
    True
    """
    X, coef, noise = as_floats("X", X, (2,)), as_floats("coef", coef, (1,)), as_floats("noise", noise, (0,))
    data, terms = checked(X, X[:, 0], **problem)
    grid = as_lams(lams, data.y)
    if grid is None or grid.ndim == 2:
        raise ValueError("lams is needed, one grid (k,).")
    parts = (coef.astype(X.dtype), noise.astype(X.dtype))
    return _simulated(data, *parts, grid, as_key(key), terms, whole("repeats", repeats, 2))


@partial(jax.jit, static_argnames=("terms", "repeats"))
def _simulated(data: Data, coef: Array, noise: Array, lams: Array, key: Array, terms: Terms, repeats: int) -> Simulated:
    X, weights = data.X, data.weights
    spread = jnp.sqrt(noise) if weights is None else jnp.sqrt(noise / weights)[:, None]
    y = matmul(X, coef)[:, None] + spread * jax.random.normal(key, (X.shape[0], repeats), X.dtype)
    problem: Design = design_of(eqx.tree_at(lambda d: d.y, data, y), terms._replace(single=False))
    factored = from_design.factor(problem)
    kept = jnp.array([j for j in range(coef.shape[0]) if j not in terms.unpenalized], int)

    def one(lam: Array) -> tuple[Array, Array]:
        away = problem.split(factored.coef(lam))[0][kept] - coef[kept][:, None]
        moved = problem.X @ away
        Z = problem.Z if weights is None else jnp.sqrt(weights)[:, None] * problem.Z
        moved = moved if weights is None else jnp.sqrt(weights)[:, None] * moved
        if problem.free:
            basis = jnp.linalg.qr(Z)[0]
            moved = moved - matmul(basis, matmul(basis.T, moved))
        return jnp.sum(away * away, axis=0), jnp.sum(moved * moved, axis=0)

    squares = jax.lax.map(one, lams)
    error = lambda x: jnp.std(x, axis=1, ddof=1) / jnp.sqrt(jnp.asarray(repeats, x.dtype))  # noqa: E731
    return Simulated(jnp.mean(squares[0], axis=1), error(squares[0]), jnp.mean(squares[1], axis=1), error(squares[1]))


# Three figures of a table of collinear columns.


@verb()
def condition_number(X: Any, lam: Any = 0.0, *, intercept: bool = True, standardize: bool = True) -> Scalar:
    """(s₁² + λ)/(s_d² + λ), the condition number of XᵀX + λ for columns about their means, standardised if wanted.

    ∞ at λ = 0 where the columns are dependent.

    >>> import jax.numpy as jnp
    >>> from jaxridge.linear import risk
    >>> X = jnp.diag(jnp.array([100.0, 1.0, 0.01]))
    >>> print(f"{risk.condition_number(X, 1.0, intercept=False, standardize=False):.4g}")
    1e+04
    """
    X = as_floats("X", X, (2,))
    coef = jnp.zeros(X.shape[1], X.dtype)
    lam = jnp.reshape(as_floats("lam", lam, (0,)), 1)
    return ridge_risk(X, coef, 1.0, lam, intercept=intercept, standardize=standardize).condition[0]


@verb()
def variance_inflation(X: Any, lam: Any = 0.0) -> Float[Array, " d"]:
    """VIF of each column: Var ŵⱼ over what it would be at λ = 0 were column j orthogonal to the others.

    n·varⱼ (CCᵀ)ⱼⱼ with the letters of `jaxridge.ridge_inference`, λ on standardised columns; at λ = 0 it is
    1/(1 − Rⱼ²), Rⱼ² that of column j on the others.
    Equals ``variance_inflation_factor`` of ``statsmodels`` with a constant.

    >>> import jax.numpy as jnp
    >>> from jaxridge.linear import risk
    >>> X = jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> print(risk.variance_inflation(X))
    [1. 1.]
    """
    X = as_floats("X", X, (2,))
    found = ridge_inference(X, jnp.zeros(X.shape[0], X.dtype), lam, standardize=True)
    variance = jnp.mean(jnp.square(X - jnp.mean(X, axis=0)[None, :]), axis=0)
    return X.shape[0] * variance * jnp.sum(jnp.square(found.root[:-1]), axis=1)


@verb(checked)
def hoerl_kennard_baldwin(X: Any, y: Any, *, noise: Any = None, **problem: Unpack[Options]) -> Float[Array, "*t"]:
    """λ = rσ²/‖ŵ‖²_P, r the columns with a penalty and ŵ the least-squares fit: right where they have one variance.

    Args: X, y, problem as for `jaxridge.ridge`; noise: σ², None for rss/(n − dof) of least squares, and where X has no
    fewer columns than rows, so that least squares leaves nothing, for that of most evidence (`ridge_posterior`).
    Hoerl, Kennard and Baldwin (1975), Communications in Statistics 4, 105.

    >>> import jax.numpy as jnp
    >>> from jaxridge.linear import risk
    >>> x = jnp.arange(6.0)[:, None]
    >>> print(f"{risk.hoerl_kennard_baldwin(x, jnp.array([1.0, 2.9, 5.2, 7.1, 8.8, 11.0])):.4f}")
    0.0062
    """
    data, terms = checked(X, y, **problem)
    free = len(terms.unpenalized) + terms.intercept
    if noise is None and data.X.shape[0] <= data.X.shape[1] + terms.intercept:
        noise = ridge_posterior(X, y, **problem).noise
    noise = None if noise is None else as_floats("noise", noise, (0, 1)).astype(data.y.dtype)
    columns = data.X.shape[1] - free + terms.intercept
    return _hoerl(data, noise, terms, columns)


@partial(jax.jit, static_argnames=("terms", "columns"))
def _hoerl(data: Data, noise: Array | None, terms: Terms, columns: int) -> Float[Array, "*t"]:
    factored = from_design.factor(design_of(data, terms))
    zero = jnp.zeros((), data.y.dtype)
    if noise is None:
        noise = factored.rss(zero) / factored.residual_dof(zero)
    return factored.problem.squeeze(columns * jnp.broadcast_to(noise, data.y.shape[1:]) / factored.squared_norm(zero))
