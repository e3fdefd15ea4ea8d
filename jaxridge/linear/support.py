"""A lasso or elastic net after its path was followed: every λ is read off the knots, and differentiated on its support.

On the support S the equations are linear, A_Sᵀω(y − A_S w) = (λ/2) p s + λ₂ p w with A = [X Z] and s the signs of w,
and elsewhere w = 0: what they say where S stays is the derivative, to every order.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve

from jaxridge.core.implicit import derived, first_order_only, linear_root
from jaxridge.core.numbers import inner, log_spaced, matmul, poison
from jaxridge.core.results import RESULTS, first_failure
from jaxridge.core.types import Array, Bool, Float, Lam
from jaxridge.linear.design import Data, Design, Terms, design_of
from jaxridge.linear.fit import Fit, LinearFactored
from jaxridge.linear.homotopy import NEAR, Knots, at, homotopy
from jaxridge.linear.standard_form import StandardForm, standard_form
from jaxridge.select.partition import Partition, mean_losses, take_rows


class Sparse(LinearFactored):
    """The path of a sparse problem; exits take one λ, or one for each target, ``(t,)``.

    ``problem.penalty`` are the squares of the factors of |wⱼ|, ``quadratic`` those of wⱼ².
    """

    problem: Design
    quadratic: Float[Array, " d"]
    lam2: Float[Array, ""] | None  # None is the lasso
    form: StandardForm
    gram: Float[Array, "d d"]
    path: Knots  # of each target, in units of the form

    @property
    def missing(self) -> str:
        return "is not defined for a sparse model; use select.kfold, select.holdout or select.gcv"

    def factors(self) -> Float[Array, "d 1"]:
        """Those of |wⱼ|."""
        return jnp.sqrt(self.problem.penalty)[:, None]

    def penalty_of(self, w: Float[Array, "a t"]) -> Float[Array, " t"]:
        """Σⱼ pⱼ|wⱼ|."""
        return jnp.sum(self.factors() * jnp.abs(w[: self.problem.penalty.shape[0]]), axis=0)

    def knots(self) -> Float[Array, "m *t"]:
        """The λ at which the path bends, each once, largest first; NaN for no more."""
        path = self.path
        again = jnp.pad(path.a[:, 1:] == path.a[:, :-1], ((0, 0), (1, 0)))
        lam = 2.0 * path.a * self._unit()[:, None]
        # NaN is sorted last.
        return self.problem.squeeze(-jnp.sort(-jnp.where(path.bends & ~again, lam, jnp.nan), axis=1).T)

    def _unit(self) -> Float[Array, " t"]:
        """λ = 2a times this."""
        return self.form.y_scale / self.form.scale

    def _a(self, lam: Lam) -> Float[Array, " t"]:
        lam = jnp.broadcast_to(poison(lam, lam >= 0), self.problem.y.shape[1:])
        return 0.5 * lam / self._unit()

    def _followed(self, lam: Lam) -> Bool[Array, " t"]:
        """Whether the path goes that far, but for rounding."""
        last = jax.vmap(Knots.last)(self.path)
        return self._a(lam) >= last * (1.0 - 4 * jnp.finfo(last.dtype).eps)

    def _standard(self, lam: Lam) -> tuple[Float[Array, "d t"], Bool[Array, " t"]]:
        """ŵ, and whether it is one of many."""
        w, tied = jax.vmap(at, out_axes=(1, 0))(self.path, self._a(lam))
        good = self._followed(lam) & jnp.isfinite(self.path.a[:, 0]) & self._valid_lam2()
        return poison(w, good[None, :]), tied

    def _valid_lam2(self) -> Bool[Array, ""]:
        return jnp.array(True) if self.lam2 is None else jnp.isfinite(self.lam2) & (self.lam2 >= 0)

    def _frozen_coef(self, lam: Lam) -> Float[Array, "a t"]:
        form = self.form
        w = form.unit[:, None] * self._standard(lam)[0]
        free = matmul(form.free_to_coef, form.free_y) - matmul(form.centre, w)
        return jnp.concatenate([w, free]) * form.y_scale[None, :]

    def coef(self, lam: Lam) -> Float[Array, "a t"]:
        """The coefficients of [X Z], live on their support."""
        problem, d, x = self.problem, self.form.unit.shape[0], jax.lax.stop_gradient(self._frozen_coef(lam))
        lam = jnp.broadcast_to(poison(lam, lam >= 0), problem.y.shape[1:])
        on = x[:d] != 0
        push = jnp.where(on, 0.5 * lam[None, :] * self.factors() * jnp.sign(x[:d]), 0.0)
        kept = jnp.concatenate([on, jnp.ones((problem.free, x.shape[1]), bool)])
        frozen = jax.lax.stop_gradient(self)

        def equation(w: Array) -> Array:
            w_on = jnp.where(kept, w, 0.0)
            slope = problem.adjoint(problem.weigh(problem.y - problem.product(w_on)))
            slope = slope.at[:d].add(-push)
            if self.lam2 is not None:
                slope = slope.at[:d].add(-self.lam2 * self.quadratic[:, None] * w_on[:d])
            return jnp.where(kept, slope, -w)

        return linear_root(equation, x, lambda b: -_solve(frozen, on, b))

    def _ridge(self) -> Float[Array, " d"]:
        """The diagonal that λ₂ adds to the Gram matrix of the form."""
        if self.lam2 is None:
            return jnp.zeros_like(self.form.unit)
        return self.lam2 * self.quadratic * jnp.square(self.form.unit)

    def _reduced_residual(self, lam: Lam) -> Float[Array, "p t"]:
        """ŷ − X̂ŵ, after the columns without a penalty."""
        return self.form.y - matmul(self.form.X, self._standard(lam)[0])

    def _rss(self, lam: Lam) -> Float[Array, " t"]:
        scaled = jnp.linalg.norm(self._reduced_residual(lam), axis=0) * self.form.y_scale
        return jnp.square(scaled)

    rss = derived(_rss, lambda self, lam: LinearFactored.rss(self, lam))

    def dof(self, lam: Lam) -> Float[Array, " t"]:
        """The coefficients that are not 0, or for λ₂ the trace of the hat matrix on the support, without derivative.

        Zou, Hastie and Tibshirani (2007), Ann. Statist. 35, 2173.
        """
        frozen = jax.lax.stop_gradient(self)
        on = frozen._standard(jax.lax.stop_gradient(lam))[0] != 0
        if self.lam2 is None:
            return self.problem.free + poison(jnp.sum(on, axis=0, dtype=self.gram.dtype), self._followed(lam))

        def trace(on: Array) -> Array:
            L, both = _lower(frozen, on), on[:, None] & on[None, :]
            return jnp.trace(cho_solve((L, True), jnp.where(both, frozen.gram, 0.0)))

        return first_order_only(self.problem.free + jax.vmap(trace, 1)(on), (self.problem, self.lam2, lam), None)

    def gap(self, lam: Lam) -> Float[Array, " t"]:
        """How far the objective may lie above its minimum, as a part of it: the duality gap of the rows themselves."""
        w, a, ridge = self._standard(lam)[0], self._a(lam), self._ridge()[:, None]
        r = self._reduced_residual(lam)
        rho = matmul(self.form.X.T, r) - ridge * w
        share = jnp.minimum(1.0, a / jnp.max(jnp.abs(rho), axis=0, initial=jnp.finfo(a.dtype).tiny))
        fitted = jnp.sum(jnp.square(r), axis=0) + jnp.sum(ridge * jnp.square(w), axis=0)
        # yᵀr = ‖r‖² + Σ ridge w² + wᵀρ, and |wⱼ| a − wⱼ ρⱼ share is no less than 0.
        slack = jnp.sum(jnp.abs(w) * a[None, :] - w * rho * share[None, :], axis=0)
        gap = 2.0 * slack + jnp.square(1.0 - share) * fitted
        primal = fitted + 2.0 * a * jnp.sum(jnp.abs(w), axis=0)
        return jnp.where(primal > 0, gap / jnp.where(primal > 0, primal, 1.0), 0.0)

    def _at_kink(self, lam: Lam) -> Bool[Array, " t"]:
        """Whether a knot is nearer than the dtype can tell."""
        path, near = self.path, NEAR * jnp.finfo(self.gram.dtype).eps * self.path.a[:, :1]
        return jnp.any(path.bends & (jnp.abs(path.a - self._a(lam)[:, None]) <= near), axis=1)

    def result(self, lam: Lam) -> Any:
        """A `RESULTS` item for each target."""
        self, lam = jax.lax.stop_gradient((self, lam))
        checks, gap = self.form.checks, self.gap(lam)
        tied = self._standard(lam)[1]
        return first_failure(
            (~(checks.finite & checks.finite_y), RESULTS.nonfinite_input),
            (~checks.weights, RESULTS.invalid_weights),
            (~checks.penalty, RESULTS.invalid_penalty),
            (~checks.independent, RESULTS.dependent_unpenalized),
            (~(lam >= 0) | ~self._valid_lam2(), RESULTS.invalid_lam),
            (~self._followed(lam), RESULTS.path_ended),
            (~jnp.all(jnp.isfinite(self._frozen_coef(lam)), axis=0), RESULTS.overflow),
            (~(gap <= tolerance(gap.dtype)), RESULTS.open_gap),
            (~checks.separate, RESULTS.nearly_dependent),
            (tied, RESULTS.not_unique),
            (self._at_kink(lam), RESULTS.at_kink),
            shape=(self.problem.y.shape[1],),
        )

    def fit(self, lam: Lam) -> Fit:
        coef, intercept = self.problem.split(self.coef(lam))
        rss, dof, result = self.problem.squeeze((self.rss(lam), self.dof_or_nan(lam), self.result(lam)))
        return Fit(coef, intercept, lam, dof, rss, result)

    def resolved(self, lam: Lam) -> Bool[Array, " t"]:
        return jnp.all(jnp.isfinite(self._frozen_coef(lam)), axis=0)

    def span(self) -> tuple[Array, Array]:
        """log₁₀ of λ from a thousandth of where all coefficients are 0 to there."""
        largest = jax.lax.stop_gradient(jnp.max(2.0 * self.path.a[:, 0] * self._unit()))
        largest = jnp.where(largest > 0, largest, 1.0)
        return jnp.log10(largest) - 3.0, jnp.log10(largest)

    def default_grid(self, count: int = 100) -> Float[Array, " k"]:
        low, high = self.span()
        # A little above the first knot, where all is smooth.
        return log_spaced(low, high + 1e-3, count)[::-1]

    def full_rank(self) -> Bool[Array, ""]:
        return ~jnp.any(self.path.tied)

    def fold(self, partition: Partition) -> "_Folds":
        problem, n = self.problem, self.problem.X.shape[0]
        weights = jnp.ones(n, problem.X.dtype) if problem.weights is None else problem.weights
        least, most = jnp.min(jax.vmap(Knots.last)(self.path) * self._unit()), self.path.a.shape[1]

        def one(rows: Array) -> Sparse:
            part = Design(
                X=take_rows(problem.X, rows),
                Z=take_rows(problem.Z, rows),
                y=take_rows(problem.y, rows),
                weights=take_rows(weights, rows) if partition.ragged or problem.weights is not None else None,
                penalty=problem.penalty,
                terms=problem.terms,
            )
            return _followed(part, self.quadratic, self.lam2, 2.0 * least, most)

        return _Folds(partition, jax.vmap(one)(partition.train))

    def lam_of_norm(self, radius: Float[Array, " t"]) -> Float[Array, " t"]:
        """λ with Σ p|w| = radius, between two knots; that of the last where it lies beyond, ∞ at radius 0."""
        size = radius / self.form.y_scale / self.form.scale

        def one(path: Knots, size: Array) -> Array:
            norms = jnp.sum(jnp.abs(path.w), axis=1)
            # Sums of a path that grows may fall by rounding.
            norms = jax.lax.cummax(norms)
            i = jnp.clip(jnp.sum((norms < size) & (jnp.arange(norms.shape[0]) <= path.count)), 1, path.count)
            share = (size - norms[i - 1]) / jnp.maximum(norms[i] - norms[i - 1], jnp.finfo(size.dtype).tiny)
            a = path.a[i - 1] - jnp.minimum(share, 1.0) * (path.a[i - 1] - path.a[i])
            a = jnp.where(size > norms[path.count], path.last(), jnp.where(size > 0, a, jnp.inf))
            return poison(a, jnp.isfinite(path.a[0]) & ~jnp.isnan(size))

        return 2.0 * jax.vmap(one)(self.path, size) * self._unit()


class _Folds(eqx.Module):
    """The path of every fold's training rows."""

    partition: Partition
    parts: Sparse

    def losses(self, factored: Sparse, lam: Lam, loss: Callable[[Array], Array], frozen: bool) -> Float[Array, "f t"]:
        problem, d = factored.problem, factored.problem.X.shape[1]
        weights = jnp.ones(problem.X.shape[0], problem.X.dtype) if problem.weights is None else problem.weights

        def one(part: Sparse, test: Array) -> Array:
            w = part._frozen_coef(lam) if frozen else part.coef(lam)
            predicted = matmul(take_rows(problem.X, test), w[:d]) + matmul(take_rows(problem.Z, test), w[d:])
            return mean_losses(take_rows(problem.y, test) - predicted, take_rows(weights, test), loss)

        return jax.vmap(one)(self.parts, self.partition.test)


