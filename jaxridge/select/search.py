"""The search over a grid: score every λ by a rule, pick one, and move on to the optimum beside it."""

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge.core import implicit, plan
from jaxridge.core.checks import as_function
from jaxridge.core.factored import Factored
from jaxridge.core.implicit import frozen, map_with_rules
from jaxridge.core.numbers import matmul, poison
from jaxridge.core.results import RESULTS, override
from jaxridge.core.rows import map_rows
from jaxridge.core.types import Array, Bool, Float, Int
from jaxridge.linalg import secular
from jaxridge.select.information import aic, aicc, bic
from jaxridge.select.noise import l_curve, quasi_optimality
from jaxridge.select.rules import gcv, kfold


def needs_leverages(rule: Any) -> bool:
    """Whether a rule looks at leverages, as far as is known: functions of the user's own may."""
    return rule not in (gcv, l_curve, quasi_optimality, aic, aicc, bic) and getattr(rule, "leverages", True)


def bind(rule: Callable[..., Array], factored: Factored) -> Any:
    """The rule with its preparations for this problem made, if it has any."""
    if inspect.isfunction(rule) and rule.__module__.startswith("jaxridge.select"):
        takes = inspect.signature(rule).parameters.values()
        if "problem" not in [parameter.name for parameter in takes]:
            needed = [parameter.name for parameter in takes if parameter.default is parameter.empty]
            example = "5" if rule is kfold else ", ".join(needed)
            name = f"select.{rule.__name__}"
            raise ValueError(f"rule is {name} itself; call it, as in {name}({example}).")
    rule = as_function("rule", rule, "select.loo, select.gcv, select.kfold(5) or another of jaxridge.select")
    prepare = getattr(rule, "prepare", None)
    return rule if prepare is None else prepare(factored)


def evaluate(
    rule: Any, factored: Factored, lams: Float[Array, "k *t"], memory: int
) -> tuple[Float[Array, "k t"], Float[Array, "k t"] | None]:
    """Scores of a (bound) rule at every λ, and their standard errors, a block of λ at a time.

    A λ that was not solved has no score, unless the rule goes by a root of its own.
    """
    problem = factored.problem
    with_spread = getattr(rule, "with_spread", None)
    (n, t), k = problem.y.shape, lams.shape[0]

    def known(lam: Array, scores: Float[Array, " t"]) -> Float[Array, " t"]:
        return scores if hasattr(rule, "root") else jnp.where(factored.resolved(lam), scores, jnp.nan)

    def one(lam: Array) -> tuple[Array, Array | None]:
        scores, spread = with_spread(problem, factored, lam) if with_spread else (rule(problem, factored, lam), None)
        return known(lam, scores), spread

    def block(lams: Float[Array, "b *t"]) -> tuple[Array, Array]:
        scores, spread = rule.on_grid(factored, lams)
        return jax.vmap(known)(lams, scores), spread

    if hasattr(rule, "on_grid"):
        together = plan.chunks(rule.y.shape[0], t, k, lams.dtype, memory).together
        return block(lams) if together >= k else map_rows(block, lams, together)
    together = plan.chunks(n, t, k, lams.dtype, memory).together
    return jax.vmap(one)(lams) if together >= k else map_with_rules(one, lams, batch_size=together)


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
    """Mean over the targets that count, of a single one itself."""
    if share.shape[0] == 1:
        return x[..., 0]
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
    at_edge = _falls_beyond(columns, scores, lam, jnp.take_along_axis(scores, index[None, :], axis=0)[0])
    return (index, lam, at_edge) if share is None else (index[0], lam[0], at_edge[0])


def neighbours(lams: Float[Array, "k t"], lam: Float[Array, " t"]) -> tuple[Float[Array, " t"], Float[Array, " t"]]:
    """The next smaller and the next larger valid λ of a grid, −∞ and ∞ where there is none; for λ = ∞ a finite one."""
    lams, lam = _finite(lams), _finite(lam)[None, :]
    below, above = (lams >= 0) & (lams < lam), lams > lam
    beside = jnp.stack([jnp.where(below, lams, -jnp.inf), jnp.where(above, -lams, -jnp.inf)])
    below, above = jnp.max(beside, axis=1)
    return below, -above


def _finite(lams: Array) -> Array:
    return jnp.minimum(lams, jnp.finfo(lams.dtype).max)


def _falls_beyond(
    lams: Float[Array, "k t"], scores: Float[Array, "k t"], lam: Float[Array, " t"], score: Float[Array, " t"]
) -> Bool[Array, " t"]:
    """Whether the grid ends at a λ while the score still falls towards it, so that it may fall beyond.

    Nothing lies below λ = 0 or above infinity, and what falls by less than rounding (√eps of it) has come to rest.
    """
    below, above = neighbours(lams, lam)
    at_low, at_high = (below < 0) & (lam > 0), (above == jnp.inf) & (lam < jnp.inf)
    next_one = (_finite(lams) == jnp.where(at_low, above, below)[None, :]) & ~jnp.isnan(scores)
    beside = jnp.min(jnp.where(next_one, scores, jnp.inf), axis=0)
    falls = ~(beside - score <= math.sqrt(jnp.finfo(scores.dtype).eps) * jnp.abs(score))
    return (at_low | at_high) & falls & ~jnp.isnan(score)


