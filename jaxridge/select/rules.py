"""Rules that judge λ by the data alone: leave-one-out, GCV, evidence, folds, rows kept apart.

A rule is a function ``(problem, factored, lam) -> (t,)``, lower is better, of one λ (or one for each target).
Rules that average over rows or folds are small records that also give the standard error of that average,
``with_spread``. Everything here is pure and differentiable.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxridge import operators
from jaxridge.core.checks import as_floats, as_key, as_points
from jaxridge.core.factored import Factored, Problem
from jaxridge.core.numbers import matmul, poison, ratio
from jaxridge.core.types import Array, Float, Lam
from jaxridge.core.verbs import verb
from jaxridge.select.partition import Partition, labelled, partition, split

__all__ = [
    "evidence",
    "exact",
    "gcv",
    "holdout",
    "kfold",
    "leave_one_out",
    "loo",
    "marginal_likelihood",
    "misclassification",
]

Loss = Callable[[Array], Array]


def _mean(losses: Float[Array, "n t"], weights: Float[Array, " n"] | None) -> Float[Array, " t"]:
    """Σω loss / Σω."""
    if weights is None:
        return jnp.mean(losses, axis=0)
    return matmul(weights, losses) / jnp.sum(weights)


def _standard_error(losses: Float[Array, "n t"], weights: Float[Array, " n"] | None) -> Float[Array, " t"]:
    """Standard error of that mean over its rows of positive weight."""
    deviation = jnp.square(losses - _mean(losses, weights)[None, :])
    count = total = jnp.asarray(losses.shape[0], losses.dtype)
    if weights is not None:
        deviation = jnp.square(weights)[:, None] * deviation
        count, total = jnp.sum(weights > 0, dtype=losses.dtype), jnp.sum(weights)
    return jnp.sqrt(jnp.sum(deviation, axis=0) * count / (count - 1)) / total


class LeaveOneOut(eqx.Module):
    """Mean loss of predicting each row from the fit without it; see `leave_one_out`."""

    loss: Loss = eqx.field(static=True)

    def __call__(self, problem: Problem, factored: Factored, lam: Lam) -> Float[Array, " t"]:
        return self.with_spread(problem, factored, lam)[0]

    def with_spread(self, problem: Problem, factored: Factored, lam: Lam) -> tuple[Array, Array]:
        losses = self.loss(factored.loo_residual(lam))
        return _mean(losses, problem.weights), _standard_error(losses, problem.weights)


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


@verb()
def gcv(problem: Problem, factored: Factored, lam: Lam) -> Float[Array, " t"]:
    """Generalised cross-validation, n · rss / (n − dof)², with n the rows of positive weight.

    dof counts the intercept and the other unpenalised columns. Equals ``n ‖(I−H)y‖² / tr(I−H)²``.
    Golub, Heath and Wahba (1979), Technometrics 21, 215, equation 1.4.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> choice = jxr.ridge_cv(jnp.eye(2), jnp.array([3.0, 4.0]), [1.0], rule=jxr.select.gcv, intercept=False)
    >>> print(choice.scores)
    [12.5]
    """
    return problem.rows() * factored.rss(lam) / jnp.square(jnp.atleast_1d(factored.residual_dof(lam)))


class MarginalLikelihood(eqx.Module):
    """Minus the log evidence of λ; see `marginal_likelihood`."""

    noise: Array | None
    restricted: bool = eqx.field(static=True, default=True)

    leverages: ClassVar[bool] = False

    def __call__(self, problem: Problem, factored: Factored, lam: Lam) -> Float[Array, " t"]:
        m, misfit = problem.rows() - (problem.free if self.restricted else 0), factored.misfit(lam)
        if self.noise is None:
            noise, parts = misfit / m, m
        else:
            noise = poison(self.noise.astype(misfit.dtype), (self.noise >= 0) & ~jnp.isnan(misfit))
            parts = jnp.where(noise == 0, misfit / noise, ratio(misfit, noise))
        return 0.5 * (m * jnp.log(2.0 * jnp.pi * noise) + parts + jnp.atleast_1d(factored.logdet(lam)))


def marginal_likelihood(noise: Any = None, *, restricted: bool = True) -> MarginalLikelihood:
    """Minus the log marginal likelihood, −log p(y | λ): the evidence, smaller is more probable.

    ½(m log 2πσ² + (rss + λ‖w‖²)/σ² + log det(I + K/λ)),  with m = n − q observations beyond the unpenalised columns
    (restricted likelihood), K = XXᵀ or the kernel matrix, and coefficients of prior precision λ/σ². ``noise`` is the
    variance σ², for all targets or one each (t,); None takes the most probable one, (rss + λ‖w‖²)/m. Constants of
    weights and of unpenalised columns other than the intercept are left out. `evidence` is ``marginal_likelihood()``.
    With ``restricted=False`` m = n, as in ``sklearn.linear_model.BayesianRidge``.

    Equals minus ``log_marginal_likelihood`` of ``sklearn.gaussian_process`` with the kernel σ²/λ · k + white noise σ²
    if there is no intercept. MacKay (1992), Neural Computation 4, 415; Harville (1974), Biometrika 61, 383.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> rule = jxr.select.marginal_likelihood(noise=1.0)
    >>> choice = jxr.ridge_cv(jnp.eye(2), jnp.array([3.0, 4.0]), [1.0], rule=rule, intercept=False)
    >>> print(choice.scores.round(4))
    [8.781]
    """
    return MarginalLikelihood(None if noise is None else as_floats("noise", noise, (0, 1)), bool(restricted))


evidence = marginal_likelihood()


@verb()
def misclassification(problem: Problem, factored: Factored, lam: Lam) -> Float[Array, " t"]:
    """Share of rows that the fit without them puts into a wrong class; one number for all targets.

    For targets of two values, such as ±1 or 0 and 1, the nearer one is the class; for one-hot targets (n, t) it is the
    largest. Of other targets the score is NaN, so that none is chosen (`RESULTS.no_score`). No refitting: the
    predictions are y minus the leave-one-out residuals. Its derivative is 0 where there is one.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> x, y = jnp.array([-3.0, -2.0, -1.0, 0.5, 2.0, 3.0])[:, None], jnp.array([-1.0, -1.0, 1.0, -1.0, 1.0, 1.0])
    >>> print(jxr.ridge_cv(x, y, [1.0], rule=jxr.select.misclassification).scores.round(3))
    [0.333]
    """
    y = problem.y
    predicted, low, high = y - factored.loo_residual(lam), jnp.min(y), jnp.max(y)
    labels = jnp.all((y == low) | (y == high))
    if y.shape[1] == 1:
        # Of one class alone, -1 or 1, the other is known.
        middle = jnp.where((low == high) & (jnp.abs(low) == 1), 0.0, (low + high) / 2)
        wrong = ((predicted - middle) * (y - middle) <= 0)[:, 0]
    else:
        wrong = jnp.argmax(predicted, axis=1) != jnp.argmax(y, axis=1)
        labels &= jnp.all(jnp.sum(y == high, axis=1) == 1)
    share = _mean(wrong.astype(predicted.dtype)[:, None], problem.weights)
    return jnp.broadcast_to(poison(share, labels), y.shape[1:])


class KFold(eqx.Module):
    """Mean held-out loss over folds; see `kfold`."""

    folds: int = eqx.field(static=True)
    key: Array | None
    given: Partition | None
    loss: Loss = eqx.field(static=True)

    leverages: ClassVar[bool] = False

    def prepare(self, factored: Factored) -> "PreparedKFold":
        """Factor every fold's complement once, for all λ."""
        rows = partition(factored.problem.y.shape[0], self.folds, self.key, self.given)
        return PreparedKFold(factored.fold(rows), self.loss)

    def __call__(self, problem: Problem, factored: Factored, lam: Lam) -> Float[Array, " t"]:
        return self.prepare(factored)(problem, factored, lam)


