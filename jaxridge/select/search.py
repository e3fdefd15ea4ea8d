"""Choosing λ: scores to minimise over a grid, the choice itself, and its continuous refinement.

A rule is a function ``(design, spectrum, lam) -> (t,)``, lower is better, of one λ (or one for each target).
Rules that average over rows or folds are small records that also give the standard error of that average,
``with_spread``. Everything here is pure and differentiable.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxridge.core.implicit import implicit_root, one_by_one
from jaxridge.core.implicit import still as keep_still
from jaxridge.core.numbers import matmul
from jaxridge.core.plan import chunks
from jaxridge.core.types import Array, Bool, Float, Int, Lam
from jaxridge.kernel_methods.folds import KernelFolds, kernel_fold_factors, kernel_held_out
from jaxridge.linalg import secular
from jaxridge.linear.design import Design, as_floats, as_function, as_key, as_points
from jaxridge.linear.folds import Folds, fold_factors, held_out, partition
from jaxridge.linear.spectrum import KernelSpectrum, Spectrum
from jaxridge.select.noise import Discrepancy as Discrepancy
from jaxridge.select.noise import PredictiveRisk as PredictiveRisk
from jaxridge.select.noise import discrepancy as discrepancy
from jaxridge.select.noise import l_curve as l_curve
from jaxridge.select.noise import predictive_risk as predictive_risk
from jaxridge.select.noise import quasi_optimality as quasi_optimality

Loss = Callable[[Array], Array]


def _mean(losses: Float[Array, "n t"], weights: Float[Array, " n"] | None) -> Float[Array, " t"]:
    """Σω loss / Σω."""
    if weights is None:
        return jnp.mean(losses, axis=0)
    return matmul(weights, losses) / jnp.sum(weights)


def _standard_error(losses: Float[Array, "n t"], weights: Float[Array, " n"] | None) -> Float[Array, " t"]:
    """Standard error of that mean over its rows of positive weight."""
    if weights is None:
        weights = jnp.ones(losses.shape[0], losses.dtype)
    deviation = jnp.square(weights)[:, None] * jnp.square(losses - _mean(losses, weights)[None, :])
    count = jnp.sum(weights > 0, dtype=losses.dtype)
    return jnp.sqrt(jnp.sum(deviation, axis=0) * count / (count - 1)) / jnp.sum(weights)


class LeaveOneOut(eqx.Module):
    """Mean loss of predicting each row from the fit without it; see `leave_one_out`."""

    loss: Loss = eqx.field(static=True)

    def __call__(self, design: Design, spectrum: Spectrum, lam: Lam) -> Float[Array, " t"]:
        return self.with_spread(design, spectrum, lam)[0]

    def with_spread(self, design: Design, spectrum: Spectrum, lam: Lam) -> tuple[Array, Array]:
        losses = self.loss(spectrum.loo_residual(lam))
        return _mean(losses, design.weights), _standard_error(losses, design.weights)


def leave_one_out(loss: Loss = jnp.square) -> LeaveOneOut:
    """Leave-one-out: mean of ``loss(eᵢ)`` with eᵢ = rᵢ/(1 − hᵢ), no refitting; weights average the losses.

    ``loss`` is any elementwise function of residuals, such as ``jnp.abs``. `loo` is the squared error.
    Equals ``sklearn.model_selection.LeaveOneOut`` over refits. Allen (1974), Technometrics 16, 125 (PRESS).

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> y = jnp.array([0.0, 0.0, 3.0])
    >>> choice = jxr.ridge_cv(jnp.ones((3, 1)), y, [0.0], rule=jxr.select.leave_one_out(jnp.abs), intercept=False)
    >>> print(choice.scores)
    [2.]
    """
    return LeaveOneOut(loss)


loo = leave_one_out()


def gcv(design: Design, spectrum: Spectrum, lam: Lam) -> Float[Array, " t"]:
    """Generalised cross-validation, n · rss / (n − dof)², with n the rows of positive weight.

    dof counts the intercept and the other unpenalised columns. Equals ``n ‖(I−H)y‖² / tr(I−H)²``.
    Golub, Heath and Wahba (1979), Technometrics 21, 215, equation 1.4.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> choice = jxr.ridge_cv(jnp.eye(2), jnp.array([3.0, 4.0]), [1.0], rule=jxr.select.gcv, intercept=False)
    >>> print(choice.scores)
    [12.5]
    """
    return design.rows() * spectrum.rss(lam) / jnp.square(jnp.atleast_1d(spectrum.residual_dof(lam)))


class MarginalLikelihood(eqx.Module):
    """Minus the log evidence of λ; see `marginal_likelihood`."""

    noise: Array | None

    def __call__(self, design: Any, spectrum: Any, lam: Lam) -> Float[Array, " t"]:
        m, norm = design.rows() - design.free, spectrum.squared_norm(lam)
        # λ‖w‖² vanishes as λ grows without bound.
        misfit = spectrum.rss(lam) + jnp.where(norm == 0, 0.0, jnp.atleast_1d(lam) * jnp.where(norm == 0, 0.0, norm))
        noise = misfit / m if self.noise is None else jnp.broadcast_to(self.noise.astype(misfit.dtype), misfit.shape)
        return 0.5 * (m * jnp.log(2.0 * jnp.pi * noise) + misfit / noise + jnp.atleast_1d(spectrum.logdet(lam)))


def marginal_likelihood(noise: Any = None) -> MarginalLikelihood:
    """Minus the log marginal likelihood, −log p(y | λ): the evidence, smaller is more probable.

    ½(m log 2πσ² + (rss + λ‖w‖²)/σ² + log det(I + K/λ)),  with m = n − q observations beyond the unpenalised columns
    (restricted likelihood), K = XXᵀ or the kernel matrix, and coefficients of prior precision λ/σ². ``noise`` is the
    variance σ², for all targets or one each (t,); None takes the most probable one, (rss + λ‖w‖²)/m. Constants of
    weights and of unpenalised columns other than the intercept are left out. `evidence` is ``marginal_likelihood()``.

    Equals minus ``log_marginal_likelihood`` of ``sklearn.gaussian_process`` with the kernel σ²/λ · k + white noise σ²
    if there is no intercept. MacKay (1992), Neural Computation 4, 415; Harville (1974), Biometrika 61, 383.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> rule = jxr.select.marginal_likelihood(noise=1.0)
    >>> choice = jxr.ridge_cv(jnp.eye(2), jnp.array([3.0, 4.0]), [1.0], rule=rule, intercept=False)
    >>> print(choice.scores.round(4))
    [8.781]
    """
    return MarginalLikelihood(None if noise is None else as_floats("noise", noise, (0, 1)))


evidence = marginal_likelihood()


def misclassification(design: Any, spectrum: Any, lam: Lam) -> Float[Array, " t"]:
    """Share of rows that the fit without them puts into a wrong class; one number for all targets.

    For targets of ±1 the sign decides, for one-hot targets (n, t) the largest. No refitting: the predictions are
    y minus the leave-one-out residuals. Its derivative is 0 where there is one.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> x, y = jnp.array([-3.0, -2.0, -1.0, 0.5, 2.0, 3.0])[:, None], jnp.array([-1.0, -1.0, 1.0, -1.0, 1.0, 1.0])
    >>> print(jxr.ridge_cv(x, y, [1.0], rule=jxr.select.misclassification).scores.round(3))
    [0.333]
    """
    predicted = design.y - spectrum.loo_residual(lam)
    if design.y.shape[1] == 1:
        wrong = (predicted * design.y <= 0)[:, 0]
    else:
        wrong = jnp.argmax(predicted, axis=1) != jnp.argmax(design.y, axis=1)
    return jnp.broadcast_to(_mean(wrong.astype(predicted.dtype)[:, None], design.weights), design.y.shape[1:])


class KFold(eqx.Module):
    """Mean held-out loss over folds; see `kfold`."""

    folds: int = eqx.field(static=True)
    key: Array | None
    labels: tuple[int, ...] | None = eqx.field(static=True)
    splits: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] | None = eqx.field(static=True)
    loss: Loss = eqx.field(static=True)

    def prepare(self, design: Any, spectrum: Any) -> "PreparedKFold":
        """Factor every fold's complement once, for all λ."""
        folds = partition(design.y.shape[0], self.folds, self.key, self.labels, self.splits)
        if isinstance(spectrum, KernelSpectrum):
            return PreparedKFold(kernel_fold_factors(spectrum, folds), self.loss)
        return PreparedKFold(fold_factors(spectrum, folds), self.loss)

    def __call__(self, design: Design, spectrum: Spectrum, lam: Lam) -> Float[Array, " t"]:
        return self.prepare(design, spectrum)(design, spectrum, lam)


