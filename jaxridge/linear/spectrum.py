"""One factorisation, every λ: after it each quantity of a ridge problem is a sum over its directions.

With the columns without a penalty counted in, a factorisation gives orthonormal U (n × m), factors s (m), a
matrix T (a × m) and a mask β such that

    √ω [X Z] T = U diag(s)     and     Tᵀ P T = scale² diag(β),        β = 0 for the unpenalised directions.

For z = Uᵀ√ω y and λ' = λ scale² the filter factors are f = s²/(s² + λ'β), the coefficients T (s/(s²+λ'β) z),
the degrees of freedom Σf (the unpenalised columns count one each) and the leverages hᵢ = Σⱼ uᵢⱼ² fⱼ. What would
cancel is never subtracted: 1 − f = λ'β/(s²+λ'β), and 1 − hᵢ = (the part of row i outside U) + Σⱼ uᵢⱼ² (1 − fⱼ).

The factor is frozen (it carries no derivative), the problem is live. Everything that leaves a `Spectrum` has
the value of the formula above and the derivative of the live problem.
"""

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge.core import plan
from jaxridge.core.factored import Solver, damped
from jaxridge.core.implicit import derived, derived_columns
from jaxridge.core.numbers import matmul, norm_in, poison, safe_divide
from jaxridge.core.results import RESULTS, first_failure
from jaxridge.core.types import Array, Bool, Float, Lam
from jaxridge.linear import carrier, leverage, rounding
from jaxridge.linear.carrier import complement, damping_of
from jaxridge.linear.cholesky import from_cholesky
from jaxridge.linear.design import Beyond, Design, make_design
from jaxridge.linear.fit import LinearFactored, span_of
from jaxridge.linear.folds import Folds, fold_factors
from jaxridge.linear.standard_form import standard_form
from jaxridge.linear.svd import Factor, gram, svd

__all__ = ["Spectrum", "from_cholesky", "from_design", "from_gram", "from_triangle"]


