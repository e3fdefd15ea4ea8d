"""Ridge as a posterior: Gaussian coefficients and noise, of which λ is the ratio of the two variances.

With y = Xw + Zc + ε, εᵢ ~ N(0, σ²/ωᵢ), a prior wⱼ ~ N(0, τ²/pⱼ) and a flat one for the unpenalised c, the posterior has
the ridge fit at λ = σ²/τ² for its mean, and with the letters of `spectrum` the covariance

    σ²(AᵀωA + λP)⁻¹  =  σ² T diag(1/(s² + λ'β)) Tᵀ  +  τ² D(I − VVᵀ)D,     A = [X Z], D = P^(−½),

the second term for directions that X does not see. No matrix of d × d is formed: V has min(n, d) columns. With σ² known
only by its most probable value Q/ν (Q = ‖√ω(y − Aw)‖² + λ‖w‖²_P) and the prior density 1/σ² of it, everything is
Student's t with ν degrees of freedom in the place of normal.
"""

import dataclasses
from functools import partial
from typing import Any, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxridge.core.checks import as_floats, as_key, as_lam, names_of
from jaxridge.core.factored import Solver, as_solver
from jaxridge.core.implicit import derived, without_derivatives
from jaxridge.core.numbers import matmul, poison, safe_sqrt
from jaxridge.core.plan import whole
from jaxridge.core.report import Record, held, table
from jaxridge.core.results import RESULTS, messages, override
from jaxridge.core.types import Array, Float, Scalar
from jaxridge.core.verbs import verb
from jaxridge.linear.carrier import carrier, damping_of, within
from jaxridge.linear.design import Data, Design, Options, Terms, checked, design_of
from jaxridge.linear.evidence import Best, most_evident
from jaxridge.linear.fit import in_order, predict
from jaxridge.linear.spectrum import Spectrum, from_design
from jaxridge.linear.svd import Factor
from jaxridge.optimize.uncertainty import student
from jaxridge.select.rules import MarginalLikelihood

__all__ = ["RidgePosterior", "ridge_posterior"]


NO_DERIVATIVES = "Samples of a posterior have no derivatives; differentiate predict, variance, coef or sd instead."