class PreparedKFold(eqx.Module):
    """A k-fold rule with its folds factored."""

    folds: Folds | KernelFolds
    loss: Loss = eqx.field(static=True)
    frozen: bool = eqx.field(static=True, default=False)

    def still(self) -> "PreparedKFold":
        """The same numbers without derivatives in the data, for a search over λ."""
        return PreparedKFold(self.folds, self.loss, frozen=True)

    def losses(self, design: Any, spectrum: Any, lam: Lam) -> Float[Array, "f t"]:
        """The mean loss of each fold."""
        if isinstance(self.folds, KernelFolds):
            design = jax.lax.stop_gradient(design) if self.frozen else design
            return kernel_held_out(self.folds, design, lam, self.loss)
        return held_out(self.folds, design, lam, self.loss, self.frozen)

    def __call__(self, design: Design, spectrum: Spectrum, lam: Lam) -> Float[Array, " t"]:
        return self.with_spread(design, spectrum, lam)[0]

    def with_spread(self, design: Design, spectrum: Spectrum, lam: Lam) -> tuple[Array, Array]:
        losses = self.losses(design, spectrum, lam)
        return jnp.mean(losses, axis=0), _standard_error(losses, None)


def kfold(
    folds: int = 5,
    *,
    key: Array | None = None,
    labels: Sequence[int] | None = None,
    splits: Sequence[tuple[Any, Any]] | None = None,
    loss: Loss = jnp.square,
) -> KFold:
    """k-fold cross-validation: the mean over folds of the mean loss on rows held out, at every λ.

    Rows go to ``folds`` consecutive blocks, shuffled first if a ``key`` is given; or to the groups that
    ``labels`` (n,) name; or as ``splits`` says, pairs of (train, test) row numbers as any scikit-learn splitter
    yields them. Folds do not re-standardise: the scale of ``standardize`` is that of all rows, while the
    intercept and the other unpenalised columns are fitted anew in every fold.

    Triangles of the folds are merged, so that each row is factored once; no factorisation depends on λ.
    Equals ``sklearn.model_selection.GridSearchCV(Ridge(), cv=KFold(folds))`` under mean squared error.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> x = jnp.arange(6.0)
    >>> choice = jxr.ridge_cv(x[:, None], 2 * x, [0.0, 1.0], rule=jxr.select.kfold(3))
    >>> print(choice.lam)
    0.0
    """
    given = [name for name, value in (("key", key), ("labels", labels), ("splits", splits)) if value is not None]
    if len(given) > 1:
        raise ValueError(f"kfold was given {' and '.join(given)}; each fixes the folds, so pass one of them.")
    if not isinstance(folds, int | np.integer) or folds < 2:
        raise ValueError(f"folds is {folds!r}; at least 2 are needed.")
    fixed_labels = None if labels is None else tuple(np.unique(np.asarray(labels), return_inverse=True)[1].tolist())
    fixed_splits = None
    if splits is not None:
        fixed_splits = tuple((_row_numbers(train), _row_numbers(test)) for train, test in splits)
    return KFold(int(folds), as_key(key, optional=True), fixed_labels, fixed_splits, loss)