class PreparedKFold(eqx.Module):
    """A k-fold rule with its folds factored."""

    folds: Any
    loss: Loss = eqx.field(static=True)
    frozen: bool = eqx.field(static=True, default=False)

    def of_targets(self, factored: Factored) -> "PreparedKFold":
        """The same folds with other targets."""
        return PreparedKFold(self.folds.of_targets(factored), self.loss, self.frozen)

    def still(self) -> "PreparedKFold":
        """The same numbers without derivatives in the data, for a search over λ."""
        return PreparedKFold(self.folds, self.loss, frozen=True)

    def __call__(self, problem: Problem, factored: Factored, lam: Lam) -> Float[Array, " t"]:
        return self.with_spread(problem, factored, lam)[0]

    def with_spread(self, problem: Problem, factored: Factored, lam: Lam) -> tuple[Array, Array]:
        losses = self.folds.losses(factored, lam, self.loss, self.frozen)
        return jnp.mean(losses, axis=0), _standard_error(losses, None)


@verb()
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
    of_rows = None if labels is None else labelled(np.asarray(labels))
    if splits is not None:
        of_rows = split([(_row_numbers(train), _row_numbers(test)) for train, test in splits])
    return KFold(int(folds), as_key(key, optional=True), of_rows, loss)


def _row_numbers(rows: Any) -> np.ndarray:
    """One side of a split as whole numbers."""
    rows = np.asarray(rows)
    if rows.size and not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(f"splits holds rows of type {rows.dtype}; pass row numbers, np.flatnonzero(mask) for a mask.")
    return rows.astype(int).ravel()