class RidgePosterior(Record):
    """The posterior of ridge coefficients; ``predict``, ``interval``, ``credible``, ``prediction`` and samples of it.

    ``coef`` (d,) or (d, t) the mean, ``sd`` the marginal standard deviations, ``intercept`` and ``intercept_sd``;
    ``lam`` λ, ``noise`` σ², ``prior`` τ² = σ²/λ, ``dof``, ``log_evidence`` and ``result``, () or (t,). ``degrees`` is
    ν, n − q or n, and infinite where the noise was given.
    """

    coef: Float[Array, "d *t"]
    sd: Float[Array, "d *t"]
    intercept: Float[Array, "*t"]
    intercept_sd: Float[Array, "*t"]
    lam: Float[Array, "*t"]
    noise: Float[Array, "*t"]
    prior: Float[Array, "*t"]
    dof: Float[Array, "*t"]
    degrees: Scalar
    log_evidence: Float[Array, "*t"]
    result: Any
    factored: Any = eqx.field(repr=False)
    names: tuple[str, ...] | None = eqx.field(static=True, repr=False, default=None)

    @verb()
    def predict(self, X: Any) -> Float[Array, "m *t"]:
        """The mean of Xw + b for new rows, the ridge prediction."""
        return predict("X", X, self.coef, self.intercept, self.names)

    def interval(self, level: float = 0.95, *, plug_in: bool = False) -> tuple[Array, Array]:
        """Ends of the central interval of each coefficient, of Student's t; normal with σ² as it is for ``plug_in``."""
        half = self._quantile(level, plug_in) * self.sd
        return self.coef - half, self.coef + half

    def variance(self, X: Any) -> Float[Array, "m *t"]:
        """Variance of Xw + b at each new row, given σ²; that of a new measurement there is larger by σ²."""
        return jnp.square(self._deviation(X))

    def credible(self, X: Any, level: float = 0.95, *, plug_in: bool = False) -> tuple[Array, Array, Array]:
        """Predictions, and the band in which Xw + b lies with that probability: (m,) or (m, t) each."""
        return self._band(X, level, plug_in, 0.0)

    def prediction(self, X: Any, level: float = 0.95, *, plug_in: bool = False) -> tuple[Array, Array, Array]:
        """Predictions, and the band of a new measurement of weight 1."""
        return self._band(X, level, plug_in, 1.0)

    def covariance_times(self, v: Any) -> Float[Array, "d *t"]:
        """Cov(w) v for a vector (d,), given σ²: the covariance as an operator, in O(min(n, d) d)."""
        v = as_floats("v", v, (1,)).astype(self.coef.dtype)
        if v.shape != self.coef.shape[:1]:
            raise ValueError(f"v has shape {v.shape}; pass a vector of one number per column, {self.coef.shape[:1]}.")
        return _covariance_times(self._spectrum(), v, *self._columns())

    def sample(self, key: Any, count: int = 1, *, plug_in: bool = False) -> tuple[Array, Array]:
        """Draws of coefficients (count, d[, t]) and intercepts (count[, t]), each with a σ² of its own unless plug_in.

        O(min(n, d) d) for each.
        """
        degrees = jnp.full_like(self.degrees, jnp.inf) if plug_in else self.degrees
        return _sample(self, self._spectrum(), as_key(key), whole("count", count, 1), degrees)

    def sample_predictions(self, X: Any, key: Any, count: int = 1, *, plug_in: bool = False) -> Array:
        """Draws of the function Xw + b at new rows, (count, m[, t]), from draws of the coefficients."""
        X = in_order("X", X, self.names).astype(self.coef.dtype)
        coef, intercept = self.sample(key, count, plug_in=plug_in)
        product = jnp.moveaxis(jnp.tensordot(X, coef, ((1,), (1,)), precision=jax.lax.Precision.HIGHEST), 1, 0)
        return product + intercept[:, None]

    def summary(self, level: float = 0.95) -> str:
        """The table of one target: a line for each coefficient, and the figures of the posterior below."""
        if self.coef.ndim > 1:
            raise ValueError("summary prints one target; call ridge_posterior on one column of y.")
        names = self.names or tuple(f"x{j}" for j in range(self.coef.shape[0]))
        low, high = self.interval(level)
        half = self._quantile(level, False) * self.intercept_sd
        first = ("intercept", self.intercept, self.intercept_sd, self.intercept - half, self.intercept + half)
        rows = [first, *zip(names, self.coef, self.sd, low, high, strict=True)]
        head = ("", "mean", "sd", f"[{(1 - level) / 2:.3g}", f"{(1 + level) / 2:.3g}]")
        figures = ("lam", "noise", "prior", "dof", "degrees", "log_evidence")
        lines = table(("", ""), [(name.replace("_", " "), getattr(self, name)) for name in figures])
        return "\n".join([table(head, rows), "", lines, *messages(self.result)])

    def __str__(self) -> str:
        return self.summary() if self.coef.ndim == 1 else repr(self)

    def _quantile(self, level: float, plug_in: bool) -> Scalar:
        return student(level, jnp.full_like(self.degrees, jnp.inf) if plug_in else self.degrees)

    def _band(self, X: Any, level: float, plug_in: bool, more: float) -> tuple[Array, Array, Array]:
        centre, deviation = self.predict(X), self._deviation(X)
        spread = jnp.hypot(deviation, jnp.broadcast_to(more * jnp.sqrt(self.noise), deviation.shape))
        half = self._quantile(level, plug_in) * spread
        return centre, centre - half, centre + half

    def _deviation(self, X: Any) -> Float[Array, "m *t"]:
        X = in_order("X", X, self.names).astype(self.coef.dtype)
        if X.shape[1] != self.coef.shape[0]:
            raise ValueError(f"X has {X.shape[1]} columns and the model was fitted on {self.coef.shape[0]}.")
        factored = self._spectrum()
        return factored.problem.squeeze(_deviation_of_rows(factored, X, *self._columns()))

    def _columns(self) -> tuple[Array, Array, Array]:
        return jnp.atleast_1d(self.lam), jnp.atleast_1d(self.noise), jnp.atleast_1d(self.prior)

    def _spectrum(self) -> Spectrum:
        return held(self, "factored")


