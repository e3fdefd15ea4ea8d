"""Conjugate gradients on a block of columns, each with its own λ, so that all of them share one product per step.

The systems are (A + λⱼI) xⱼ = gⱼ with A symmetric, positive semidefinite and known by products with blocks only.
The iteration is three pure functions on a record: `init`, `step` and `done`; `refresh` starts anew from the true
residual, which the one that is carried along loses to rounding. `solve` puts them together, with derivatives.

A randomly pivoted Cholesky factor F of A, FFᵀ ≈ A, preconditions every λ at once through its thin SVD.

A loop of one's own shows how far a long solve is, and goes on with the columns that are left:

    >>> import jax, jax.numpy as jnp
    >>> from jaxridge import kernels, krylov
    >>> x, lams = jnp.linspace(-1.0, 1.0, 300)[:, None], jnp.array([1e-2, 1.0, 1e2])
    >>> kernel, y = kernels.RBF(0.5), jnp.tile(jnp.sin(3.0 * x), 3)
    >>> K = krylov.KernelProduct.make(kernel, x, stored=False, block=64)
    >>> columns = lambda i: kernel.matrix(x, x[i])
    >>> M = krylov.LowRank.of(krylov.pivoted_cholesky(kernel.diagonal(x), columns, 5, jax.random.key(0)).F)
    >>> step = jax.jit(lambda state, lams: krylov.step(state, lambda V: K(V) + lams[None, :] * V, M(lams)))
    >>> state, left = krylov.init(y, M(lams), tol=1e-4), jnp.arange(3)
    >>> alpha = jnp.zeros_like(y)
    >>> while left.size:
    ...     state = step(state, lams[left])
    ...     alpha = alpha.at[:, left].set(state.x)
    ...     keep = jnp.flatnonzero(state.active)  # one program for each number of columns
    ...     if keep.size < left.size:
    ...         print(f"{int(state.steps)} steps, {keep.size} λ left")
    ...         state, left = krylov.narrowed(state, keep), left[keep]
    2 steps, 2 λ left
    5 steps, 1 λ left
    8 steps, 0 λ left
    >>> print(bool(jnp.max(jnp.abs(K(alpha) + lams[None, :] * alpha - y)) < 1e-3))
    True
"""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge.core.implicit import implicit_solution
from jaxridge.core.numbers import exponent, matmul, poison, power_of_two, safe_divide
from jaxridge.core.results import RESULTS, first_failure
from jaxridge.core.types import Array, Bool, Float, Int, Scalar
from jaxridge.kernels.product import KernelProduct

