"""How far a chosen λ is to be trusted: an honest score, its standard error, and the rows that move it."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxridge.core import plan
from jaxridge.core.factored import Factored
from jaxridge.core.implicit import without_derivatives
from jaxridge.core.report import Record, table
from jaxridge.core.types import Array, Float, Int
from jaxridge.select.partition import pairs, partition
from jaxridge.select.rules import KFold, PreparedKFold
from jaxridge.select.search import Found, bind, choose, refine, share_of, slope_of

__all__ = ["Assessment", "assess"]

NO_DERIVATIVES = "An assessment has no derivatives; where a choice is differentiated, leave assess out."
PROBES = 16  # of a trace
SHOWN = 5  # rows that a summary names


class Assessment(Record):
    """What a `Choice` says of itself.

    ``nested`` () or (t,) is the score of the whole procedure: λ is chosen anew without each fold, and its model judged
    on that fold; ``nested_error`` the standard error of that mean over folds, ``fold_lams`` (f[, t]) their λs. They
    are None unless the rule is a `select.kfold`. The score of the chosen λ itself is the least of many, so optimistic.

    ``influence`` (n[, t]) is g = dλ*/dyᵢ at the optimum λ* between grid points. ``log_lam_error`` is the standard error
    of log λ* if the rows of y err by themselves, row i with the variance σ²/ωᵢ, σ² = rss/(n − dof): with G and H the
    first and second derivatives of log λ* in those errors, (‖G‖² − ½ tr H²)^½, which is that of a quadratic function of
    normal errors; it is NaN where λ* lies at an edge and is no optimum.
    """

    nested: Float[Array, "*t"] | None
    nested_error: Float[Array, "*t"] | None
    fold_lams: Float[Array, "f *t"] | None
    log_lam_error: Float[Array, "*t"]
    influence: Float[Array, "n *t"]

    def summary(self) -> str:
        """The figures, and the rows that move λ most."""
        if self.influence.ndim > 1:
            raise ValueError("summary prints one choice; choose for one column of y.")
        parts = []
        if self.nested is not None:
            parts.append(table(("", ""), [("nested score", self.nested), ("its std err", self.nested_error)]))
        if jnp.isnan(self.log_lam_error):
            return "\n\n".join([*parts, "lam has no standard error: the score has no optimum between two lams."])
        parts.append(table(("", ""), [("std err of log lam", self.log_lam_error)]))
        most = np.argsort(-np.abs(np.asarray(self.influence)), stable=True)[:SHOWN]
        parts.append(table(("moves lam most", "dlam/dy"), [(f"row {i}", self.influence[i]) for i in most]))
        return "\n\n".join(parts)


def assess(
    rule: Any,
    factored: Factored,
    found: Found,
    pick: Callable[..., Array],
    per_target: bool = False,
    memory: int = plan.MEMORY,
) -> Assessment:
    """The `Assessment` of what `search` has found by that rule; derivatives raise ValueError."""
    if hasattr(rule, "root"):
        raise ValueError("assess is for rules whose least score is taken; this one takes a root. Leave assess out.")
    factored, found = without_derivatives((factored, found), NO_DERIVATIVES)
    bound, problem = bind(rule, factored), factored.problem
    scores = found.scores.reshape(len(found.lams), -1)
    share = None if per_target else share_of(scores)
    grid = _at(found.lams, jnp.atleast_1d(found.index) if per_target else found.index)
    optimum = refine(bound, factored, found.lams, grid, share)
    influence, error = _moves(bound, factored, jnp.where(optimum == grid, jnp.nan, optimum), share)
    honest = (None, None, None)
    if isinstance(rule, KFold):
        honest = _nested(rule, bound, factored, found.lams, scores, pick, share, memory)
    nested, spread, fold_lams = honest
    if per_target:
        fold_lams, error = problem.squeeze((fold_lams, error))
    nested, spread, influence = problem.squeeze((nested, spread, influence))
    return Assessment(nested, spread, fold_lams, error, influence)


def _moves(
    rule: Any, factored: Factored, lam: Array, share: Float[Array, " t"] | None
) -> tuple[Float[Array, "n t"], Float[Array, "*t"]]:
    """dλ/dy of an optimum of the rule, and the standard error of log λ; of NaN, which is none, 0 and NaN.

    For the slope s(x; y) = 0 of the score in x = log λ: G = −∂s/∂y / s′, and H = −∂²s/∂y² / s′ but for what changes s′.
    """
    inner, y = ~jnp.isnan(lam), factored.problem.y
    lam = jnp.where(inner, lam, 1.0)

    def total(y: Float[Array, "n t"]) -> Array:
        return jnp.sum(slope_of(rule, eqx.tree_at(lambda f: f.problem.y, factored, y), jnp.log(lam), share))

    def slope(x: Array) -> Array:
        return slope_of(rule, factored, x, share)

    curvature = jax.jvp(slope, (jnp.log(lam),), (jnp.ones_like(lam),))[1]
    unit = jnp.broadcast_to(jnp.where(inner, -1.0 / curvature, 0.0), y.shape)
    noise = factored.rss(lam) / factored.residual_dof(lam)
    sd = jnp.sqrt(_over_weights(jnp.broadcast_to(noise[None, :], y.shape), factored.problem.weights))

    def squares(key: Array) -> Float[Array, " t"]:
        """‖Hv‖² of random signs v, of which the mean is tr H²."""
        v = sd * jax.random.rademacher(key, y.shape, y.dtype)
        return jnp.sum(jnp.square(sd * unit * jax.jvp(jax.grad(total), (y,), (v,))[1]), axis=0)

    G = unit * jax.grad(total)(y)
    first = jnp.sum(jnp.square(sd * G), axis=0)
    second = jnp.mean(jax.lax.map(squares, jax.random.split(jax.random.key(0), PROBES)), axis=0)
    # The half is what is left where the score is all noise.
    variance = jnp.maximum(first - 0.5 * second, 0.5 * first)
    variance = variance if share is None else jnp.sum(variance)
    return jnp.broadcast_to(lam, y.shape) * G, jnp.sqrt(jnp.where(inner, variance, jnp.nan))


def _at(lams: Float[Array, "k *t"], index: Int[Array, "*t"]) -> Array:
    """λ at the grid points that were taken."""
    return lams[index] if lams.ndim == 1 else jnp.take_along_axis(lams, index[None], axis=0)[0]


def _over_weights(x: Float[Array, "n t"], weights: Float[Array, " n"] | None) -> Float[Array, "n t"]:
    """x/ω, and 0 for rows of weight 0, which move nothing."""
    if weights is None:
        return x
    return jnp.where((weights > 0)[:, None], x / jnp.where(weights > 0, weights, 1.0)[:, None], 0.0)


def _nested(
    rule: KFold,
    bound: PreparedKFold,
    factored: Factored,
    lams: Float[Array, "k *t"],
    scores: Float[Array, "k t"],
    pick: Callable[..., Array],
    share: Float[Array, " t"] | None,
    memory: int,
) -> tuple[Array, Array, Array]:
    """Score, standard error and the λ of each fold.

    Every other fold is predicted without it too, from the triangles of the rest.
    Varma and Simon (2006), BMC Bioinformatics 7, 91.
    """
    n, t = factored.problem.y.shape
    rows = partition(n, rule.folds, rule.key, rule.given)
    f = rows.test.shape[0]
    inner = factored.fold(pairs(rows))
    together = plan.chunks(n, t * f, len(lams), lams.dtype, memory).together

    def losses(lam: Array) -> tuple[Array, Array]:
        within = inner.losses(factored, lam, rule.loss, True)
        return within.reshape(f, f - 1, t), bound.folds.losses(factored, lam, rule.loss, True)

    within, without = jax.lax.map(losses, lams, batch_size=together)  # (k, f, f − 1, t), (k, f, t)
    means = jnp.where(jnp.isnan(scores)[:, None, :], jnp.nan, jnp.mean(within, axis=2))
    spread = jnp.std(within, axis=2, ddof=1) / jnp.sqrt(f - 1)

    def chosen(scores: Array, spread: Array, losses: Float[Array, "k t"]) -> tuple[Array, Array]:
        index, lam, _ = choose(pick, lams, scores, spread, share)
        index = jnp.broadcast_to(index, (t,))
        return jnp.take_along_axis(losses, index[None], axis=0)[0], lam

    judged, fold_lams = jax.vmap(chosen, (1, 1, 1))(means, spread, without)
    return jnp.mean(judged, axis=0), jnp.std(judged, axis=0, ddof=1) / jnp.sqrt(f), fold_lams