@verb(checked)
def ridge_posterior(
    X: Any,
    y: Any,
    lam: Any = None,
    *,
    noise: Any = None,
    restricted: bool = True,
    solver: Solver = from_design,
    **problem: Unpack[Options],
) -> RidgePosterior:
    """Ridge regression as a Gaussian posterior, with λ and σ² of most evidence unless they are given.

    y = Xw + b + ε with wⱼ ~ N(0, σ²/(λ pⱼ)), εᵢ ~ N(0, σ²/ωᵢ) and a flat prior for b: the mean is `ridge` at λ, the
    covariance σ²(XᵀωX + λP)⁻¹ with what the intercept adds. λ = None takes, for each target, the λ of most evidence
    (`select.evidence`), found from one factorisation for all of them.

    Args:
        X, y, solver, problem: those of `jaxridge.ridge`; ``solver`` is ``spectrum.from_design`` or ``from_gram``.
        lam: λ > 0, a scalar or one for each target (t,), or None.
        noise: σ² > 0, the variance of a measurement of weight 1, likewise; None takes (rss + λ‖w‖²)/N.
        restricted: whether N is n − q, the measurements that the q unpenalised columns leave (restricted likelihood),
            or n, which is what scikit-learn counts.

    Returns a `RidgePosterior`. Where the evidence is largest at λ = ∞ the coefficients are 0 with deviation 0 and the
    code ``prior_only``; where it is largest for a perfect fit, λ = σ² = 0 with ``perfect_fit``. NaN and a code for bad
    values; ValueError for λ or σ² ≤ 0 that are not traced. Fields and methods have derivatives, of the first order in
    X, weights and penalty where λ was chosen, and NaN where λ is 0; samples refuse them.
    With ``restricted=False`` it equals ``sklearn.linear_model.BayesianRidge`` with flat hyperpriors (``alpha_`` = 1/σ²,
    ``lambda_`` = 1/τ²) where that converges. MacKay (1992), Neural Computation 4, 415.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> x = jnp.arange(6.0)[:, None]
    >>> posterior = jxr.ridge_posterior(x, jnp.array([1.0, 2.9, 5.2, 7.1, 8.8, 11.0]))
    >>> print(posterior.coef.round(3), posterior.sd.round(3), f"{posterior.lam:.4f}")
    [1.988] [0.037] 0.0062
    """
    data, terms = checked(X, y, **problem)
    lam = None if lam is None else as_lam(lam, data.y, terms.single)
    noise = None if noise is None else as_lam(noise, data.y, terms.single, "noise")
    for name, value in (("lam", lam), ("noise", noise)):
        if value is not None and not isinstance(value, Tracer) and not np.all(np.asarray(value) > 0):
            raise ValueError(f"{name} is {value}; a posterior needs a positive one, or None for that of most evidence.")
    solver = as_solver(solver, Design, "spectrum.from_design or spectrum.from_gram")
    found = _posterior(data, lam, noise, terms, solver, bool(restricted))
    return dataclasses.replace(found, names=names_of(X))


