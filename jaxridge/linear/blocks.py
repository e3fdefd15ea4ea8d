"""Many targets, each with a λ of its own: one factorisation, and a block of targets after another in bounded memory."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxridge import select
from jaxridge.core import plan
from jaxridge.core.implicit import map_with_rules
from jaxridge.core.types import Array, Float
from jaxridge.linear.fit import Fit
from jaxridge.linear.spectrum import Spectrum
from jaxridge.select.rules import KFold, LeaveOneOut, MarginalLikelihood
from jaxridge.select.search import Found

# Rules that look at each target by itself, and have no number for each.
ALONE = (select.gcv, select.aic, select.aicc, select.bic)


class Search(NamedTuple):
    """What `select.search` is told."""

    rule: Any
    pick: Callable[..., Array]
    refine: bool
    memory: int

    def whole(self, factored: Any, grid: Array, per_target: bool) -> tuple[Found, Any]:
        """What is found for all targets at once, and the models there."""
        found = select.search(self.rule, factored, grid, self.pick, per_target, self.refine, self.memory)
        return found, select.with_code(found, factored.fit(found.lam))


def size(factored: Any, grid: Float[Array, "k *t"], search: Search) -> int:
    """How many targets at a time; all of them where a rule or a factor needs that."""
    (n, t), rule = factored.problem.y.shape, search.rule
    alone = rule in ALONE or isinstance(rule, KFold | LeaveOneOut)
    alone |= isinstance(rule, MarginalLikelihood) and rule.noise is None
    if not alone or grid.ndim == 2 or not isinstance(factored, Spectrum) or not factored.separable:
        return t
    # Where each has a λ of its own, a slope takes as much as four λ; blocks of one size, as none is computed twice.
    most = plan.targets(n, 4, grid.dtype, search.memory)
    return -(-t // -(-t // most))


def choose(factored: Spectrum, grid: Float[Array, " k"], search: Search, size: int) -> tuple[Found, Any]:
    """`Search.whole` with a λ for each target, from blocks of ``size`` of them."""
    y = factored.problem.y
    t = y.shape[1]
    count = -(-t // size)
    bound = select.bind(search.rule, factored)

    def block(start: Array) -> tuple[Any, Fit]:
        part = factored.of_targets(jax.lax.dynamic_slice_in_dim(y, start, size, 1))
        rule = bound.of_targets(part) if hasattr(bound, "of_targets") else bound
        found, fit = search._replace(rule=rule).whole(part, grid, True)
        return found._replace(lams=None), fit  # pyright: ignore[reportArgumentType]

    starts = jnp.minimum(jnp.arange(count) * size, t - size)
    found, fit = jax.tree.map(lambda x: _joined(x, t), map_with_rules(block, starts))
    return found._replace(lams=grid), fit


def _joined(x: Array, t: int) -> Array:
    """(blocks, ..., size) as (..., t): the last block begins within the one before."""
    count, size = x.shape[0], x.shape[-1]
    first = jnp.moveaxis(x[:-1], 0, -2).reshape(*x.shape[1:-1], -1)
    return jnp.concatenate([first, x[-1][..., count * size - t :]], axis=-1)