def tolerance(dtype: Any) -> float:
    """The relative gap that counts as solved: 1e-9, and 1e-3 in float32, where a gap is known to that."""
    return 1e-9 if jnp.finfo(dtype).bits == 64 else 1e-3


def _lower(sparse: Sparse, on: Bool[Array, " d"]) -> Float[Array, "d d"]:
    """The Cholesky factor of the Gram matrix on the support, of the identity elsewhere."""
    both = on[:, None] & on[None, :]
    return jnp.linalg.cholesky(jnp.where(both, sparse.gram, 0.0) + jnp.diag(jnp.where(on, sparse._ridge(), 1.0)))


def _solve(sparse: Sparse, on: Bool[Array, "d t"], b: Float[Array, "a t"]) -> Float[Array, "a t"]:
    """(A_SᵀωA_S + λ₂P)⁻¹ b on the support, b elsewhere."""
    form, d = sparse.form, on.shape[0]
    inside = form.unit[:, None] * (b[:d] - matmul(form.centre.T, b[d:]))
    inside = jnp.where(on, inside, 0.0)
    w = jax.vmap(lambda on, rhs: cho_solve((_lower(sparse, on), True), rhs), 1, 1)(on, inside)
    w = jnp.where(on, form.unit[:, None] * w, 0.0)
    free = matmul(form.free_to_coef, matmul(form.free_to_coef.T, b[d:])) - matmul(form.centre, w)
    return jnp.concatenate([jnp.where(on, w, b[:d]), free])


