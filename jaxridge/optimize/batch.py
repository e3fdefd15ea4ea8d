"""Many small fits: the loop of `least_squares` over blocks of lanes, with the unfinished ones brought together.

Under ``vmap`` a loop runs until its slowest lane ends, and all others with it. Here a block of lanes small enough for
the cache advances until no more than an eighth of them run; then those that still run are gathered into full blocks,
as often as it takes. Every lane is the same state machine as alone, so that its result is the same.

Lanes are the last axis of all states: a number of every lane is a vector, with which a processor computes side by side.
"""

from collections.abc import Callable
from typing import Any, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge.core.implicit import frozen
from jaxridge.core.numbers import select
from jaxridge.core.types import Array
from jaxridge.core.verbs import verb
from jaxridge.optimize import loop, verdict
from jaxridge.optimize.least_squares import LevenbergMarquardt, Solution, cholesky, solution_of
from jaxridge.optimize.objective import Local, Point
from jaxridge.optimize.problem import NonlinearProblem, Options, Prepared, make_problem

__all__ = ["least_squares_batch"]

_SHRINK = 8  # a block ends when no more than one lane in so many is still running
_BLOCK = 1000  # fits the cache of a CPU, and its rows do not all fall on the same lines as those of a power of two do
_LEAST = 256  # below so many lanes the overhead of a step outweighs what fewer lanes would save


@verb(make_problem)
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
        block: lanes that advance together; None takes 1000 on a CPU, whose cache they fit, and all of them elsewhere.

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
        block = _BLOCK if jax.default_backend() == "cpu" else jnp.shape(leaves[0])[0]
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
def _run(problem: NonlinearProblem, in_axes: Any, block: int) -> Solution:
    x0, (own, shared) = problem.x0, _lanes_first(problem.args, in_axes)

    def lane(x0: Any, own: Any) -> Prepared:
        args = eqx.combine(own, shared)
        return eqx.tree_at(lambda p: (p.x0, p.args), problem, (x0, args), is_leaf=lambda x: x is None).prepare()

    def begin(x0: Any, own: Any) -> loop.State:
        ready = lane(x0, own)
        box, solver = frozen((ready.box, ready.solver))
        x = ready.x if box is None else box.clip(ready.x)
        return loop.begin(frozen(ready.objective), solver, x)

    def judge(state: loop.State, x0: Any, own: Any) -> loop.Judged:
        objective, solver, tol = frozen((*lane(x0, own)[:2], problem.tol))
        return loop.judge(objective, solver, tol, state)

    def look(judged: loop.Judged, x0: Any, own: Any) -> tuple[Point, Local]:
        return loop.look(frozen(lane(x0, own).objective), judged)

    def settle(judged: loop.Judged, there: tuple[Point, Local], x0: Any, own: Any) -> loop.State:
        objective, solver = frozen(lane(x0, own)[:2])
        return loop.settle(objective, solver, judged, *there)

    def propose(state: loop.State, x0: Any, own: Any) -> loop.State:
        objective, solver, box, tol = frozen((*lane(x0, own)[:3], problem.tol))
        return loop.propose(objective, solver, box, tol, state)

    def unclear(state: loop.State, x0: Any, own: Any) -> Array:
        return verdict.open_question(lane(x0, own).objective, state)

    def decide(state: loop.State, x0: Any, own: Any) -> loop.State:
        ready = lane(x0, own)
        objective, box = frozen((ready.objective, ready.box))
        return verdict.judge(objective, box, state, ready.derivative is not None)

    over = lambda fn: jax.vmap(fn, (-1, 0, 0), -1)  # noqa: E731
    running = lambda states: loop.running(problem.tol, states)  # noqa: E731
    lanes = _Lanes(over(judge), over(look), jax.vmap(settle, (-1, -1, 0, 0), -1), over(propose), running)

    data = frozen((x0, own))
    states = lanes.run(jax.vmap(begin, 0, -1)(*data), data, block)
    states = _sweep(over(unclear)(states, *data), over(decide), states, data, block)
    # Rules of derivatives want the lanes in front.
    states = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -1, 0), states)
    return jax.vmap(lambda x0, own, state: solution_of(lane(x0, own), state))(x0, own, states)


def _lanes_first(args: Any, in_axes: Any) -> tuple[Any, Any]:
    """What belongs to one lane of args, with the lanes in the first axis, and what they share."""
    mine = jax.tree.map(lambda axis: axis is not None, in_axes, is_leaf=lambda axis: axis is None)
    own, shared = eqx.partition(args, mine)
    first = lambda axis, part: jax.tree.map(lambda x: jnp.moveaxis(x, axis, 0), part)  # noqa: E731
    return jax.tree.map(first, in_axes, own, is_leaf=lambda axis: axis is None), shared


class _Lanes(eqx.Module):
    """How lanes advance; they are the last axis of a state, and the first of data."""

    judge: Callable[..., loop.Judged]
    look: Callable[..., tuple[Point, Local]]
    settle: Callable[..., loop.State]
    propose: Callable[..., loop.State]
    running: Callable[[loop.State], Array]

    def until(self, few: Any, states: loop.State, data: Any) -> loop.State:
        """Advance until no more than a few lanes run."""
        going = lambda states: jnp.sum(self.running(states)) > few  # noqa: E731

        def advance(states: loop.State) -> loop.State:
            running, judged = self.running(states), self.judge(states, *data)
            accepted, stayed = running & judged.accepted, select(running, judged.state, states)
            some, here = jnp.any(accepted), (states.point, states.local)
            # XLA would work the model out again for every number that depends on it, were it not for these cuts.
            there = jax.lax.cond(some, lambda: self.look(judged, *data), lambda: here)
            go = lambda: select(accepted, self.settle(judged, there, *data), stayed)  # noqa: E731
            moved = jax.lax.cond(some, go, lambda: stayed)
            return select(running, self.propose(moved, *data), moved)

        return jax.lax.while_loop(going, advance, states)

    def run(self, states: loop.State, data: Any, block: int) -> loop.State:
        """Run every lane to its end: what still runs is brought together as often as it takes."""
        count = states.stop.shape[0]
        block = min(block, max(_LEAST, count // _SHRINK))

        def sweep(states: loop.State) -> loop.State:
            running = self.running(states)
            few = jnp.where(jnp.sum(running) > block, block // _SHRINK, 0)
            return _sweep(running, lambda part, *mine: self.until(few, part, mine), states, data, block)

        return jax.lax.while_loop(lambda states: jnp.any(self.running(states)), sweep, states)


def _sweep(which: Array, advance: Callable[..., loop.State], states: loop.State, data: Any, block: int) -> loop.State:
    """Advance some of the lanes, brought together, a block at a time."""
    count = which.shape[0]
    block = min(block, count)
    (order,) = jnp.nonzero(which, size=count, fill_value=count)

    def one(i: Array, states: loop.State) -> loop.State:
        index = i * block + jnp.arange(block)
        rows = order.at[index].get(mode="fill", fill_value=count)
        part = jax.tree.map(lambda x: x.at[..., rows].get(mode="clip"), states)
        mine = jax.tree.map(lambda x: jnp.take(x, rows, 0, mode="clip"), data)
        # What fills the rest up does not run.
        part = eqx.tree_at(lambda s: s.stop, part, jnp.where(rows < count, part.stop, loop.STEP))
        part = advance(part, *mine)
        return jax.tree.map(lambda x, new: x.at[..., rows].set(new, mode="drop"), states, part)

    return jax.lax.fori_loop(0, -(-jnp.sum(which) // block), one, states)
