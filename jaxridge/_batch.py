"""Many small fits: the loop of `least_squares` over blocks of lanes, with the unfinished ones brought together.

Under ``vmap`` a loop runs until its slowest lane ends, and all others with it. Here a block of lanes small enough for
the cache advances until it has no running lane, or for a few steps; as soon as no more than a quarter of all lanes
run, these are gathered into a batch of a quarter of the size, and so on down. Every lane is the same state machine as
alone, so that its result is the same.
"""

from collections.abc import Callable
from typing import Any, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge import _loop
from jaxridge._flat import frozen
from jaxridge._types import Array
from jaxridge.nonlinear import (
    LevenbergMarquardt,
    Options,
    Prepared,
    Problem,
    Solution,
    cholesky,
    make_problem,
    solution_of,
)

_SHRINK = 8  # lanes come together when no more than one in so many is still running
_LEAST = 256  # below so many lanes the overhead of a step outweighs what fewer lanes would save
_STEPS = 4  # of a block before the next one has its turn


def least_squares_batch(
    residual: Callable[[Any, Any], Any],
    x0: Any,
    args: Any = None,
    *,
    in_axes: Any = 0,
    block: int | None = None,
    **options: Unpack[Options],
) -> Solution:
    """Many independent `least_squares` fits of one model: ``vmap`` without waiting for the slowest.

    Args:
        residual: ``residual(x, args)`` of one fit. x0: a pytree with an axis of N fits in front of every leaf.
        args: a pytree; in_axes says which axis of its leaves counts the fits, as for ``jax.vmap``: None for what they
            share.
        options: those of `least_squares`, the same for all fits. The solver is by default Levenberg–Marquardt on the
            normal equations without acceleration, the cheapest step; up to eight parameters its linear algebra is
            written out and runs side by side for all lanes.
        block: lanes that advance together; None takes 2048 on a CPU, whose cache they fit, and all of them elsewhere.

    Returns a `Solution` with an axis of N in front of every leaf, result codes included, and derivatives like those
    of ``jax.vmap(least_squares)``: a lane that reached max_steps, or failed, has NaN derivatives and its code.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> t = jnp.linspace(0.0, 1.0, 5)
    >>> rates = jnp.array([0.5, 1.0, 2.0])
    >>> model = lambda x, y: jnp.exp(-x * t) - y
    >>> fits = jxr.least_squares_batch(model, jnp.ones(3), jnp.exp(-jnp.outer(rates, t)))
    >>> print(fits.value.round(4))
    [0.5 1.  2. ]
    """
    leaves = jax.tree.leaves(x0)
    if not leaves or any(jnp.ndim(leaf) == 0 or jnp.shape(leaf)[0] != jnp.shape(leaves[0])[0] for leaf in leaves):
        raise ValueError("x0 needs an axis of fits in front of every leaf, of the same length in all.")
    _check_lanes(args, in_axes, jnp.shape(leaves[0])[0])
    options.setdefault("solver", LevenbergMarquardt(linear=cholesky, acceleration=False))
    problem = make_problem(residual, x0, args, **options)
    if block is None:
        block = 2048 if jax.default_backend() == "cpu" else jnp.shape(leaves[0])[0]
    return _run(problem, in_axes, block)


def _check_lanes(args: Any, in_axes: Any, count: int) -> None:
    """Every leaf of args that in_axes does not share must count the same fits as x0."""

    def check(axis: int | None, part: Any) -> None:
        if axis is None:
            return
        for leaf in jax.tree.leaves(part):
            if jnp.ndim(leaf) == 0 or jnp.shape(leaf)[axis] != count:
                shape = jnp.shape(leaf)
                raise ValueError(
                    f"args has a leaf of shape {shape} and x0 {count} fits; say in in_axes what is shared."
                )

    jax.tree.map(check, in_axes, args, is_leaf=lambda x: x is None)