def sparse_of(data: Data, terms: Terms, lam2: Array | None, lams: Array | None, most: int) -> Sparse:
    """Follow the path down to the least of ``lams`` (to a thousandth of its start if there are none)."""
    factors = jnp.ones(data.X.shape[1], data.X.dtype) if data.penalty is None else data.penalty
    # Signs are kept: a negative factor must be found.
    problem = design_of(eqx.tree_at(lambda x: x.penalty, data, factors * jnp.abs(factors), is_leaf=_none), terms)
    kept = np.setdiff1d(np.arange(data.X.shape[1]), np.array(terms.unpenalized, int))
    quadratic = problem.penalty / factors[kept]
    return _followed(problem, quadratic, lam2, lams, most)


def _none(x: Any) -> bool:
    return x is None


def _followed(problem: Design, quadratic: Array, lam2: Array | None, lams: Array | None, most: int) -> Sparse:
    frozen, still2, still = jax.lax.stop_gradient((problem, lam2, lams))
    form = standard_form(frozen)
    gram, c = inner(form.X, form.X), matmul(form.X.T, form.y)
    t = c.shape[1]
    unit = form.y_scale / form.scale
    if still is None:
        first = 2.0 * jnp.max(jnp.abs(c), axis=0, initial=0.0) * unit
        least = (1.0 - 1e-3) * 1e-3 * jnp.max(jnp.where(jnp.isfinite(first), first, 0.0))
    else:
        # Those that cannot be are left out; of a grid for all targets the least is that of each.
        valid = jnp.where(still >= 0, still, jnp.inf)
        least = valid if valid.ndim == 0 else jnp.min(valid, axis=0)
    least = 0.5 * jnp.broadcast_to(least, (t,)) / unit
    if still2 is None:
        whole = gram
    else:
        ridge = jnp.where(still2 >= 0, still2, jnp.nan) * jax.lax.stop_gradient(quadratic) * jnp.square(form.unit)
        whole = gram + jnp.diag(ridge)
    path = jax.vmap(lambda c, least: homotopy(whole, c, least, most), (1, 0))(c, least)
    return Sparse(problem, quadratic, lam2, form, gram, jax.lax.stop_gradient(path))