class Spectrum(LinearFactored):
    """A factored ridge problem. Every method takes one λ, or one for each target, ``(t,)``; ``vmap`` the grid.

    Coefficients, residuals, norms and their sums can be differentiated to every order in X, y, λ, weights and
    penalty. ``dof``, leverages, leave-one-out residuals and ``logdet`` to every order in λ and y, and once in
    X, weights and penalty (a second time raises ``ValueError``); ``exact()`` lifts that at the price of a
    solve with a column for each feature, at each λ that is differentiated.
    """

    problem: Design
    factor: Factor
    twice: bool = eqx.field(static=True, default=False)
    strict: bool = eqx.field(static=True, default=True)  # whether a derivative beyond those is an error, or NaN

    @property
    def missing(self) -> str:
        return "needs the rows of X, which this spectrum does not keep; use rss, dof or gcv"

    def exact(self) -> "Spectrum":
        """The same spectrum, with derivatives of every order for the leverages and ``dof`` too."""
        return Spectrum(self.problem, self.factor, twice=True)

    def by_product(self) -> "Spectrum":
        return Spectrum(self.problem, self.factor, self.twice, strict=False)

    def without_rows(self) -> "Spectrum":
        """The same spectrum without its arrays of a row per observation: smaller, no leverages."""
        return eqx.tree_at(lambda s: s.factor, self, self.factor.without_rows())

    @property
    def separable(self) -> bool:
        """Whether `of_targets` is there."""
        return self.factor.doubt.kind == "rows" and self.factor.has_rows and self.problem.beyond is None

    def of_targets(self, y: Float[Array, "n t"]) -> "Spectrum":
        """The same rows with other targets, from the factor of `from_design`."""
        problem = dataclasses.replace(self.problem, y=y)
        factor = jax.lax.stop_gradient(self.factor.of_targets(standard_form(problem)))
        return dataclasses.replace(self, problem=problem, factor=factor)

    @property
    def singular_values(self) -> Float[Array, " r"]:
        """Singular values of the standard form in the user's units, largest first; 0 below the cut-off."""
        kept = self.factor.mask.shape[0] - self.problem.free
        return self.factor.s[:kept] / self.factor.scale

    def span(self) -> tuple[Array, Array]:
        return span_of(self.singular_values)

    def full_rank(self) -> Bool[Array, ""]:
        return self.factor.full_rank

    def fold(self, partition: Any) -> Folds:
        return fold_factors(self.problem, self._with_rows("kfold").factor, partition)

    # Coefficients and residuals: values from the frozen factor, derivatives from the carrier.

    def _solution(self, lam: Lam) -> tuple[Array, Array]:
        """Residuals and coefficients, live; a spectrum without rows is factored once more for it."""
        factor = self.factor if self.factor.has_rows else svd(standard_form(self.problem))
        return carrier.solution(self.problem, factor, _checked(lam))

    def _coordinates(self, lam: Lam) -> tuple[Float[Array, "r t"], Float[Array, "1 t"]]:
        """(s/(s²+λ'β)) z of the penalised directions, less a factor that is to be multiplied by twice.

        Only an answer beyond the range of the dtype leaves it: λ = 1e300 on data of size 1e-150 gives Xᵀy/λ although
        λ' is beyond. Above 1 it is divided by: s/(s²+λ') = s/((ks)² + 1) k² with k = 1/(√λ scale).
        """
        factor, scale = self.factor, self.factor.scale
        r = factor.V.shape[1]
        s, z, lam = factor.s[:r, None], factor.z[:r], _checked(lam)[None, :]
        damping = lam * scale * scale
        large, root = damping > 1, jnp.sqrt(scale)
        # √k and what leads to the units of y: roots of even powers of two, and of λ.
        stretch = jnp.where(large, root * jnp.sqrt(jnp.where(large, lam, 1.0)), 1.0 / root)
        total = jnp.square(jnp.where(large, s / root / stretch, s)) + jnp.where(large, 1.0, damping)
        y_scale = poison(factor.y_scale, jnp.isfinite(factor.y_scale) & (factor.y_scale > 0))
        return s * z / jnp.where(total == 0, jnp.inf, total), jnp.sqrt(y_scale)[None, :] / stretch

    def _coef(self, lam: Lam) -> Float[Array, "a t"]:
        """Coefficients of [X Z]: T (s/(s²+λ'β) z), the penalised ones, then what they leave to the others."""
        factor, (c, half) = self.factor, self._coordinates(lam)
        r = factor.V.shape[1]
        w = (factor.unit / factor.scale)[:, None] * factor.along(c) * half
        free = matmul(factor.free_to_coef, factor.z[r:]) * factor.y_scale[None, :]
        return jnp.concatenate([w * half, free - matmul(factor.centre, w) * half])

    coef = derived(_coef, lambda self, lam: self._solution(lam)[1])

    def _kept(self, lam: Lam) -> Float[Array, "m c"]:
        """1 − f, frozen."""
        return complement(self.factor, damping_of(self.factor, _checked(lam)))

    def _unweighted(self, r: Array, lam: Lam) -> Float[Array, "n t"]:
        """r/√ω; rows of weight zero from their own definition, y − [X Z] w."""
        root = self.factor.root_weights
        if root is None:
            return r
        alone = self.problem.y - self.problem.product(self._coef(lam))
        return jnp.where((root > 0)[:, None], r / jnp.where(root > 0, root, 1.0)[:, None], alone)

    def _residual(self, lam: Lam) -> Float[Array, "n t"]:
        """y − [X Z] w, from (1 − f) z and the part of y outside the range of X: no subtraction."""
        factor = self._with_rows("residual").factor
        scaled = factor.y_perp + matmul(factor.U, self._kept(lam) * factor.z)
        return self._unweighted(scaled * factor.y_scale[None, :], lam)

    residual = derived(_residual, lambda self, lam: self._solution(lam)[0])

    def _rss(self, lam: Lam) -> Float[Array, " t"]:
        """Weighted residual sum of squares, ‖(1−f) z‖² + rss⊥."""
        factor = self.factor
        scaled = factor.rss_perp[None, :] + jnp.sum(jnp.square(self._kept(lam) * factor.z), axis=0, keepdims=True)
        inside, beyond = (scaled * factor.y_scale[None, :] * factor.y_scale[None, :])[0], self.problem.beyond
        return inside if beyond is None else inside + beyond.rss

    def _rss_live(self, lam: Lam) -> Float[Array, " t"]:
        r, _ = self._solution(lam)
        inside, beyond = jnp.sum(self.problem.weigh(jnp.square(r)), axis=0), self.problem.beyond
        return inside if beyond is None else inside + beyond.rss

    # In λ, as a rule is searched, these are sums over directions.
    rss = derived_columns(_rss, _rss_live)

    def _misfit(self, lam: Lam) -> Float[Array, " t"]:
        """Σ(1−f)z² + rss⊥: neither part leaves the range of the dtype where ‖w‖² does."""
        factor = self.factor
        inside = jnp.sum(self._kept(lam) * jnp.square(factor.z), axis=0, keepdims=True)
        scaled = (factor.rss_perp[None, :] + inside) * factor.y_scale[None, :] * factor.y_scale[None, :]
        beyond = self.problem.beyond
        return scaled[0] if beyond is None else scaled[0] + beyond.rss

    def _misfit_live(self, lam: Lam) -> Float[Array, " t"]:
        r, w = self._solution(lam)
        inside, beyond = jnp.sum(self.problem.weigh(jnp.square(r)), axis=0), self.problem.beyond
        total = inside + damped(lam, self.penalty_of(w))
        return total if beyond is None else total + beyond.rss

    misfit = derived_columns(_misfit, _misfit_live)

    def _norm(self, lam: Lam) -> Float[Array, " t"]:
        """(Σ (s z/(s²+λ'))²)^½ over the penalised directions, in the user's units."""
        c, half = self._coordinates(lam)
        return norm_in(c, c) * half[0] * half[0]

    def _norm_live(self, lam: Lam) -> Float[Array, " t"]:
        w, penalty = self._solution(lam)[1], self.problem.penalty
        w = jnp.sqrt(penalty)[:, None] * w[: penalty.shape[0]]
        return norm_in(w, w)

    norm = derived_columns(_norm, _norm_live)

    def squared_norm(self, lam: Lam) -> Float[Array, " t"]:
        """Σⱼ pⱼ wⱼ²."""
        return jnp.square(self.norm(lam))

    # Traces: sums over directions, live to first order in the data, or by the carrier where every order is wanted.

    def _live_terms(self, lam: Lam) -> tuple[Float[Array, "m 1"], Float[Array, "m c"]]:
        """s² and λ'β with live squares; NaN for an invalid λ, so that it fails in its derivatives too."""
        alpha, beta = leverage.squares(self.problem, self.factor, self.strict)
        return alpha[:, None], damping_of(self.factor, _checked(lam), beta)

    def filter_factors(self, lam: Lam) -> Float[Array, "r c"]:
        """f = s²/(s²+λ') of the penalised directions, live to first order in the data where singular values differ."""
        alpha, damping = self._live_terms(lam)
        return safe_divide(alpha, alpha + damping)[: self.factor.mask.shape[0] - self.problem.free]

    def dof_or_nan(self, lam: Lam) -> Lam:
        return self.by_product()._dof(lam)

    def _dof(self, lam: Lam) -> Lam:
        """Effective degrees of freedom Σf; unpenalised columns count one each."""
        alpha, damping = self._live_terms(lam)
        return jnp.sum(safe_divide(alpha, alpha + damping), axis=0).reshape(jnp.shape(lam))

    def _dof_live(self, lam: Lam) -> Lam:
        hat = leverage.hat_diagonal(self.problem, self.factor, _checked(lam))
        return jnp.sum(hat, axis=0).reshape(jnp.shape(lam))

    _dof_exact = derived(_dof, _dof_live)

    def dof(self, lam: Lam) -> Lam:
        """Effective degrees of freedom Σf, the trace of the hat matrix; unpenalised columns count one each."""
        return self._with_rows("dof")._dof_exact(lam) if self.twice else self._dof(lam)

    def _kept_sum(self, lam: Lam) -> Lam:
        """Σ(1−f) over the directions that the data see."""
        alpha, damping = self._live_terms(lam)
        infinite = jnp.isinf(damping)
        damping = jnp.where(infinite, 1.0, damping)
        kept = jnp.where(infinite, 1.0, safe_divide(damping, alpha + damping))
        return jnp.sum(jnp.where((self.factor.s > 0)[:, None], kept, 0.0), axis=0).reshape(jnp.shape(lam))

    _kept_sum_exact = derived(_kept_sum, lambda self, lam: -self._dof_live(lam))

    def residual_dof(self, lam: Lam) -> Lam:
        """n − dof without cancellation: Σ(1−f) over the rank, and one for every measurement beyond it."""
        kept = self._with_rows("dof")._kept_sum_exact(lam) if self.twice else self._kept_sum(lam)
        return kept + (self.problem.rows() - self.problem.free - self.factor.rank.astype(kept.dtype))

    def logdet(self, lam: Lam) -> Lam:
        """log det(I + X̂X̂ᵀ/λ') over the penalised directions, the log-determinant of the evidence."""
        factor, lams = self.factor, _checked(lam)[None, :]
        alpha, beta = (x[:, None] for x in leverage.squares(self.problem, factor, self.strict))
        damping = damping_of(factor, lams[0], beta[:, 0])
        unseen = jnp.where(alpha > 0, jnp.inf, 0.0)
        ratio = jnp.where(damping == 0, unseen, alpha / jnp.where(damping == 0, 1.0, damping))
        penalised = factor.mask[:, None] > 0
        # Beside a ratio beyond the range of the dtype 1 is nothing, and its parts are within.
        far = jnp.isinf(ratio) & penalised
        parts = jnp.log(jnp.where(far, alpha, 1.0)) - jnp.log(jnp.where(far, beta, 1.0) * jnp.where(far, lams, 1.0))
        logs = jnp.where(far, parts - 2.0 * jnp.log(factor.scale), jnp.log1p(jnp.where(far | ~penalised, 0.0, ratio)))
        return jnp.sum(logs, axis=0).reshape(jnp.shape(lam))

    # Rows one by one: leverages, and residuals without the row itself.

    def _one_minus_leverage(self, lam: Lam) -> Float[Array, "n c"]:
        return leverage.one_minus_hat(self.problem, self.factor, _checked(lam), self.strict)

    _one_minus_leverage_exact = derived(
        _one_minus_leverage, lambda self, lam: 1.0 - leverage.hat_diagonal(self.problem, self.factor, _checked(lam))
    )

    def one_minus_leverage(self, lam: Lam) -> Float[Array, "n c"]:
        """1 − hᵢ at each λ, exactly 0 only where row i is fitted whatever yᵢ is."""
        spectrum = self._with_rows("one_minus_leverage")
        if self.twice:
            return spectrum._one_minus_leverage_exact(lam)
        return leverage.one_minus_hat(self.problem, self.factor, jnp.atleast_1d(lam), self.strict)

    def _loo_residual(self, lam: Lam) -> Float[Array, "n t"]:
        """yᵢ minus the prediction of the fit without row i: rᵢ / (1 − hᵢ), one formula down to λ = 0.

        Numerator and denominator share the factor (s_min²+λ')/λ' wherever nothing lies outside U. That leaves
        (s_min²+λ')/(s²+λ') in the place of 1 − f, which is as good at λ = 0 as anywhere. A row of weight 0 never took
        part, so its residual is that of the fit itself.
        """
        factor = self._with_rows("loo_residual").factor
        damping, s = damping_of(factor, _checked(lam)), factor.s[:, None]
        # Where the measurements are complete an unseen direction is one that rows of weight zero span.
        counts = (factor.mask[:, None] > 0) & ((s > 0) | ~factor.complete)
        smallest = jnp.min(jnp.where(counts, s, jnp.inf), initial=jnp.inf)
        inside = factor.complete | (jnp.max(factor.lev_perp) == 0)
        smallest = jnp.where(inside & jnp.isfinite(smallest), smallest, 0.0)
        ratio = (jnp.square(smallest) + damping) / jnp.where(s > 0, jnp.square(s) + damping, 1.0)
        kept = jnp.where((s > 0) & ~jnp.isinf(damping), ratio, 1.0)
        kept = jnp.where(counts, kept, 0.0)
        numerator = factor.y_perp + matmul(factor.U, kept * factor.z)
        denominator = factor.lev_perp[:, None] + matmul(jnp.square(factor.U), kept)
        scaled = numerator / jnp.broadcast_to(denominator, numerator.shape)
        return self._unweighted(scaled * factor.y_scale[None, :], lam)

    def _loo_residual_live(self, lam: Lam) -> Float[Array, "n t"]:
        r, _ = self._solution(lam)
        return r / jnp.broadcast_to(self.one_minus_leverage(lam), r.shape)

    loo_residual = derived_columns(_loo_residual, _loo_residual_live)

    def result(self, lam: Lam) -> Any:
        """A `RESULTS` item for each target: whether this λ was solved, and if not, why."""
        factor, checks = self.factor, self.factor.checks
        lam = jax.lax.stop_gradient(jnp.atleast_1d(lam))
        finite = jnp.all(jnp.isfinite(self._coef(lam)), axis=0)
        singular = ~factor.full_rank & (lam == 0)
        lost = _is_lost(jax.lax.stop_gradient(self), lam)
        return first_failure(
            (~(checks.finite & checks.finite_y), RESULTS.nonfinite_input),
            (~checks.weights, RESULTS.invalid_weights),
            (~checks.penalty, RESULTS.invalid_penalty),
            (~checks.independent, RESULTS.dependent_unpenalized),
            (~(lam >= 0), RESULTS.invalid_lam),
            (~finite, RESULTS.overflow),
            (singular, RESULTS.rank_deficient),
            (~checks.separate, RESULTS.nearly_dependent),
            (lost, RESULTS.unresolved),
            shape=(factor.z.shape[1],),
        )

    def _with_rows(self, what: str) -> "Spectrum":
        """This spectrum, unless its rows were dropped: then what needs them has to say so."""
        if not self.factor.has_rows:
            raise self.unavailable(what)
        return self