@eqx.filter_jit
def _run(problem: Problem, in_axes: Any, block: int) -> Solution:
    def lane(x0: Any, args: Any) -> Prepared:
        return eqx.tree_at(lambda p: (p.x0, p.args), problem, (x0, args), is_leaf=lambda x: x is None).prepare()

    def begin(x0: Any, args: Any) -> _loop.State:
        ready = lane(x0, args)
        box, solver = frozen((ready.box, ready.solver))
        x = ready.x if box is None else box.clip(ready.x)
        return _loop.start(frozen(ready.objective), solver, x, True)

    def advance(state: _loop.State, x0: Any, args: Any) -> _loop.State:
        objective, solver, box, tol = frozen((*lane(x0, args)[:3], problem.tol))
        following = _loop.advance(objective, solver, box, tol, True, state)
        running = (state.stop == _loop.RUNNING) & (state.steps < tol.steps)
        return jax.tree.map(lambda new, old: jnp.where(running, new, old), following, state)

    axes = (0, in_axes)
    x0, args = frozen((problem.x0, problem.args))
    lanes = _Lanes(jax.vmap(begin, axes), jax.vmap(advance, (0, *axes)), in_axes, problem.tol.steps)
    states = lanes.all(x0, args, block)
    return jax.vmap(lambda x0, args, state: solution_of(lane(x0, args), state), (*axes, 0))(
        problem.x0, problem.args, states
    )


class _Lanes(eqx.Module):
    """How a batch of lanes starts and advances."""

    begin: Callable[[Any, Any], _loop.State]
    advance: Callable[[_loop.State, Any, Any], _loop.State]
    in_axes: Any
    most: Array

    def running(self, states: _loop.State) -> Array:
        return (states.stop == _loop.RUNNING) & (states.steps < self.most)

    def all(self, x0: Any, args: Any, block: int) -> _loop.State:
        """Start every lane and run it to its end."""
        count = jax.tree.leaves(x0)[0].shape[0]
        take = self.taker(x0, args)
        # The last block is filled up with copies of the last lane.
        blocks = -(-count // block)
        order = jnp.minimum(jnp.arange(blocks * block), count - 1)
        states = jax.lax.map(lambda rows: self.begin(*take(rows)), order.reshape(blocks, block))
        states = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), states)
        states = self.finish(states, order, take, block)
        return jax.tree.map(lambda x: x[:count], states)

    def taker(self, x0: Any, args: Any) -> Callable[[Array], tuple[Any, Any]]:
        """Lanes by number."""

        def take(rows: Array) -> tuple[Any, Any]:
            pick = lambda axis, part: part if axis is None else jax.tree.map(lambda x: jnp.take(x, rows, axis), part)  # noqa: E731
            chosen = jax.tree.map(pick, self.in_axes, args, is_leaf=lambda x: x is None)
            return jax.tree.map(lambda x: x[rows], x0), chosen

        return take

    def finish(self, states: _loop.State, order: Array, take: Callable[[Array], tuple[Any, Any]], block: int) -> Any:
        """Advance until few lanes run, then those alone."""
        size = order.shape[0]
        few = size // _SHRINK if size > _LEAST else 0
        few = few // block * block if few > block else few

        def some(states: _loop.State) -> Array:
            return jnp.sum(self.running(states)) > few

        def sweep(states: _loop.State) -> _loop.State:
            def one(part: tuple[_loop.State, Array]) -> _loop.State:
                state, rows = part
                data = take(rows)
                going = lambda carry: (carry[0] < _STEPS) & jnp.any(self.running(carry[1]))  # noqa: E731
                step = lambda carry: (carry[0] + 1, self.advance(carry[1], *data))  # noqa: E731
                return jax.lax.while_loop(going, step, (0, state))[1]

            cut = lambda x: x.reshape(-1, min(block, size), *x.shape[1:])  # noqa: E731
            after = jax.lax.map(one, (jax.tree.map(cut, states), cut(order)))
            return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), after)

        states = jax.lax.while_loop(some, sweep, states)
        if few == 0:
            return states
        (index,) = jnp.nonzero(self.running(states), size=few, fill_value=size)
        safe = jnp.minimum(index, size - 1)
        part = jax.tree.map(lambda x: x[safe], states)
        # What fills the rest up does not run.
        part = eqx.tree_at(lambda s: s.stop, part, jnp.where(index < size, part.stop, _loop.STEP))
        ended = self.finish(part, order[safe], take, block)
        return jax.tree.map(lambda x, new: x.at[index].set(new, mode="drop"), states, ended)