@partial(jax.jit, static_argnames=("terms", "restricted"))
def _posterior(
    data: Data, lam: Array | None, noise: Array | None, terms: Terms, solver: Solver, restricted: bool
) -> RidgePosterior:
    problem = design_of(data, terms)
    factored = solver.factor(problem)
    if not isinstance(factored, Spectrum):
        raise ValueError("solver has no spectrum for a posterior; pass spectrum.from_design or spectrum.from_gram.")
    shape = data.y.shape[1:]
    good_noise = jnp.broadcast_to(True if noise is None else noise > 0, shape)
    good_lam = jnp.broadcast_to(True if lam is None else lam > 0, shape)
    given = None if noise is None else poison(jnp.broadcast_to(noise, shape), good_noise)
    if lam is None:
        best = most_evident(factored, given, restricted)
    else:
        no = jnp.zeros(shape, bool)
        best = Best(poison(jnp.broadcast_to(lam, shape), good_lam), no, no, jnp.zeros(shape, lam.dtype))

    count = jnp.asarray(problem.rows() - (problem.free if restricted else 0), data.y.dtype)
    variance, prior = _variances(factored, best, given, count)
    aside, fit = factored.by_product(), factored.fit(best.lam)
    level = -MarginalLikelihood(given, restricted)(problem, aside, best.lam)
    level = jnp.where(best.perfect, best.at_perfect, level)
    dof = jnp.broadcast_to(aside.dof(best.lam), shape)
    plain = dataclasses.replace(problem, terms=problem.terms._replace(single=False))
    sd, intercept_sd = plain.split(marginal_deviation(factored, best.lam, variance, prior))
    cases = (
        (RESULTS.invalid_noise, ~good_noise),
        (RESULTS.invalid_lam, ~good_lam),
        (RESULTS.prior_only, best.prior_only),
        (RESULTS.perfect_fit, best.perfect),
    )
    result = fit.result
    for code, bad in cases:
        result = override(code, problem.squeeze(bad), result)
    numbers = problem.squeeze((sd, intercept_sd, best.lam, variance, prior, dof, level))
    degrees = count if given is None else jnp.full_like(count, jnp.inf)
    parts = zip(("sd", "intercept_sd", "lam", "noise", "prior", "dof", "log_evidence"), numbers, strict=True)
    return RidgePosterior(
        coef=fit.coef, intercept=fit.intercept, degrees=degrees, result=result, factored=factored, **dict(parts)
    )


def _variances(factored: Spectrum, best: Best, given: Array | None, count: Scalar) -> tuple[Array, Array]:
    """σ² and τ² (t,): σ² = Q/N unless it is given, τ² = σ²/λ, which for a perfect fit is ‖w‖²/N."""
    lam, squares = best.lam, factored.squared_norm(best.lam)
    variance = jnp.where(best.perfect, 0.0, factored.misfit(lam) / count) if given is None else given
    perfect = lam == 0
    return variance, jnp.where(perfect, squares / count, variance / jnp.where(perfect, 1.0, lam))


# Standard deviations of linear forms bᵀ[w, c], from coordinates Tᵀb along the directions of the factor and the length
# of what lies outside of them.


def _combined(factor: Factor, seen: Array, unseen: Array, whole: Array, noise: Array, prior: Array) -> Array:
    """(σ² scale² seen + τ² unseen)^½ (M, t) for ``seen`` (M, t) and ``unseen`` (M,), parts of ``whole``."""
    # Rounding leaves eps of a direction in others.
    rounding = 64.0 * jnp.square(jnp.finfo(seen.dtype).eps) * whole
    unseen = jnp.where(unseen > rounding, unseen, 0.0)[:, None]
    known = jnp.sqrt(seen) * (factor.scale * jnp.sqrt(noise))[None, :]
    return jnp.hypot(known, jnp.where(unseen == 0, 0.0, jnp.sqrt(unseen) * jnp.sqrt(prior)[None, :]))


def _inverse(factor: Factor, lam: Array) -> Float[Array, "m t"]:
    """1/(s² + λ'β), 0 where s = 0."""
    s = factor.s[:, None]
    return jnp.where(s > 0, 1.0 / jnp.where(s > 0, jnp.square(s) + damping_of(factor, lam), 1.0), 0.0)


def _unit(factored: Spectrum, lam: Array, noise: Array, prior: Array) -> Float[Array, " t"]:
    """What the solution of the carrier is multiplied by: σ², or σ²/λ in its wide form."""
    at_infinity = noise / within(factored.factor, lam)
    return jnp.where(jnp.isinf(lam), at_infinity, prior) if factored.problem.wide else noise


