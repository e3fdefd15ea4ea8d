"""Where training with weight decay ends, as the ridge or Tikhonov problem that it is, and λ of the numbers of optax.

Which optimisers' decay is ridge, on a loss κ‖Xw − y‖² (2κ = 1/n for ½ mean):

    gradient descent, decay before or after        λ = wd/2κ                            exact
    the same with momentum β, decay before it      λ = wd/2κ                            exact
    the same with momentum β, decay after it       λ = wd(1 − β)/2κ                     exact
    decay after the learning rate                  λ = wd(1 − β)/2κη                    exact
    Adam with L2                                   λ = wd/2κ                            as η → 0; under noise as β₂ → 1
    fixed preconditioner M, decoupled              λ = wd/2κ and L = M^(−1/2)           exact
and which is not:
    AdamW, full batch                              ‖w‖∞ ≤ 1/wd, no shrinkage inside     as η → 0
    AdamW under noise                              λⱼ = wd √E gⱼ² / 2κ                  below 1 %, see `fixed_point`
    cautious decay, full batch                     λ = 0                                as η → 0
    cautious decay under noise                     λⱼ = wd P(gⱼwⱼ ≥ 0) / 2κ             1 %, see `fixed_point`
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge.core.implicit import frozen, linear_root
from jaxridge.core.numbers import matmul, poison
from jaxridge.core.results import RESULTS
from jaxridge.core.types import Array, Bool, Float, Scalar
from jaxridge.linear import ridge
from jaxridge.optimize import least_squares
from jaxridge.optimize.least_squares import converged
from jaxridge.training.optimisers import AdamW, CautiousDecay, Optimiser, PreconditionedDecay
from jaxridge.training.regression import Regression, as_batch, with_arrays

__all__ = ["Limit", "fixed_point", "lam_of"]

KNOWN = "CoupledDecay, DecoupledDecay, IndependentDecay, CautiousDecay, PreconditionedDecay, AdamL2 or AdamW"
SWEEPS = 200  # of w → λ(w) → w, which halves its error at least: more than float64 needs


class Limit(eqx.Module):
    """Where training ends, and the penalty that its end minimises: ‖Xw − y‖² + Σⱼ λⱼwⱼ², ‖w‖∞ ≤ bound.

    With a preconditioner λ is that of λ‖M^(−1/2)w‖².
    """

    coef: Float[Array, " d"]
    lam: Float[Array, " d"]
    bound: Scalar
    result: Any


def as_optimiser(optimizer: Any) -> Optimiser:
    """``optimizer``, or a ``ValueError`` that says which are known: what optax made cannot be looked into."""
    if not isinstance(optimizer, Optimiser):
        raise ValueError(f"optimizer is {optimizer!r}, of which nothing is known; pass {KNOWN}.")
    return optimizer


def lam_of(optimizer: Optimiser, scale: Any) -> Any:
    """λ of the ridge regression ‖Xw − y‖² + λ‖w‖² at which an optimiser ends: λ = a/2κ.

    The conversions in one place: optax multiplies a decay by the learning rate when it stands before it, momentum
    multiplies gradients by 1/(1 − β), and a loss carries a factor κ,

        ½ mean of squares (``optax.l2_loss(p, y).mean()``)        κ = 1/(2n)      λ = n a
        mean of squares (``optax.squared_error(p, y).mean()``)    κ = 1/n         λ = n a/2
        ½ sum, sum                                                κ = ½, 1        λ = a, a/2

    Args:
        optimizer: one of jaxridge.training. scale: κ of the loss κ‖Xw − y‖².

    Raises ValueError for `AdamW`, whose decay is no ridge, for `IndependentDecay` under a schedule, and for what is not
    known, with what is.

    >>> from jaxridge.training import CoupledDecay, lam_of
    >>> print(lam_of(CoupledDecay(0.1, 0.25), 1 / (2 * 40)), lam_of(CoupledDecay(0.1, 0.25), 1 / 40))
    10.0 5.0
    """
    return as_optimiser(optimizer).decay / (2 * scale)


def fixed_point(optimizer: Optimiser, X: Any, y: Any, *, batch: int | None = None) -> Limit:
    """Where an optimiser with weight decay ends on ½ mean (Xw − y)², without a step being taken.

    Args:
        optimizer: one of jaxridge.training. X: (n, d) features. y: (n,) targets; there is no intercept.
        batch: rows drawn with replacement at each step; None is all of them. It matters to `AdamW` and
            `CautiousDecay`: to the others the mean over steps is what the full batch gives.

    Returns a `Limit`, the coefficients with exact derivatives. A learning rate past stability is
    ``RESULTS.unstable_rate``, with NaN; that is judged for full batches, of which a few rows need smaller rates, and
    not under a schedule; Adam's steps are bounded.

    What is not exact: the limits η → 0 of Adam and AdamW are off by about η, that of cautious decay by at most η wd,
    the decay of one step, and AdamW by eps over the least curvature of the loss, 4e-7 at eps = 1e-8 and a curvature of
    .05. AdamW under noise takes second moments for constant and weights for still: with single rows and η = .001 it is
    0.1 % off at wd = .1 and 0.4 % at .3, once the second moments have forgotten the start, which takes a few 1/(1 − β₂)
    steps. Before that they are too large: after 40 000 steps at β₂ = .9999 weights are still 3 % off. Cautious decay
    under noise takes gradients for normal and weights for still: 1 % off with single rows, 0.1 % with sixteen.

    >>> import jax.numpy as jnp
    >>> from jaxridge.training import AdamW, CoupledDecay, fixed_point
    >>> X, y = jnp.array([[1.0], [3.0]]), jnp.array([1.0, 3.0])
    >>> print(fixed_point(CoupledDecay(0.1, 5.0), X, y).coef, fixed_point(AdamW(0.1, 0.5), X, y).coef.round(4))
    [0.5] [1.]
    """
    loss = Regression.of(X, y)
    return _fixed_point(with_arrays(as_optimiser(optimizer), loss.X.dtype), loss, as_batch(batch))


@eqx.filter_jit
def _fixed_point(optimizer: Optimiser, loss: Regression, batch: int | None) -> Limit:
    if isinstance(optimizer, PreconditionedDecay):
        return _preconditioned(optimizer, loss)
    if isinstance(optimizer, AdamW | CautiousDecay) and batch is not None:
        return _penalised(optimizer, loss, batch)
    if isinstance(optimizer, AdamW):
        return _bounded(optimizer, loss)
    return _ridge(optimizer, loss)


def _ridge(optimizer: Optimiser, loss: Regression) -> Limit:
    """g + a w = 0, which is ridge at λ = n a."""
    lam = jnp.asarray(optimizer.decay * loss.X.shape[0], loss.X.dtype)
    fit = ridge(loss.X, loss.y, lam, intercept=False)
    stable = optimizer.stable(loss.curvature())
    return _limit(optimizer, loss, fit.coef, lam, jnp.inf, stable, fit.result)


def _preconditioned(optimizer: PreconditionedDecay, loss: Regression) -> Limit:
    """Mg + wd w = 0: with M = CCᵀ and w = Cu it is ridge in u, of the features XC."""
    d = loss.X.shape[1]
    if optimizer.M.shape != (d, d):
        raise ValueError(f"M has shape {optimizer.M.shape}; X has {d} columns, so pass ({d}, {d}).")
    C = jnp.linalg.cholesky(optimizer.M.astype(loss.X.dtype))
    inside = _ridge(optimizer, Regression(matmul(loss.X, C), loss.y))
    return eqx.tree_at(lambda limit: limit.coef, inside, matmul(C, inside.coef))


def _bounded(optimizer: AdamW, loss: Regression) -> Limit:
    """Least squares in the box |wⱼ| ≤ 1/wd."""
    wd = poison(jnp.asarray(optimizer.weight_decay, loss.X.dtype), loss.finite)
    free = ridge(loss.X, loss.y, jnp.zeros_like(wd), intercept=False)
    bound = 1 / jnp.where(wd > 0, wd, jnp.nan)
    inside = (wd == 0) | (jnp.max(jnp.abs(free.coef)) <= bound)
    box = jnp.where(inside, jnp.inf, bound)
    start = jnp.clip(frozen(free.coef), -box, box)
    within = least_squares(lambda w, loss: loss.residual(w), start, loss, bounds=(-box, box))
    coef = jnp.where(inside, free.coef, within.value)
    solved = RESULTS.where(converged(within.result), RESULTS.successful, within.result)
    result = RESULTS.where(inside, free.result, solved)
    bound = jnp.where(wd == 0, jnp.inf, bound)
    return _limit(optimizer, loss, coef, jnp.zeros_like(wd), bound, jnp.ones((), bool), result)


def _relative_decay(optimizer: AdamW | CautiousDecay, loss: Regression, w: Array, batch: int) -> Array:
    """aⱼ/wd of E gⱼ + aⱼwⱼ = 0: √E gⱼ² of AdamW, P(gⱼwⱼ ≥ 0) of cautious decay."""
    mean, variance = loss.moments(w, batch)
    if isinstance(optimizer, AdamW):
        return jnp.sqrt(mean**2 + variance)
    deviation = jnp.sqrt(jnp.where(variance > 0, variance, 1.0))
    return jax.scipy.stats.norm.cdf(jnp.sign(w) * mean / deviation)


def _penalised(optimizer: AdamW | CautiousDecay, loss: Regression, batch: int) -> Limit:
    """λⱼ = n aⱼ at the w that it leads to: the root of w − tikhonov(λ(w))."""
    lam = loss.X.shape[0] * optimizer.weight_decay

    def fit(loss: Regression, w: Array) -> Any:
        penalty = _relative_decay(optimizer, loss, w, batch)
        return ridge(loss.X, loss.y, lam, penalty=penalty, intercept=False)

    def change(w: Array) -> Array:
        return w - fit(loss, w).coef

    still = frozen(loss)
    start = ridge(still.X, still.y, jnp.zeros((), loss.X.dtype), intercept=False).coef
    found = jax.lax.fori_loop(0, SWEEPS, lambda _, w: (w + fit(still, w).coef) / 2, start)
    slope = jax.jacfwd(lambda w: w - fit(still, w).coef)(found)
    solve = lambda b: jnp.linalg.solve(slope, b)  # noqa: E731
    coef = linear_root(change, found, solve, lambda b: jnp.linalg.solve(slope.T, b))
    stable = optimizer.stable(loss.curvature())
    lams = lam * _relative_decay(optimizer, loss, coef, batch)
    return _limit(optimizer, loss, coef, lams, jnp.inf, stable, fit(still, found).result)


def _limit(
    optimizer: Optimiser, loss: Regression, coef: Array, lam: Array, bound: Any, stable: Bool[Array, ""], result: Any
) -> Limit:
    valid = jnp.asarray(optimizer.weight_decay >= 0)
    judged = loss.judged(
        (~valid, RESULTS.invalid_lam),
        (~stable, RESULTS.unstable_rate),
        (result != RESULTS.successful, result),
    )
    lam = jnp.broadcast_to(lam, coef.shape)
    return Limit(poison(coef, valid & stable & loss.finite), lam, jnp.asarray(bound, coef.dtype), judged)
