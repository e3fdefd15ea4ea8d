"""Partial Cholesky factors by random pivots, and the preconditioner that one makes for every λ at once."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge.core.numbers import matmul, poison, safe_divide
from jaxridge.core.types import Array, Bool, Float, Int, Scalar
from jaxridge.linalg.conjugate_gradients import Block, identity

__all__ = ["LowRank", "Pivots", "pivoted_cholesky"]


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
    >>> from jaxridge.linalg import pivoted_cholesky
    >>> A = jnp.ones((4, 4))
    >>> pivots = pivoted_cholesky(jnp.ones(4), lambda i: A[:, i], 3, jax.random.key(0))
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