def _row_numbers(rows: Any) -> tuple[int, ...]:
    """One side of a split as whole numbers."""
    rows = np.asarray(rows)
    if rows.size and not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(f"splits holds rows of type {rows.dtype}; pass row numbers, np.flatnonzero(mask) for a mask.")
    return tuple(rows.astype(int).tolist())


class Holdout(eqx.Module):
    """Mean loss on rows of their own; see `holdout`."""

    X: Any
    y: Float[Array, "v t"]
    loss: Loss = eqx.field(static=True)

    def losses(self, design: Any, spectrum: Any, lam: Lam) -> Float[Array, "v t"]:
        if isinstance(spectrum, KernelSpectrum):
            # X is then the kernel between these rows and those of the fit.
            coef, intercept = spectrum.dual_coef(lam), spectrum.intercept(lam)
        else:
            coef, intercept = design.split(spectrum.coef(lam))
        coef, X = coef.reshape(coef.shape[0], -1), as_floats("holdout: X", self.X, (2,)).astype(coef.dtype)
        if X.shape[1] != coef.shape[0]:
            raise ValueError(
                f"holdout: X has {X.shape[1]} columns and the problem {coef.shape[0]}; pass the same ones."
            )
        return self.misfit((matmul(X, coef) + intercept.reshape(1, -1))[None])[0]

    def misfit(self, predicted: Float[Array, "k v t"]) -> Float[Array, "k v t"]:
        """Losses of predictions for these rows."""
        if predicted.shape[2] != self.y.shape[1]:
            raise ValueError(
                f"holdout: y has {self.y.shape[1]} targets and the problem {predicted.shape[2]}; pass the same ones."
            )
        return self.loss(self.y.astype(predicted.dtype)[None] - predicted)

    def __call__(self, design: Design, spectrum: Spectrum, lam: Lam) -> Float[Array, " t"]:
        return self.with_spread(design, spectrum, lam)[0]

    def with_spread(self, design: Design, spectrum: Spectrum, lam: Lam) -> tuple[Array, Array]:
        return self.summary(self.losses(design, spectrum, lam))

    def summary(self, losses: Float[Array, "v t"]) -> tuple[Array, Array]:
        """Their mean and its standard error."""
        return jnp.mean(losses, axis=0), _standard_error(losses, None)


