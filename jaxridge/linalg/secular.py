"""Safeguarded root finders, in the logarithm of lambda.

‖w(λ)‖ = Δ, ‖r(λ)‖ = δ and rule'(λ) = 0 are one scalar equation after a factorisation. Newton's method in
log λ is kept inside a bracket that bisection shrinks whenever a Newton step leaves it or gains too little; where
a slope is another program to compile, `from_values` does without.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxridge.core.types import Array

# Bisection alone halves a bracket of width log(1e600) below the spacing of float64 in 64 steps;
# Newton needs about eight. Half as many again for a bracket that both share badly.
_MAX_STEPS = 96


def find_root(
    fn: Callable[[Array], tuple[Array, Array]], low: Array, high: Array, sign_low: Array | None = None
) -> Array:
    """The root x of each element of ``fn``, given ``fn(x) -> (value, slope)`` and a bracket.

    ``fn(low)`` and ``fn(high)`` must differ in sign in each element; where they do not, or where ``fn`` is
    NaN, what comes back lies in the bracket and is no root. ``sign_low`` is the sign of fn(low) where that is known.
    All elements step together. The result is not differentiable: give it to `implicit.root`.
    """
    eps = jnp.finfo(low.dtype).eps
    sign_low = jnp.sign(fn(low)[0]) if sign_low is None else sign_low

    def unfinished(state: tuple[Array, ...]) -> Array:
        return (state[0] < _MAX_STEPS) & ~jnp.all(state[4])

    def advance(state: tuple[Array, ...]) -> tuple[Array, ...]:
        step, low, high, x, done = state
        value, slope = fn(x)
        below = jnp.sign(value) == sign_low
        low, high = jnp.where(below, x, low), jnp.where(below, high, x)
        newton = x - value / jnp.where(slope == 0, jnp.inf, slope)
        middle = low + 0.5 * (high - low)
        # A Newton step that leaves the bracket, or every third step one that cannot be trusted to shrink it.
        inside = (newton > low) & (newton < high) & (step % 3 != 2)
        close = jnp.abs(newton - x) <= 2 * eps * jnp.maximum(jnp.abs(x), 1.0)
        following = jnp.where(inside | (close & (slope != 0)), newton, middle)
        narrow = high - low <= 4 * eps * jnp.maximum(jnp.abs(x), 1.0)
        finished = done | (value == 0) | (close & (slope != 0)) | narrow
        x = jnp.where(done | (value == 0), x, jnp.clip(following, low, high))
        return step + 1, low, high, x, finished

    middle = low + 0.5 * (high - low)
    start = (jnp.zeros((), jnp.int32), low, high, middle, jnp.zeros(low.shape, bool))
    return jax.lax.while_loop(unfinished, advance, start)[3]


class Root(NamedTuple):
    """Where a function changes its sign, its values at the ends, and the level there and at the point tried first."""

    x: Array
    at_low: Array
    at_high: Array
    level: Array
    level_tried: Array


def from_values(fn: Callable[[Array], tuple[Array, Array]], low: Array, tried: Array, high: Array) -> Root:
    """The root x of each element of a function between ``low`` and ``high``; ``fn`` gives its value, and any level.

    Inverse quadratic interpolation where three values allow it, else bisection (Chandrupatla 1997, Adv. Eng. Softw.
    28, 145), from the point that is ``tried`` first. The ends are the first two points of the one loop, so that ``fn``
    is in the program once; where their signs do not differ that is all. All elements step together, and the result is
    not differentiable.
    """
    eps = jnp.finfo(low.dtype).eps

    def unfinished(state: tuple[Array, Array]) -> Array:
        step, rows = state
        return (step < _MAX_STEPS) & ~jnp.all(rows[-1] > 0)

    def advance(state: tuple[Array, Array]) -> tuple[Array, Array]:
        step, rows = state
        x, value, level, a, b, at_a, at_b, at_low, at_high, level_tried, done = rows
        at_low, at_high = jnp.where(step == 1, value, at_low), jnp.where(step == 2, value, at_high)
        level_tried = jnp.where(step == 3, level, level_tried)
        # The root is between a, the newest point, and b; c is the one before.
        same = (value < 0) == (at_a < 0)
        c, at_c = jnp.where(same, a, b), jnp.where(same, at_a, at_b)
        b, at_b = jnp.where(same, b, a), jnp.where(same, at_b, at_a)
        a, at_a = x, value
        xi, phi = (a - b) / (c - b), (at_a - at_b) / (at_c - at_b)
        curved = (step > 2) & (phi * phi < xi) & ((1.0 - phi) * (1.0 - phi) < 1.0 - xi)
        to_b, to_c = at_a / (at_b - at_a) * (b - a), at_a / (at_c - at_a) * (c - a)
        move = jnp.where(curved, to_b * at_c / (at_b - at_c) + to_c * at_b / (at_c - at_b), 0.5 * (b - a))
        following = jnp.where(step == 0, low, jnp.where(step == 1, high, jnp.where(step == 2, tried, a + move)))
        # An interpolated point is wrong by its three distances multiplied, where they shrink as they should.
        error = jnp.abs((following - a) * (following - b) * (following - c))
        near = curved & (error <= 0.1 * eps) & (16.0 * jnp.abs(following - a) <= jnp.abs(b - a))
        near |= (step > 2) & (jnp.abs(b - a) <= 4 * eps * jnp.maximum(jnp.abs(a), 1.0))
        near |= (step == 2) & ~(jnp.sign(at_low) * jnp.sign(at_high) < 0)
        exact = (step > 2) & (value == 0)
        x = jnp.where((done > 0) | exact, x, following)
        done = jnp.where(exact | near, 1.0, done)
        return step + 1, jnp.stack([x, *fn(x), a, b, at_a, at_b, at_low, at_high, level_tried, done])

    # A value goes through the loop before it is read, so that all of its readers see one rounding, and one sign, of it.
    # In one array, which is one operation a step to compile.
    nothing = jnp.zeros_like(low)
    rows = jnp.stack([low, nothing, nothing, low, high, *[nothing] * 6])
    rows = jax.lax.while_loop(unfinished, advance, (jnp.zeros((), jnp.int32), rows))[1]
    return Root(rows[0], rows[7], rows[8], rows[2], rows[9])