def _checked(lam: Lam) -> Float[Array, " c"]:
    """λ as a vector, NaN where it is negative."""
    lam = jnp.atleast_1d(lam)
    return poison(lam, lam >= 0)


def _is_lost(spectrum: Spectrum, lam: Float[Array, " c"]) -> Bool[Array, " t"]:
    """Whether rounding alone may change the coefficients by more than their twentieth part (`rounding`)."""
    factor, shape, beyond = spectrum.factor, spectrum.problem.X.shape, spectrum.problem.beyond
    r, doubt = factor.V.shape[1], factor.doubt
    s, z, damping = factor.s[:r, None], factor.z[:r], damping_of(factor, lam)[:r]
    kept, longest, outside = s > 0, doubt.longest, factor.rss_perp
    kind = doubt.kind if beyond is None or not beyond.gram else "tall"
    if beyond is not None:
        # What rounding does to a triangle alone has no part in what lies beyond it.
        outside = outside if beyond.rounded else outside + beyond.rss / factor.y_scale / factor.y_scale
        longest = longest if beyond.largest is None else jnp.linalg.norm(beyond.largest * factor.unit)
    least = jnp.min(jnp.where(kept, jnp.square(s) + damping, jnp.inf), axis=0, initial=jnp.inf)
    dual = jnp.where(kept, safe_divide(z, jnp.square(s) + damping), 0.0)
    norm, largest, hidden = jnp.linalg.norm(s * dual, axis=0), jnp.max(s, initial=0.0), doubt.below
    if kind == "rows":
        unit = rounding.unit(shape, s.dtype)
        rest = jnp.where(kept, complement(factor, damping_of(factor, lam))[:r], 1.0) * z
        residual = jnp.sqrt(outside + jnp.sum(jnp.square(rest), axis=0))
        reach = jnp.sqrt(jnp.square(doubt.rows) + jnp.square(longest))
        spread = jnp.linalg.norm(reach[:, None] * safe_divide(s, jnp.square(s) + damping), axis=0)
        growth, hidden = rounding.of_rows(spread, least, longest, residual, norm), hidden + unit * reach
    else:
        unit = rounding.gram_unit(shape, s.dtype)
        target = jnp.sqrt(outside + jnp.sum(jnp.square(z), axis=0))
        tall, wide = rounding.of_tall_gram, rounding.of_wide_gram
        size, of = (target, tall) if kind == "tall" else (jnp.linalg.norm(dual, axis=0), wide)
        growth, hidden = of(largest, least, size, norm), jnp.maximum(hidden, math.sqrt(unit) * largest)
    # At full rank what was cut off are rows without a weight.
    lost = jnp.where(factor.full_rank | (doubt.cut == 0), 0.0, rounding.most(hidden[:, None], damping) * doubt.cut)
    return unit * growth + safe_divide(jnp.linalg.norm(lost, axis=0), norm) > rounding.LOST