def holdout(X: Any, y: Any, loss: Loss = jnp.square) -> Holdout:
    """Mean loss on rows kept apart: ``X`` (v, d) and ``y`` (v,) or (v, t), which carry derivatives too.

    For kernel ridge ``X`` is any set of points that the kernel takes.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> rule = jxr.select.holdout(jnp.array([[2.0]]), jnp.array([2.0]))
    >>> choice = jxr.ridge_cv(jnp.ones((2, 1)), jnp.array([1.0, 3.0]), [0.0, 2.0], rule=rule, intercept=False)
    >>> print(choice.scores.round(5))
    [4. 0.]
    """
    X, y = as_points("X", X), as_floats("y", y, (1, 2))
    if {x.shape[0] for x in jax.tree.leaves(X)} != {y.shape[0]} or y.shape[0] == 0:
        rows = " or ".join(str(x.shape[0]) for x in jax.tree.leaves(X))
        raise ValueError(f"holdout: X has {rows} rows and y {y.shape[0]}; pass as many, and at least one.")
    return Holdout(X, y.reshape(y.shape[0], -1), loss)


def exact(rule: Callable[..., Array]) -> Callable[..., Array]:
    """The same rule with second and higher derivatives in X, weights and penalty, at a solve per feature.

    Without it `loo` and `gcv` have those derivatives to first order, for a whole grid at once.

    >>> import jax, jax.numpy as jnp
    >>> from jaxridge import design, select, spectrum
    >>> def score(X):
    ...     problem = design.make_design(X, jnp.array([1.0, 2.0, 4.0]), intercept=False)
    ...     return select.exact(select.gcv)(problem, spectrum.from_design(problem), jnp.array(1.0))[0]
    >>> jax.jit(jax.hessian(score))(jnp.ones((3, 1))).shape
    (3, 1, 3, 1)
    """

    def exactly(design: Design, spectrum: Spectrum, lam: Lam) -> Array:
        return rule(design, spectrum.exact(), lam)

    return exactly


