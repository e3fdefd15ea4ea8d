"""Tuning: a score of anything a model depends on, log λs, kernel parameters or a network, made small by its gradient.

The outer loop is any optimizer of optax; derivatives of what a verb solves inside are implicit, so that one step costs
a value and a gradient of the score. Several starts run side by side, and so do targets whose parameters are their own.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from jaxridge.core.checks import as_function, as_key
from jaxridge.core.implicit import without_derivatives
from jaxridge.core.plan import whole
from jaxridge.core.report import Record
from jaxridge.core.results import RESULTS, first_failure
from jaxridge.core.types import Array, Float
from jaxridge.core.verbs import verb

__all__ = ["Tuned", "tune"]


NO_DERIVATIVES = "tune has no derivatives; jaxridge.minimize gives an optimum that is differentiable."


class Tuned(Record):
    """``value`` the best parameters that were seen, in the form of the start; ``score`` theirs, () or (t,).

    ``scores`` (steps + 1, starts) or (steps + 1, starts, t) the history, NaN after the end; ``start`` which start was
    best; ``gradient_norm`` the largest derivative there and ``result`` a code, () or (t,).
    """

    value: Any
    score: Float[Array, "*t"]
    scores: Float[Array, "k s *t"]
    start: Array
    gradient_norm: Float[Array, "*t"]
    result: Any


@verb()
def tune(
    score: Callable[[Any, Any], Array],
    start: Any,
    args: Any = None,
    *,
    optimizer: Any = None,
    steps: int = 100,
    gtol: float = 1e-6,
    starts: int = 1,
    spread: float = 1.0,
    key: Any = None,
    per_target: bool = False,
    progress: Callable[[Any, Any], None] | None = None,
) -> Tuned:
    """Minimise a score over a pytree of parameters, by an optimizer of optax, from one start or several.

    Args:
        score: ``score(parameters, args)`` gives a number, or one for each target (t,), of which the mean counts.
        start: a pytree of floating arrays. args: any pytree that the score is given, constants.
        optimizer: of optax; None takes ``optax.lbfgs()``, with ``per_target`` ``optax.adam(0.1)``.
        steps: how many at most. gtol: stop where no derivative is larger than gtol·max(1, |score|).
        starts: how many, the first ``start`` itself and others ``spread`` standard deviations of a normal about it, for
            which a ``key`` is needed.
        per_target: whether the last axis of every parameter is that of the targets, the score of each depending on its
            own alone; each then has its best step and start. Only for optimizers that work elementwise, such as Adam.
        progress: ``progress(step, scores)`` after every step, by a host callback.

    Returns a `Tuned`: ``gradient_converged`` or ``max_steps``; ``nonfinite_start``, or ``nonfinite_region`` where the
    score became NaN or infinite on the way, the best point before it kept. Derivatives raise ValueError: use
    `jaxridge.minimize` for an optimum that is differentiable.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> x = jnp.linspace(-1, 1, 9)
    >>> X = jnp.stack([x, x**2, x**3], axis=1)
    >>> found = jxr.tune(lambda p, y: jxr.ridge_score(X, y, jnp.exp(p)), 0.0, jnp.cos(9 * x) + x)
    >>> print(f"{found.score:.3f} {jnp.exp(found.value):.2f}", bool(found.result == jxr.RESULTS.gradient_converged))
    1.077 4.86 True
    """
    score = as_function("score", score, "a function (parameters, args) of numbers")
    start = jax.tree.map(lambda x: jnp.asarray(x, float) if isinstance(x, int | float) else jnp.asarray(x), start)
    leaves = jax.tree.leaves(start)
    if not leaves or not all(jnp.issubdtype(x.dtype, jnp.floating) for x in leaves):
        raise ValueError("start needs floating arrays; convert whole numbers, and pass what is fixed as args.")
    shape = jax.eval_shape(score, start, args)
    if not hasattr(shape, "shape") or len(shape.shape) > 1 or not jnp.issubdtype(shape.dtype, jnp.floating):
        raise ValueError(f"score gives {shape}; a number is needed, or one for each target (t,).")
    if per_target and (not shape.shape or any(x.ndim == 0 or x.shape[-1] != shape.shape[0] for x in leaves)):
        raise ValueError(f"per_target: a score (t,) and parameters (..., t) are needed, got a score {shape.shape}.")
    starts = whole("starts", starts, 1)
    if starts > 1 and key is None:
        raise ValueError("starts: several need a key for their positions, such as jax.random.key(0).")
    optimizer = _default(bool(per_target)) if optimizer is None else optimizer
    if not hasattr(optimizer, "update"):
        raise ValueError(f"optimizer is {optimizer!r}; pass one of optax, such as optax.adam(0.1).")
    first = _positions(start, starts, spread, None if key is None else as_key(key))
    settings = (optax.with_extra_args_support(optimizer), whole("steps", steps), bool(per_target), progress)
    return _tune(score, first, args, jnp.asarray(gtol, leaves[0].dtype), *settings)


@cache
def _default(per_target: bool) -> Any:
    """One object for all calls, by which compiled programs are found."""
    return optax.adam(0.1) if per_target else optax.lbfgs()


def _positions(start: Any, starts: int, spread: float, key: Any) -> Any:
    """The starts, along a leading axis of each leaf."""
    leaves, tree = jax.tree.flatten(start)
    keys = [None] * len(leaves) if key is None or starts == 1 else list(jax.random.split(key, len(leaves)))

    def one(leaf: Array, key: Any) -> Array:
        if key is None:
            return leaf[None]
        away = spread * jax.random.normal(key, (starts - 1, *leaf.shape), leaf.dtype)
        return jnp.concatenate([leaf[None], leaf[None] + away])

    return jax.tree.unflatten(tree, [one(leaf, key) for leaf, key in zip(leaves, keys, strict=True)])


@eqx.filter_jit
def _tune(
    score: Callable[..., Array],
    first: Any,
    args: Any,
    gtol: Array,
    optimizer: Any,
    steps: int,
    per_target: bool,
    progress: Callable[..., None] | None,
) -> Tuned:
    def values(p: Any) -> Array:
        return score(p, args)

    def whole_score(p: Any) -> tuple[Array, Array]:
        each = values(p)
        return (jnp.sum(each) if per_target else jnp.mean(each)), each

    both = jax.value_and_grad(whole_score, has_aux=True)

    def measured(p: Any) -> tuple[Array, Array, Any, Array]:
        """What is minimised, scores, the gradient, and the largest derivative, of each target where they part."""
        (total, each), gradient = both(p)
        axis, last = (0, each.shape) if per_target else (None, ())
        sizes = [jnp.max(jnp.abs(g).reshape(-1, *last), axis=axis) for g in jax.tree.leaves(gradient)]
        return total, each, gradient, jnp.max(jnp.stack(sizes), axis=0)

    def judged(total: Array, each: Array) -> Array:
        return each if per_target else total

    def one(p: Any) -> Any:
        total, each, gradient, size = measured(p)
        level = judged(total, each)
        history = jnp.full((steps + 1, *each.shape), jnp.nan, each.dtype).at[0].set(each)
        state = (0, p, optimizer.init(p), (total, each, gradient, size), (p, each, level, size), history)

        def going(state: Any) -> Array:
            index, _, _, (total, each, _, size), _, _ = state
            level = judged(total, each)
            done = size <= gtol * jnp.maximum(1.0, jnp.abs(level))
            return (index < steps) & ~jnp.all(done) & jnp.isfinite(total)

        def step(state: Any) -> Any:
            index, p, memory, (total, each, gradient, size), best, history = state
            extra = {"value": total, "grad": gradient, "value_fn": lambda p: whole_score(p)[0]}
            # Optimizers count in whole numbers of several widths, which strict promotion does not let them.
            with jax.numpy_dtype_promotion("standard"):
                updates, memory = optimizer.update(gradient, memory, p, **extra)
            p = optax.apply_updates(p, updates)
            found = measured(p)
            level = judged(found[0], found[1])
            better = level < best[2]
            take = lambda new, old: jnp.where(better, new, old)  # noqa: E731
            numbers = (take(new, old) for new, old in zip((found[1], level, found[3]), best[1:], strict=True))
            best = (jax.tree.map(take, p, best[0]), *numbers)
            history = history.at[index + 1].set(found[1])
            if progress is not None:
                jax.debug.callback(progress, index + 1, found[1])
            return index + 1, p, memory, found, best, history

        index, _, _, last, best, history = jax.lax.while_loop(going, step, state)
        broken = ~jnp.isfinite(judged(last[0], last[1]))
        return best, history, broken, jnp.isfinite(level)

    (p, each, level, size), history, broken, good = jax.lax.map(one, first)
    index = jnp.argmin(jnp.where(jnp.isnan(level), jnp.inf, level), axis=0)
    before = lambda x: index.reshape((1,) * (x.ndim - index.ndim) + index.shape)  # noqa: E731
    pick = lambda x: jnp.take_along_axis(x, before(x), axis=0)[0]  # noqa: E731
    value, each, size, broken, good = jax.tree.map(pick, (p, each, size, broken, good))
    small = size <= gtol * jnp.maximum(1.0, jnp.abs(pick(level)))
    result = first_failure(
        (~good, RESULTS.nonfinite_start),
        (small, RESULTS.gradient_converged),
        (broken, RESULTS.nonfinite_region),
        (jnp.ones_like(small), RESULTS.max_steps),
        shape=small.shape,
    )
    history = jnp.moveaxis(history, 0, 1)
    value, each, history, size = without_derivatives((value, each, history, size), NO_DERIVATIVES)
    return Tuned(value, each, history, index, size, result)
