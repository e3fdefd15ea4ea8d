"""Conjugate gradients on a block of columns, each with its own λ, so that all of them share one product per step.

The systems are (A + λⱼI) xⱼ = gⱼ with A symmetric, positive semidefinite and known by products with blocks only.
The iteration is three pure functions on a record: `init`, `step` and `done`; `refresh` starts anew from the true
residual, which the one that is carried along loses to rounding. `solve` puts them together, with derivatives.

A randomly pivoted Cholesky factor F of A, FFᵀ ≈ A, preconditions every λ at once through its thin SVD.

A loop of one's own shows how far a long solve is, and goes on with the columns that are left:

    >>> import jax, jax.numpy as jnp
    >>> from jaxridge import kernels
    >>> from jaxridge.linalg import LowRank, conjugate_gradients, pivoted_cholesky
    >>> x, lams = jnp.linspace(-1.0, 1.0, 300)[:, None], jnp.array([1e-2, 1.0, 1e2])
    >>> kernel, y = kernels.RBF(0.5), jnp.tile(jnp.sin(3.0 * x), 3)
    >>> K = kernels.KernelProduct.make(kernel, x, stored=False, block=64)
    >>> columns = lambda i: kernel.matrix(x, x[i])
    >>> M = LowRank.of(pivoted_cholesky(kernel.diagonal(x), columns, 5, jax.random.key(0)).F)
    >>> step = jax.jit(lambda state, lams: conjugate_gradients.step(state, lambda V: K(V) + lams[None, :] * V, M(lams)))
    >>> state, left = conjugate_gradients.init(y, M(lams), tol=1e-4), jnp.arange(3)
    >>> alpha = jnp.zeros_like(y)
    >>> while left.size:
    ...     state = step(state, lams[left])
    ...     alpha = alpha.at[:, left].set(state.x)
    ...     keep = jnp.flatnonzero(state.active)  # one program for each number of columns
    ...     if keep.size < left.size:
    ...         print(f"{int(state.steps)} steps, {keep.size} λ left")
    ...         state, left = conjugate_gradients.narrowed(state, keep), left[keep]
    2 steps, 2 λ left
    5 steps, 1 λ left
    8 steps, 0 λ left
    >>> print(bool(jnp.max(jnp.abs(K(alpha) + lams[None, :] * alpha - y)) < 1e-3))
    True
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge.core.implicit import linear_root
from jaxridge.core.numbers import exponent, poison, power_of_two, safe_divide
from jaxridge.core.results import RESULTS, first_failure
from jaxridge.core.types import Array, Bool, Float, Int, Scalar

__all__ = [
    "Block",
    "State",
    "Stats",
    "done",
    "identity",
    "init",
    "narrowed",
    "refresh",
    "run",
    "solve",
    "step",
    "unless_failed",
]

Block = Callable[[Float[Array, "n c"]], Float[Array, "n c"]]


class State(eqx.Module):
    """Where each of the c columns stands."""

    x: Float[Array, "n c"]
    r: Float[Array, "n c"]  # g − (A + λ)x, carried along
    d: Float[Array, "n c"]  # direction
    rz: Float[Array, " c"]  # r · (preconditioned r)
    goal: Float[Array, " c"]  # a column is solved at this ‖r‖
    last: Float[Array, " c"]  # ‖r‖ at the last refresh
    active: Bool[Array, " c"]
    iterations: Int[Array, " c"]
    steps: Int[Array, ""]


class Stats(eqx.Module):
    """``residual_norm`` (c,), ‖g − (A + λ)x‖/‖g‖ as it truly is; ``iterations`` (c,); ``steps`` taken for the block."""

    residual_norm: Float[Array, " c"]
    iterations: Int[Array, " c"]
    steps: Int[Array, ""]
    solved: Bool[Array, " c"]
    unfinished: Bool[Array, " c"]  # for want of steps

    def result(self, lams: Float[Array, " c"]) -> Any:
        """A `RESULTS` item for each column."""
        return first_failure(
            (~(lams >= 0), RESULTS.invalid_lam),
            (~jnp.isfinite(self.residual_norm), RESULTS.nonfinite_kernel),
            (self.unfinished, RESULTS.max_products),
            (~self.solved, RESULTS.residual_floor),
            shape=lams.shape,
        )


def _dot(a: Float[Array, "n c"], b: Float[Array, "n c"]) -> Float[Array, " c"]:
    """Column by column."""
    return jnp.sum(a * b, axis=0)


def _norm(r: Float[Array, "n c"]) -> Float[Array, " c"]:
    return jnp.sqrt(_dot(r, r))


def init(g: Float[Array, "n c"], precondition: Block, tol: Any) -> State:
    """Start from x = 0; a column is solved when ‖r‖ ≤ tol ‖g‖."""
    size, z = _norm(g), precondition(g)
    goal = jnp.asarray(tol, g.dtype) * size
    none = jnp.zeros(g.shape[1], jnp.int32)
    return State(jnp.zeros_like(g), g, z, _dot(g, z), goal, size, size > goal, none, jnp.zeros((), jnp.int32))


def step(state: State, apply: Block, precondition: Block) -> State:
    """One product with the block; columns that are solved stay as they are.

    x += a d, r −= a (A + λ)d with a = r·z / d·(A + λ)d, then d = z + d (r·z)/(r·z before).
    """
    Hd = apply(state.d)
    curvature = _dot(state.d, Hd)
    moving = state.active & (curvature > 0)
    a = jnp.where(moving, state.rz / jnp.where(moving, curvature, 1.0), 0.0)
    x, r = state.x + a[None, :] * state.d, state.r - a[None, :] * Hd
    z = precondition(r)
    rz = jnp.where(moving, _dot(r, z), state.rz)
    d = jnp.where(moving[None, :], z + safe_divide(rz, state.rz)[None, :] * state.d, state.d)
    return State(
        x=x,
        r=r,
        d=d,
        rz=rz,
        goal=state.goal,
        last=state.last,
        active=moving & (_norm(r) > state.goal),
        iterations=state.iterations + moving.astype(jnp.int32),
        steps=state.steps + 1,
    )


def refresh(state: State, g: Float[Array, "n c"], apply: Block, precondition: Block) -> State:
    """Take the true residual, and go on with the columns that are not solved by it, unless they rest on rounding."""
    r = g - apply(state.x)
    size, z = _norm(r), precondition(r)
    # A column that was done by the residual carried along, and whose true one is not even half of what it was.
    active = (size > state.goal) & (state.active | (size < 0.5 * state.last))
    return State(state.x, r, z, _dot(r, z), state.goal, size, active, state.iterations, state.steps)


def done(state: State, max_steps: int | Int[Array, ""]) -> Bool[Array, ""]:
    """Whether no column moves any more, or no step is left."""
    return ~jnp.any(state.active) | (state.steps >= max_steps)


def run(
    g: Float[Array, "n c"],
    lams: Float[Array, " c"],
    product: Block,
    precondition: Any,
    tol: Scalar,
    max_steps: int,
    penalty: Block = lambda V: V,
) -> tuple[Float[Array, "n c"], Stats]:
    """Iterate until every column is solved by its true residual, rests on rounding, or the steps are used up.

    The systems are A + λP with ``penalty`` V ↦ PV; ``precondition(lams)`` is the `Block` for those λ. As columns are
    solved, the others go on in narrower blocks.
    """
    # Powers of two keep squares of any g inside the range of the dtype.
    unit = power_of_two(exponent(jnp.max(jnp.abs(g), axis=0, initial=0.0)), g.dtype)[None, :]
    g = g / unit

    def shifted(lams: Array) -> Block:
        return lambda V: product(V) + lams[None, :] * penalty(V)

    def stage(state: State, width: int, enough: int) -> State:
        """Steps with the columns that are active, ``width`` at most, until ``enough`` are left."""
        more = lambda part: ~done(part, max_steps) & (jnp.sum(part.active) > enough)  # noqa: E731

        def advanced(part: State, lams: Array) -> State:
            apply, M = shifted(lams), precondition(lams)
            return jax.lax.while_loop(more, lambda part: step(part, apply, M), part)

        if width == lams.shape[0]:
            return advanced(state, lams)
        which = jnp.argsort(~state.active, stable=True)[:width]
        part = advanced(narrowed(state, which), lams[which])
        put = lambda all, some: some if all.ndim == 0 else all.at[..., which].set(some)  # noqa: E731
        return jax.tree.map(put, state, part)

    def cycle(state: State) -> State:
        widths = _widths(g.shape[1])
        for width, enough in zip(widths, (*widths[1:], 0), strict=True):
            state = stage(state, width, enough)
        return refresh(state, g, shifted(lams), precondition(lams))

    state = init(g, precondition(lams), tol)
    state = jax.lax.while_loop(lambda state: ~done(state, max_steps), cycle, state)
    size = _norm(state.r)
    relative = jnp.where(size == 0, 0.0, size / _norm(g))
    return state.x * unit, Stats(relative, state.iterations, state.steps, size <= state.goal, state.active)


def _widths(columns: int) -> tuple[int, ...]:
    """Of blocks, each a quarter of the one before; a product with eight columns costs what one with one does."""
    return (columns,) if columns <= 8 else (columns, *_widths(max(8, columns // 4)))


def narrowed(state: State, which: Int[Array, " w"]) -> State:
    """Some of the columns."""
    return jax.tree.map(lambda x: x if x.ndim == 0 else x[..., which], state)


def unless_failed(
    x: Float[Array, "n c"], b: Float[Array, "n c"], tol: Scalar, first: Stats, own: Stats
) -> Float[Array, "n c"]:
    """x of a tangent system with right-hand side b, NaN in the columns that failed, except where b is 0.

    Failed are those whose ``first`` solution did not reach tol, and those whose ``own`` stopped above √tol, which is
    where rounding may keep a derivative. A column that nobody asks about has b = 0, and its NaN would reach the others
    through what they share.
    """
    good = first.solved & (own.residual_norm <= jnp.sqrt(tol).astype(x.dtype))
    return poison(x, jnp.broadcast_to((good | jnp.all(b == 0, axis=0))[None, :], x.shape))


def identity(lams: Float[Array, " c"]) -> Block:
    """No preconditioner."""
    return lambda r: r


def solve(
    product: Block,
    rhs: Float[Array, "n c"],
    lams: Float[Array, " c"],
    precondition: Callable[[Array], Block] = identity,
    *,
    tol: Any = 1e-6,
    max_steps: int = 1000,
) -> tuple[Float[Array, "n c"], Stats]:
    """x with (A + λⱼI) xⱼ = gⱼ for all columns at once, differentiable in all that ``product`` closes over.

    Args:
        product: V ↦ AV on blocks (n, c), A symmetric positive semidefinite. rhs: (n, c), g. lams: (c,), λ ≥ 0.
        precondition: (lams) ↦ (R ↦ M⁻¹R) with M near A + λ, such as ``LowRank.of(F)``; constant under differentiation.
        tol: a column is solved when ‖g − (A + λ)x‖ ≤ tol ‖g‖. max_steps: products with a block at most.

    Returns x (n, c) and `Stats`. Derivatives of every order in A, g and λ are those of the equation, by solves of
    their own to tol, or √tol where rounding allows no more; NaN beyond that, and for a column that was not solved.
    Equals ``scipy.sparse.linalg.cg`` on each column. Hestenes and Stiefel (1952), J. Res. NBS 49, 409.

    >>> import jax.numpy as jnp
    >>> from jaxridge.linalg import conjugate_gradients
    >>> A = jnp.diag(jnp.array([1.0, 3.0]))
    >>> x, stats = conjugate_gradients.solve(lambda V: A @ V, jnp.ones((2, 2)), jnp.array([0.0, 1.0]))
    >>> print(x.round(4)[0], stats.iterations)
    [1.  0.5] [2 2]
    """
    still_lams, tol = jax.lax.stop_gradient((lams, jnp.asarray(tol, rhs.dtype)))

    def iterate(b: Array) -> tuple[Array, Stats]:
        return run(b, still_lams, lambda V: jax.lax.stop_gradient(product(V)), precondition, tol, max_steps)

    x, stats = iterate(jax.lax.stop_gradient(rhs))

    def tangent(b: Array) -> Array:
        change, more = iterate(b)
        return unless_failed(change, b, tol, stats, more)

    return linear_root(lambda x: product(x) + lams[None, :] * x - rhs, x, tangent), stats