def needs_leverages(rule: Any) -> bool:
    """Whether a rule looks at leverages, as far as is known: functions of the user's own may."""
    return not (rule is gcv or isinstance(rule, MarginalLikelihood | KFold | Holdout))


def bind(rule: Callable[..., Array], spectrum: Any) -> Any:
    """The rule with its preparations for this problem made, if it has any."""
    if rule is kfold or rule is holdout:
        raise ValueError(f"rule is select.{rule.__name__} itself; call it, as in select.kfold(5).")
    rule = as_function("rule", rule, "select.loo, select.gcv, select.kfold(5) or another of jaxridge.select")
    return rule.prepare(spectrum.design, spectrum) if isinstance(rule, KFold) else rule


def grid(spectrum: Spectrum, count: int = 100) -> Float[Array, " k"]:
    """Log-spaced λ over what the data can resolve: from where every direction is fitted to where none is.

    From s_r²/100 (filter factors above 0.99), with s_r the smallest singular value above rounding, to 100 s₁²
    (below 0.01). Scales with the data; constant under differentiation.
    """
    s = jax.lax.stop_gradient(spectrum.singular_values)
    largest = jnp.max(s, initial=0.0)
    largest = jnp.where(largest > 0, largest, 1.0)
    smallest = jnp.min(jnp.where(s > 0, s, largest), initial=jnp.inf)
    smallest = jnp.where(jnp.isfinite(smallest), smallest, largest)
    return _between(2 * jnp.log10(smallest) - 2, 2 * jnp.log10(largest) + 2, count)


def _between(low: Array, high: Array, count: int) -> Float[Array, " k"]:
    """``count`` numbers from 10^low to 10^high."""
    return 10.0 ** (low + (high - low) * jnp.linspace(0.0, 1.0, count, dtype=low.dtype))


def kernel_grid(diagonal: Float[Array, " n"], count: int = 100) -> Float[Array, " k"]:
    """Log-spaced λ for a kernel matrix with that diagonal: from what the dtype resolves to ten times its trace.

    The trace bounds the largest eigenvalue from above; below (10 + √n)·eps of it all is rounding. Constant under
    differentiation.
    """
    trace = jax.lax.stop_gradient(jnp.sum(diagonal))
    trace = jnp.where(trace > 0, trace, 1.0)
    eps = (10.0 + diagonal.shape[0] ** 0.5) * float(jnp.finfo(diagonal.dtype).eps)
    return _between(jnp.log10(trace * eps), jnp.log10(trace) + 1, count)


def evaluate(
    rule: Any, spectrum: Spectrum, lams: Float[Array, "k *t"], memory: int
) -> tuple[Float[Array, "k t"], Float[Array, "k t"] | None]:
    """Scores of a (bound) rule at every λ, and their standard errors, a block of λ at a time."""
    design = spectrum.design
    with_spread = getattr(rule, "with_spread", None)

    def one(lam: Array) -> tuple[Array, Array | None]:
        return (rule(design, spectrum, lam), None) if with_spread is None else with_spread(design, spectrum, lam)

    n, t = design.y.shape
    plan = chunks(n, t, lams.shape[0], lams.dtype, memory)
    if plan.together >= plan.lams:
        return jax.vmap(one)(lams)
    return one_by_one(one, lams, batch_size=plan.together)