def refine(
    rule: Any, factored: Factored, lams: Float[Array, "k *t"], lam: Array, share: Float[Array, " t"] | None
) -> Array:
    """The λ between the neighbours of a grid point at which the rule is stationary, rule'(λ) = 0.

    Where the slope does not change sign between the neighbours, where it does so at no better score, and at an edge of
    the grid, the grid point stays; it is a constant, λ = 0 and infinity too, and has the derivative 0.
    The derivative of the result is that of the stationary point, by the implicit function theorem.
    """
    points = lams if lams.ndim == 2 else lams[:, None]
    low, high = (x.reshape(lam.shape) for x in neighbours(points, jnp.atleast_1d(lam)))
    inner = (low >= 0) & (high < jnp.inf)
    # Neighbours λ = 0 and infinity have no logarithm; eps·λ and λ/eps are as good.
    eps = jnp.finfo(lam.dtype).eps
    low = jnp.where(inner, jnp.maximum(low, lam * eps), 0.5)
    high = jnp.where(inner, jnp.minimum(high, lam / eps), 2.0)

    still = rule.still() if hasattr(rule, "still") else rule
    fixed = frozen(factored)
    low, tried, high = jax.lax.stop_gradient((jnp.log(low), jnp.where(inner, jnp.log(lam), 0.0), jnp.log(high)))
    # Every copy of the rule and its derivatives is compiled: slopes alone, and the ends in the same loop.
    root = secular.from_values(lambda x: _slope_and_score(still, fixed, x, share), low, tried, high)
    # Where a score is flat its slope is rounding, and a root of that is no optimum.
    slack = math.sqrt(eps) * jnp.abs(root.level_tried)
    found = inner & (root.at_low < 0) & (root.at_high > 0) & (root.level <= root.level_tried + slack)
    x = implicit.root(lambda x: jnp.where(found, slope_of(rule, factored, x, share), x), root.x)
    return jnp.where(found, jnp.exp(x), lam)


def slope_of(rule: Any, factored: Factored, x: Array, share: Float[Array, " t"] | None) -> Array:
    """The derivative of a rule in x = log λ, with a ``share`` for each target that of its weighted mean."""
    return _slope_and_score(rule, factored, x, share)[0]


def _slope_and_score(rule: Any, factored: Factored, x: Array, share: Float[Array, " t"] | None) -> tuple[Array, Array]:
    def score(x: Array) -> Array:
        scores = rule(factored.problem, factored, jnp.exp(x))
        return scores if share is None else _average(scores, share)

    value, slope = jax.jvp(score, (x,), (jnp.ones_like(x),))
    return slope, value


class Found(NamedTuple):
    """The λ that a rule takes, and what it was taken from: the fields of a `Choice` but for its models."""

    lam: Array
    lams: Float[Array, "k *t"]
    scores: Float[Array, "k *t"]
    spread: Float[Array, "k *t"] | None
    index: Int[Array, "*t"]
    at_edge: Bool[Array, "*t"]
    beside_unresolved: Bool[Array, "*t"]


def search(
    rule: Any,
    factored: Factored,
    lams: Float[Array, "k *t"],
    pick: Callable[..., Array] = lowest,
    per_target: bool = False,
    refined: bool = False,
    memory: int = plan.MEMORY,
) -> Found:
    """Evaluate a rule on a grid, pick a λ for all targets or one for each, and refine it if that is wanted."""
    if refined and not factored.direct:
        raise ValueError("refine needs the factor of a dense solver; pass a finer grid of lams instead.")
    bound = bind(rule, factored)
    pick = as_function("pick", pick, "select.lowest or select.one_standard_error")
    # Scores come back beside the model, whose derivatives go further than theirs.
    scores, spread = evaluate(bound, factored.by_product(), lams, memory)
    share = None if per_target else share_of(scores)
    index, lam, at_edge = choose(pick, lams, scores, spread, share)
    solved = jax.vmap(factored.resolved)(lams)
    # A rule that has no number at all chooses nothing; that no λ was solved is not its fault.
    known = jnp.any(~jnp.isnan(scores) | ~solved, axis=0)
    root = getattr(rule, "root", None)
    if root is not None:
        # A root may lie anywhere; where there is none λ is 0 or infinite.
        lam, at_edge = root(factored.problem, factored, share), jnp.zeros_like(at_edge)
    else:
        lam = refine(bound, factored, lams, lam, share) if refined else lam
        lam = poison(lam, known if per_target else jnp.any(known))
    beside = _beside_unresolved(solved, lams, lam)
    if factored.problem.single:
        scores, spread = scores[:, 0], None if spread is None else spread[:, 0]
        if per_target:
            index, lam, at_edge, beside = index[0], lam[0], at_edge[0], beside[0]
    return Found(lam, lams, scores, spread, index, at_edge, beside)


def with_code(found: Found, fit: Any) -> Any:
    """The model at the λ that was found, with a code of its own where none was."""
    none = jnp.broadcast_to(jnp.isnan(found.lam), fit.result._value.shape)
    result = override(RESULTS.no_score, none & (fit.result == RESULTS.invalid_lam), fit.result)
    return eqx.tree_at(lambda fit: fit.result, fit, result)


def _beside_unresolved(solved: Bool[Array, "k t"], lams: Float[Array, "k *t"], lam: Array) -> Bool[Array, "*t"]:
    """Whether the nearest grid point below λ was not solved; for the λ of all targets, by any of them."""
    if lam.ndim == 0:
        solved = jnp.all(solved, axis=1, keepdims=True)
    columns = lams if lams.ndim == 2 else lams[:, None]
    below = neighbours(columns, jnp.atleast_1d(lam))[0]
    return jnp.any((columns == below[None, :]) & ~solved, axis=0).reshape(lam.shape)