__all__ = [
    "KernelProduct",
    "LowRank",
    "Pivots",
    "State",
    "Stats",
    "done",
    "init",
    "narrowed",
    "pivoted_cholesky",
    "refresh",
    "run",
    "solve",
    "step",
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
    >>> from jaxridge import krylov
    >>> A = jnp.diag(jnp.array([1.0, 3.0]))
    >>> x, stats = krylov.solve(lambda V: A @ V, jnp.ones((2, 2)), jnp.array([0.0, 1.0]))
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

    return implicit_solution(lambda x: product(x) + lams[None, :] * x - rhs, x, tangent), stats


class LowRank(eqx.Module):
    """A preconditioner for FFᵀ + λ at every λ, from the thin SVD F = U diag(s) Vᵀ.

    With δ the smallest s² it is  M⁻¹ = U diag((λ+δ)/(s²+λ)) Uᵀ + (I − UUᵀ): (FFᵀ + λ)⁻¹ inside the range of F, and
    outside what its last direction has. No entry is large or a difference of close numbers, also for λ = 0.
    Frangella, Tropp and Udell (2023), SIAM J. Matrix Anal. Appl. 44, 718.
    """

    U: Float[Array, "n r"]
    squares: Float[Array, " r"]
    least: Scalar

    @classmethod
    def of(cls, F: Float[Array, "n r"]) -> "LowRank":
        """From F."""
        # LAPACK's SVD never returns when an entry is infinite.
        F = jax.lax.stop_gradient(F)
        U, s, _ = jnp.linalg.svd(poison(F, jnp.all(jnp.isfinite(F))), full_matrices=False)
        return cls.spectral(U, s)

    @classmethod
    def spectral(cls, U: Float[Array, "n r"], s: Float[Array, " r"]) -> "LowRank":
        """From U and s."""
        largest = jnp.square(jnp.max(s, initial=0.0))
        least = jnp.maximum(jnp.min(jnp.square(s), initial=jnp.inf), jnp.finfo(s.dtype).eps * largest)
        return cls(U, jnp.maximum(jnp.square(s), least), least)

    def __call__(self, lams: Float[Array, " c"]) -> Block:
        """R ↦ M⁻¹R, column by column."""
        if not self.squares.shape[0]:
            return identity(lams)
        lams = jax.lax.stop_gradient(lams)[None, :]
        share = safe_divide(self.least + lams, self.squares[:, None] + lams)

        def precondition(R: Array) -> Array:
            z = matmul(self.U.T, R)
            outside = R - matmul(self.U, z)
            # Its part inside is what rounding leaves of z, which outweighs the small shares.
            return outside + matmul(self.U, share * z - matmul(self.U.T, outside))

        return precondition


class Pivots(eqx.Module):
    """A pivoted Cholesky factorisation: FFᵀ ≈ A, exact in the rows and columns that ``indices`` name.

    Columns of F from ``count`` on are 0, and the indices there repeat others.
    """

    F: Float[Array, "n r"]
    indices: Int[Array, " r"]
    count: Int[Array, ""]

    @property
    def used(self) -> Bool[Array, " r"]:
        """Which of the r columns were filled."""
        return jnp.arange(self.indices.shape[0], dtype=self.count.dtype) < self.count


def pivoted_cholesky(
    diagonal: Float[Array, " n"],
    columns: Callable[[Int[Array, " b"]], Float[Array, "n b"]],
    rank: int,
    key: Array | None,
    block: int | None = None,
) -> Pivots:
    """Partial Cholesky of a positive semidefinite A, pivots drawn in proportion to what is left of its diagonal.

    Args:
        diagonal: (n,), that of A. columns: i (b,) ↦ A[:, i] (n, b). rank: columns of F, n at most.
        key: of the draws; None takes the largest entry each time instead, one by one.
        block: proposals at a time, rank/8 by default.

    Proposals of a block come from the diagonal at its start, and each is accepted with the probability that it has
    by then, which gives the law of one pivot after another. Stops where rounding is all that is left, so
    repeated points and A of low rank give fewer columns. Chen, Epperly, Tropp and Webber (2025), Comm. Pure Appl.
    Math. 78, 995; in blocks, Epperly, Tropp and Webber (2024), arXiv:2410.03969.

    >>> import jax, jax.numpy as jnp
    >>> from jaxridge import krylov
    >>> A = jnp.ones((4, 4))
    >>> pivots = krylov.pivoted_cholesky(jnp.ones(4), lambda i: A[:, i], 3, jax.random.key(0))
    >>> print(pivots.count, bool(jnp.allclose(pivots.F @ pivots.F.T, A)))
    1 True
    """
    (n,), dtype = diagonal.shape, diagonal.dtype
    rank = min(rank, n)
    b = 1 if key is None else min(n, block or max(8, math.ceil(rank / 8)))
    # Each subtraction rounds by eps of the entry; a pivot of that size would give a column of noise (heuristic: 10).
    floor = 10.0 * jnp.finfo(dtype).eps * jnp.max(diagonal)

    def draw(key: Array, left: Array) -> tuple[Array, Array, Array]:
        if b == 1 and key is None:
            return key, jnp.argmax(left)[None], jnp.zeros(1, dtype)
        key, place, chance = jax.random.split(key, 3)
        return key, jax.random.choice(place, n, (b,), p=left / jnp.sum(left)), jax.random.uniform(chance, (b,), dtype)

    def grow(carry: Any) -> Any:
        F, indices, count, left, key = carry
        key, proposed, chance = draw(key, left)
        C = columns(proposed) - matmul(F, F[proposed].T)
        taken, spent, L = _accept(C[proposed], chance * left[proposed], floor, rank - count)
        new = jax.scipy.linalg.solve_triangular(L, C.T, lower=True).T * taken[None, :].astype(dtype)
        first = jnp.argsort(~taken, stable=True)
        F = jax.lax.dynamic_update_slice(F, new[:, first], (jnp.zeros_like(count), count))
        indices = jax.lax.dynamic_update_slice(indices, proposed[first].astype(indices.dtype), (count,))
        left = jnp.maximum(left - jnp.sum(jnp.square(new), axis=1), 0.0)
        left = (
            jnp.where(left > floor, left, 0.0).at[proposed].multiply(jnp.where(taken | spent, 0.0, 1.0).astype(dtype))
        )
        return F, indices, count + jnp.sum(taken, dtype=count.dtype), left, key

    def unfinished(carry: Any) -> Array:
        return (carry[2] < rank) & (jnp.sum(carry[3]) > 0)

    left = jnp.where(jnp.isfinite(diagonal) & (diagonal > floor), diagonal, 0.0)
    zero = jnp.zeros((), jnp.int32)
    start = (jnp.zeros((n, rank + b), dtype), jnp.zeros(rank + b, jnp.int32), zero, left, key)
    F, indices, count, _, _ = jax.lax.while_loop(unfinished, grow, start)
    used = jnp.arange(rank, dtype=count.dtype) < count
    F = jnp.where(jnp.all(jnp.isfinite(diagonal)), F[:, :rank], jnp.nan)
    return Pivots(F, jnp.where(used, indices[:rank], indices[0]), count)


def _accept(
    H: Float[Array, "b b"], threshold: Float[Array, " b"], floor: Scalar, room: Int[Array, ""]
) -> tuple[Bool[Array, " b"], Bool[Array, " b"], Float[Array, "b b"]]:
    """Which proposals are taken, which have nothing left, and the Cholesky factor of those taken, 1 elsewhere."""
    b = H.shape[0]

    def one(i: Array, carry: Any) -> Any:
        H, L, taken, spent = carry
        left = H[i, i]
        take = (left > jnp.maximum(threshold[i], floor)) & (jnp.sum(taken, dtype=room.dtype) < room)
        column = jnp.where(take & ~taken, H[:, i] / jnp.sqrt(jnp.where(take, left, 1.0)), 0.0)
        H = H - column[:, None] * column[None, :]
        return H, L.at[:, i].set(column), taken.at[i].set(take), spent.at[i].set(left <= floor)

    none = jnp.zeros(b, bool)
    _, L, taken, spent = jax.lax.fori_loop(0, b, one, (H, jnp.zeros_like(H), none, none))
    L = jnp.where(taken[:, None] & taken[None, :], jnp.tril(L), jnp.eye(b, dtype=H.dtype))
    return taken, spent, L