def lowest(lams: Float[Array, " k"], scores: Float[Array, " k"], spread: Array | None) -> Int[Array, ""]:
    """The grid point of the least score; NaN scores never win."""
    return jnp.argmin(jnp.where(jnp.isnan(scores), jnp.inf, scores))


def one_standard_error(lams: Float[Array, " k"], scores: Float[Array, " k"], spread: Array | None) -> Int[Array, ""]:
    """The largest λ whose score is within one standard error of the least: simpler, and as good up to noise.

    Breiman, Friedman, Olshen and Stone (1984), Classification and Regression Trees, section 3.4.3.
    """
    if spread is None:
        raise ValueError("one_standard_error needs a rule with a spread: loo, leave_one_out, kfold or holdout.")
    best = lowest(lams, scores, spread)
    # One row or fold has no spread.
    as_good = scores <= scores[best] + jnp.where(jnp.isnan(spread[best]), 0.0, spread[best])
    return jnp.argmax(jnp.where(as_good, lams, -jnp.inf))


def share_of(scores: Float[Array, "k t"]) -> Float[Array, " t"]:
    """What each target counts in the mean over targets: one whose y is not finite, so that it has no score, nothing."""
    usable = ~jnp.all(jnp.isnan(scores), axis=0)
    return usable.astype(scores.dtype) / jnp.maximum(jnp.sum(usable, dtype=scores.dtype), 1.0)


def _average(x: Float[Array, "*k t"], share: Float[Array, " t"]) -> Float[Array, "*k"]:
    """Mean over the targets that count."""
    return matmul(jnp.where(jnp.broadcast_to(share > 0, x.shape), x, 0.0), share)


def choose(
    pick: Callable[..., Array],
    lams: Float[Array, "k *t"],
    scores: Float[Array, "k t"],
    spread: Float[Array, "k t"] | None,
    share: Float[Array, " t"] | None,
) -> tuple[Int[Array, "*t"], Array, Bool[Array, "*t"]]:
    """Grid index and λ that ``pick`` takes, and whether a better λ may lie beyond the grid.

    For each target, or with the `share_of` each for their mean.
    """
    if share is not None:
        scores = _average(scores, share)[:, None]
        spread = None if spread is None else _average(spread, share)[:, None]
    columns = lams if lams.ndim == 2 else jnp.broadcast_to(lams[:, None], scores.shape)
    index = jax.vmap(pick, in_axes=(1, 1, None if spread is None else 1))(columns, scores, spread)
    lam = jnp.take_along_axis(columns, index[None, :], axis=0)[0]
    low, high = ends(columns)
    # Nothing lies below λ = 0 or above infinity.
    at_edge = ((lam <= low) & (lam > 0)) | ((lam >= high) & (lam < jnp.inf))
    at_edge &= ~jnp.all(jnp.isnan(scores), axis=0)
    return (index, lam, at_edge) if share is None else (index[0], lam[0], at_edge[0])


def ends(lams: Float[Array, "k *t"]) -> tuple[Array, Array]:
    """The least and the largest valid λ of a grid."""
    low = jnp.min(jnp.where(lams >= 0, lams, jnp.inf), axis=0)
    return low, jnp.max(jnp.where(lams >= 0, lams, -jnp.inf), axis=0)