def _live(factored: Spectrum, B: Float[Array, "a M"], lam: Array, noise: Array, prior: Array) -> Float[Array, "M t"]:
    """(bᵀ Cov b)^½ by a solve of the live system for each b."""
    problem, n = factored.problem, factored.problem.X.shape[0]

    def one(lam: Array) -> Array:
        _, solved = carrier(problem, factored.factor, lam, jnp.zeros((n, B.shape[1]), B.dtype), -B)
        return jnp.sum(B * solved, axis=0)

    return safe_sqrt(jax.vmap(one, out_axes=1)(lam) * _unit(factored, lam, noise, prior)[None, :])


def _of_forms(factored: Spectrum, B: Array, lam: Array, noise: Array, prior: Array) -> Float[Array, "M t"]:
    factor, d = factored.factor, factored.problem.X.shape[1]
    x = jnp.square(factor.transposed_times(B) / factor.scale)
    unseen = jnp.sum(jnp.where(factor.s[:, None] > 0, 0.0, x), axis=0)
    whole = jnp.sum(x, axis=0)
    if factor.basis is not None:
        inner = (factor.unit / factor.scale)[:, None] * (B[:d] - matmul(factor.centre.T, B[d:]))
        length = jnp.sum(jnp.square(inner), axis=0)
        unseen = unseen + jnp.maximum(length - jnp.sum(x[: factor.V.shape[1]], axis=0), 0.0)
        whole = whole + length
    return _combined(factor, matmul(x.T, _inverse(factor, lam)), unseen, whole, noise, prior)


of_forms = derived(_of_forms, _live)


def _of_each(factored: Spectrum, lam: Array, noise: Array, prior: Array) -> Float[Array, "a t"]:
    """Of the penalised coefficients D V² (1/(s² + λ')) D and what is missing of 1 in V², then the others as forms."""
    factor, q = factored.factor, factored.problem.free
    r = factor.V.shape[1]
    squares = jnp.square(factor.V if factor.basis is None else matmul(factor.basis, factor.V))
    d, size = squares.shape[0], jnp.square(factor.unit / factor.scale)
    seen = size[:, None] * matmul(squares, _inverse(factor, lam)[:r])
    unseen = matmul(squares, (factor.s[:r] == 0).astype(squares.dtype))
    if factor.basis is not None:
        unseen = unseen + jnp.maximum(1.0 - jnp.sum(squares, axis=1), 0.0)
    penalised = _combined(factor, seen, size * unseen, size, noise, prior)
    forms = jnp.concatenate([jnp.zeros((d, q), lam.dtype), jnp.eye(q, dtype=lam.dtype)])
    return jnp.concatenate([penalised, _of_forms(factored, forms, lam, noise, prior)])


def _of_each_live(factored: Spectrum, lam: Array, noise: Array, prior: Array) -> Float[Array, "a t"]:
    problem = factored.problem
    B = jnp.eye(problem.X.shape[1] + problem.free, dtype=lam.dtype)
    return _live(factored, B, lam, noise, prior)


marginal_deviation = derived(_of_each, _of_each_live)  # of every coefficient of [X Z]


def _forms(problem: Design, X: Float[Array, "m d"]) -> Float[Array, "a m"]:
    """Rows of new data as forms of the coefficients of [X Z], in the order of those."""
    free = list(problem.terms.unpenalized)
    kept = [j for j in range(X.shape[1]) if j not in free]
    ones = [jnp.ones((X.shape[0], 1), X.dtype)] if problem.terms.intercept else []
    penalised = X[:, np.array(kept, int)] if free else X
    return jnp.concatenate([penalised, *ones, X[:, np.array(free, int)]], axis=1).T


@jax.jit
def _deviation_of_rows(factored: Spectrum, X: Array, lam: Array, noise: Array, prior: Array) -> Float[Array, "m t"]:
    return of_forms(factored, _forms(factored.problem, X), lam, noise, prior)