class Holdout(eqx.Module):
    """Mean loss on rows of their own; see `holdout`."""

    X: Any
    y: Float[Array, "v t"]
    loss: Loss = eqx.field(static=True)

    leverages: ClassVar[bool] = False

    def __call__(self, problem: Problem, factored: Factored, lam: Lam) -> Float[Array, " t"]:
        return self.with_spread(problem, factored, lam)[0]

    def with_spread(self, problem: Problem, factored: Factored, lam: Lam) -> tuple[Array, Array]:
        scores, spread = self.on_grid(factored, lam[None])
        return scores[0], spread[0]

    def on_grid(self, factored: Factored, lams: Float[Array, "k *t"]) -> tuple[Array, Array]:
        """Scores and their standard errors at every λ, from predictions for all of them."""
        predicted = factored.predict_at("holdout: X", self.X, lams)
        if predicted.shape[2] != self.y.shape[1]:
            raise ValueError(
                f"holdout: y has {self.y.shape[1]} targets and the problem {predicted.shape[2]}; pass the same ones."
            )
        losses = self.loss(self.y.astype(predicted.dtype)[None] - predicted)
        return jnp.mean(losses, axis=1), jax.vmap(lambda losses: _standard_error(losses, None))(losses)


def holdout(X: Any, y: Any, loss: Loss = jnp.square) -> Holdout:
    """Mean loss on rows kept apart: ``X`` (v, d) and ``y`` (v,) or (v, t), which carry derivatives too.

    For kernel ridge ``X`` is any set of points that the kernel takes.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> rule = jxr.select.holdout(jnp.array([[2.0]]), jnp.array([2.0]))
    >>> choice = jxr.ridge_cv(jnp.ones((2, 1)), jnp.array([1.0, 3.0]), [0.0, 2.0], rule=rule, intercept=False)
    >>> print(choice.scores.round(5))
    [4. 0.]
    """
    y = as_floats("y", y, (1, 2))
    X = operators.sparse(X) if operators.is_sparse(X) else as_points("X", X)
    lengths = X.codomain.shape if isinstance(X, operators.Sparse) else {x.shape[0] for x in jax.tree.leaves(X)}
    if set(lengths) != {y.shape[0]} or y.shape[0] == 0:
        rows = " or ".join(map(str, lengths))
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

    def exactly(problem: Problem, factored: Factored, lam: Lam) -> Array:
        return rule(problem, factored.exact(), lam)

    return exactly