def refine(
    rule: Any, spectrum: Spectrum, lams: Float[Array, "k *t"], lam: Array, share: Float[Array, " t"] | None
) -> Array:
    """The λ between the neighbours of a grid point at which the rule is stationary, rule'(λ) = 0.

    Where the slope does not change sign between the neighbours, and at an edge of the grid, the grid point stays.
    The derivative of the result is that of the stationary point, by the implicit function theorem.
    """
    points, here = (lams if lams.ndim == 2 else lams[:, None]), jnp.atleast_1d(lam)
    below, above = (points >= 0) & (points < here[None, :]), points > here[None, :]
    low = jnp.max(jnp.where(below, points, 0.0), axis=0).reshape(lam.shape)
    high = jnp.min(jnp.where(above, points, jnp.inf), axis=0).reshape(lam.shape)
    inner = jnp.any(below, axis=0).reshape(lam.shape) & (high < jnp.inf)
    # A neighbour λ = 0 has no logarithm; below eps·λ the rule is at its value in 0.
    low = jnp.where(inner, jnp.maximum(low, lam * jnp.finfo(lam.dtype).eps), 0.5)
    high = jnp.where(inner, high, 2.0)

    def slope(rule: Any, spectrum: Spectrum, x: Array) -> Array:
        def score(x: Array) -> Array:
            scores = rule(spectrum.design, spectrum, jnp.exp(x))
            return scores if share is None else _average(scores, share)

        return jax.jvp(score, (x,), (jnp.ones_like(x),))[1]

    still = rule.still() if isinstance(rule, PreparedKFold) else rule
    frozen = keep_still(spectrum)

    def slope_and_curvature(x: Array) -> tuple[Array, Array]:
        return jax.jvp(lambda x: slope(still, frozen, x), (x,), (jnp.ones_like(x),))

    low, high = jax.lax.stop_gradient((jnp.log(low), jnp.log(high)))
    # Both ends by one program: every copy of the rule and its derivatives is compiled.
    at_low, at_high = jax.lax.map(lambda x: slope(still, frozen, x), jnp.stack([low, high]))
    found = inner & (at_low < 0) & (at_high > 0)
    root = secular.find_root(slope_and_curvature, low, high, jnp.sign(at_low))
    x = implicit_root(lambda x: jnp.where(found, slope(rule, spectrum, x), x), root)
    return jnp.where(found, jnp.exp(x), lam)


class Found(NamedTuple):
    """The λ that a rule takes, and what it was taken from."""

    lam: Array
    lams: Float[Array, "k *t"]
    scores: Float[Array, "k *t"]
    spread: Float[Array, "k *t"] | None
    index: Int[Array, "*t"]
    at_edge: Bool[Array, "*t"]


def search(
    rule: Any,
    spectrum: Any,
    lams: Float[Array, "k *t"],
    pick: Callable[..., Array],
    per_target: bool,
    refine_it: bool,
    memory: int,
    single: bool,
) -> Found:
    """Evaluate a rule on a grid, pick a λ for all targets or one for each, and refine it if that is wanted."""
    bound = bind(rule, spectrum)
    scores, spread = evaluate(bound, spectrum, lams, memory)
    better = (lambda lam, share: refine(bound, spectrum, lams, lam, share)) if refine_it else None
    if isinstance(rule, Discrepancy):
        better = lambda lam, share: rule.root(spectrum.design, spectrum, share)  # noqa: E731
    found = settle(lams, scores, spread, pick, per_target, single, better)
    # A root may lie anywhere; where there is none λ is 0 or infinite.
    return found._replace(at_edge=found.at_edge & (not isinstance(rule, Discrepancy)))


def settle(
    lams: Float[Array, "k *t"],
    scores: Float[Array, "k t"],
    spread: Float[Array, "k t"] | None,
    pick: Callable[..., Array],
    per_target: bool,
    single: bool,
    better: Callable[..., Array] | None = None,
) -> Found:
    """What scores on a grid come to, after one more look by ``better(lam, share)`` if there is one."""
    share = None if per_target else share_of(scores)
    pick = as_function("pick", pick, "select.lowest or select.one_standard_error")
    index, lam, at_edge = choose(pick, lams, scores, spread, share)
    lam = lam if better is None else better(lam, share)
    if single:
        scores, spread = scores[:, 0], None if spread is None else spread[:, 0]
        if per_target:
            index, lam, at_edge = index[0], lam[0], at_edge[0]
    return Found(lam, lams, scores, spread, index, at_edge)