def _times(factored: Spectrum, b: Array, lam: Array, noise: Array, prior: Array) -> Float[Array, "a t"]:
    """Cov(w, c) b for one form b (a, 1)."""
    factor, (d, r) = factored.factor, (factored.problem.X.shape[1], factored.factor.V.shape[1])
    x = factor.transposed_times(b)
    product = factor.times(_gain(factor, lam, noise, prior) * x)
    if factor.basis is None:
        return product
    inner = factor.unit[:, None] * (b[:d] - matmul(factor.centre.T, b[d:]))
    outside = factor.unit[:, None] * (inner - factor.along(x[:r])) / factor.scale / factor.scale
    return product + jnp.concatenate([outside, -matmul(factor.centre, outside)]) * prior[None, :]


def _times_live(factored: Spectrum, b: Array, lam: Array, noise: Array, prior: Array) -> Float[Array, "a t"]:
    problem = factored.problem
    zero = jnp.zeros((problem.X.shape[0], 1), b.dtype)
    one = lambda lam: carrier(problem, factored.factor, lam, zero, -b)[1][:, 0]  # noqa: E731
    return jax.vmap(one, out_axes=1)(lam) * _unit(factored, lam, noise, prior)[None, :]


times = derived(_times, _times_live)


@jax.jit
def _covariance_times(factored: Spectrum, v: Array, lam: Array, noise: Array, prior: Array) -> Float[Array, "d *t"]:
    problem = factored.problem
    b = _forms(dataclasses.replace(problem, terms=problem.terms._replace(intercept=False)), v[None, :])
    if problem.terms.intercept:
        d = problem.X.shape[1]
        b = jnp.concatenate([b[:d], jnp.zeros((1, 1), b.dtype), b[d:]])
    return problem.split(times(factored, b, lam, noise, prior))[0]


def _gain(factor: Factor, lam: Array, noise: Array, prior: Array) -> Float[Array, "m t"]:
    """The variance along each direction of T: σ²/(s² + λ'β), τ²/scale² where s = 0."""
    seen = factor.s[:, None] > 0
    return jnp.where(seen, noise[None, :] * _inverse(factor, lam), (prior / factor.scale / factor.scale)[None, :])


@partial(jax.jit, static_argnames="count")
def _sample(
    posterior: RidgePosterior, factored: Spectrum, key: Array, count: int, degrees: Scalar
) -> tuple[Array, Array]:
    """With x = Vᵀε for ε ~ N(0, I): D [τ(ε − Vx) + V diag(σ/√(s² + λ')) x], and what the unpenalised columns add."""
    posterior, factored = without_derivatives((posterior, factored), NO_DERIVATIVES)
    factor, problem = factored.factor, factored.problem
    lam, noise, prior = posterior._columns()
    (d, r), t, dtype = (factor.unit.shape[0], factor.V.shape[1]), lam.shape[0], lam.dtype
    normal, other, spread = jax.random.split(key, 3)
    root = jnp.tile(jnp.sqrt(_gain(factor, lam, noise, prior)), (1, count))
    free = root[r:] * jax.random.normal(other, (factor.s.shape[0] - r, count * t), dtype)
    epsilon = jax.random.normal(normal, (r if factor.basis is None else d, count * t), dtype)
    if factor.basis is None:
        w = factor.unit[:, None] * matmul(factor.V, root[:r] * epsilon)
    else:
        x, tau = matmul(factor.V.T, matmul(factor.basis.T, epsilon)), jnp.tile(jnp.sqrt(prior), count) / factor.scale
        w = factor.unit[:, None] * (tau[None, :] * epsilon + factor.along((root[:r] - tau[None, :]) * x))
    moves = jnp.concatenate([w, matmul(factor.free_to_coef, free) - matmul(factor.centre, w)])
    # ν over χ² with ν degrees is σ² by its most probable value; infinite ν leaves it there.
    finite = jnp.isfinite(degrees)
    nu = jnp.where(finite, degrees, 1.0)
    ratio = 0.5 * nu / jax.random.gamma(spread, 0.5 * nu, (count, t), dtype)
    scale = jnp.where(finite, jnp.sqrt(ratio), 1.0)
    coef, intercept = problem.split(jnp.moveaxis(moves.reshape(-1, count, t), 1, 0) * scale[:, None, :])
    return coef + posterior.coef[None], intercept + posterior.intercept[None]
