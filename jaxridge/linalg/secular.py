"""Safeguarded root finders, in the logarithm of lambda.

‖w(λ)‖ = Δ, ‖r(λ)‖ = δ and rule'(λ) = 0 are one scalar equation after a factorisation. Newton's method in
log λ is kept inside a bracket that bisection shrinks whenever a Newton step leaves it or gains too little; where
a slope is another program to compile, `from_values` does without.
"""

from collections.abc import Callable

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


def from_values(fn: Callable[[Array], Array], low: Array, high: Array) -> tuple[Array, Array, Array]:
    """The root x of each element of ``fn`` between ``low`` and ``high``, with fn(low) and fn(high).

    Regula falsi, the value at an end that stays being halved (Dowell and Jarratt 1971, BIT 11, 168), and bisection
    every third step. The ends are the first two points of the one loop, so that ``fn`` is in the program once. As for
    `find_root`, signs must differ, all elements step together, and the result is not differentiable.
    """
    eps = jnp.finfo(low.dtype).eps

    def unfinished(state: tuple[Array, Array]) -> Array:
        step, rows = state
        return (step < _MAX_STEPS) & ~jnp.all(rows[-1] > 0)

    def advance(state: tuple[Array, Array]) -> tuple[Array, Array]:
        step, rows = state
        x, a, b, at_a, at_b, at_low, at_high, side, done = rows
        value = fn(x)
        first, second = step == 0, step == 1
        inner = ~first & ~second
        left = first | (inner & (jnp.sign(value) == jnp.sign(at_a)))
        # The same end again: the other one counts half.
        share = jnp.where((step > 2) & ((side > 0) == left), 0.5, 1.0).astype(value.dtype)
        a, at_a = jnp.where(left, x, a), jnp.where(left, value, at_a * share)
        b, at_b = jnp.where(left, b, x), jnp.where(left, at_b * share, value)
        rise = at_b - at_a
        secant = b - at_b * (b - a) / jnp.where(rise == 0, jnp.inf, rise)
        usable = (secant > a) & (secant < b) & (step % 3 != 1)
        following = jnp.where(first, high, jnp.where(usable, secant, a + 0.5 * (b - a)))
        size = 2 * eps * jnp.maximum(jnp.abs(x), 1.0)
        exact = inner & (value == 0)
        near = inner & ((b - a <= 2 * size) | (usable & (jnp.abs(following - x) <= size)))
        following = jnp.where((done > 0) | exact, x, following)
        at_low, at_high = jnp.where(first, value, at_low), jnp.where(second, value, at_high)
        done = jnp.where(exact | near, 1.0, done)
        return step + 1, jnp.stack([following, a, b, at_a, at_b, at_low, at_high, left.astype(x.dtype), done])

    # In one array, which is one operation a step to compile.
    nothing = jnp.zeros_like(low)
    rows = jnp.stack([low, low, high, *[nothing] * 6])
    rows = jax.lax.while_loop(unfinished, advance, (jnp.zeros((), jnp.int32), rows))[1]
    return rows[0], rows[5], rows[6]