class FromDesign(Solver):
    """Factor by QR and SVD: right to the condition of X. The default of every verb."""

    takes = Design

    def factor(self, problem: Design, lams: Any = None) -> Spectrum:
        return Spectrum(problem, jax.lax.stop_gradient(svd(standard_form(problem))))


class FromGram(Solver):
    """Factor the smaller Gram matrix: two to four times faster, right to the condition of X squared."""

    takes = Design

    def factor(self, problem: Design, lams: Any = None) -> LinearFactored:
        """For models at a few λ alone, Cholesky factors of that matrix."""
        if lams is not None and plan.gram(lams.shape[0]).route == "cholesky":
            return from_cholesky.factor(problem)
        return Spectrum(problem, jax.lax.stop_gradient(gram(standard_form(problem))))


from_design, from_gram = FromDesign(), FromGram()


def from_triangle(
    R: Any, Qty: Any, *, rows: Any, rss: Any = 0.0, unpenalized: int | tuple[int, ...] = (), penalty: Any = None
) -> Spectrum:
    """Factor a problem that is known by the triangle of its QR factorisation, X = QR, alone.

    Args:
        R: (d, d), or any (p, d) with RᵀR = XᵀX. Qty: (p,) or (p, t), Qᵀy.
        rows: n, the observations behind the triangle. rss: () or (t,), ‖y − QQᵀy‖².
        unpenalized, penalty: as for `jaxridge.ridge`; for an intercept make its column of ones part of X.

    Has no leverages, for want of rows: leave-one-out is a ``ValueError`` that names ``gcv``.

    >>> import jax.numpy as jnp
    >>> from jaxridge import spectrum
    >>> triangle = spectrum.from_triangle(jnp.eye(2), jnp.array([3.0, 4.0]), rows=5, rss=1.0)
    >>> print(triangle.rss(jnp.array(1.0)), triangle.residual_dof(jnp.array(1.0)))
    [7.25] 4.0
    """
    problem = make_design(R, Qty, intercept=False, unpenalized=unpenalized, penalty=penalty)
    dtype, targets = problem.X.dtype, problem.y.shape[1]
    more = jnp.asarray(rows, dtype) - problem.X.shape[0]
    beyond = Beyond(more, jnp.broadcast_to(jnp.asarray(rss, dtype), (targets,)))
    problem = eqx.tree_at(lambda x: x.beyond, problem, beyond, is_leaf=lambda x: x is None)
    return from_design(problem).without_rows()
