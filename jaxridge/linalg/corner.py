"""The equations of a quadratic program at a corner of its box, by the few rows that lie inside.

    2λw − A_Fᵀγ = r,     −1ᵀγ = s,     −A_F w − b = t              F the free rows

eliminates to the bordered system of G/2λ with G = A_F A_Fᵀ, small because generic data have no more free rows than
unknowns. Solved with residuals of the equations themselves, which mends what squaring A_F costs.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.linalg import lu_factor, lu_solve

from jaxridge.core.numbers import matmul
from jaxridge.core.types import Array, Bool, Float, Int, Scalar


class Corner(eqx.Module):
    """Which entries lie at the upper wall, and the places among all of those that touch none, −1 for no more."""

    upper: Bool[Array, "s n"]
    places: Int[Array, " c"]

    def there(self) -> Bool[Array, " c"]:
        """Which places there are."""
        return self.places >= 0

    def of_rows(self, x: Float[Array, " sn"]) -> Float[Array, " c"]:
        """Entries of the free places, 0 for no more."""
        return jnp.where(self.there(), x[self.places], 0.0)

    def spread(self, gamma: Float[Array, " c"], shape: tuple[int, ...]) -> Float[Array, "s n"]:
        """γ at its places, 0 elsewhere."""
        gamma = jnp.where(self.there(), gamma, 0.0)
        return jnp.zeros(shape[0] * shape[1], gamma.dtype).at[self.places].add(gamma).reshape(shape)


def corner_of(upper: Bool[Array, "s n"], free: Bool[Array, "s n"], size: int) -> Corner:
    """With room for ``size`` free entries."""
    return Corner(upper, jnp.nonzero(free.ravel(), size=size, fill_value=-1)[0])


def kkt_solver(
    A: Float[Array, "n d"], lam: Scalar, corner: Corner, intercept: bool, refinements: int = 2
) -> Callable[[Array, Array, Array], tuple[Array, Array, Array]]:
    """(r, s, t) ↦ (w, b, γ) of the equations above; without an intercept, or without a free row, b = −s.

    G has a trace of the identity on it, so that rows that are equal, and share what they carry, leave it regular.
    """
    n, there = A.shape[0], corner.there()
    A = jnp.where(there[:, None], A[jnp.where(there, corner.places % n, 0)], 0.0)
    G = matmul(A, A.T) / (2.0 * lam)
    level = jnp.max(jnp.diagonal(G), initial=0.0)
    level = jnp.where(level > 0, level, 1.0)
    G = G + jnp.diag(jnp.where(there, 10 * jnp.finfo(A.dtype).eps * level, level))
    ones = jnp.where(there & intercept, 1.0, 0.0).astype(A.dtype)
    known = jnp.any(ones > 0)
    # In the units of G.
    last = jnp.concatenate([level * ones, jnp.where(known, 0.0, -level)[None]])
    factor = lu_factor(jnp.concatenate([jnp.concatenate([G, level * ones[:, None]], axis=1), last[None, :]]))

    def residual(point: tuple[Array, Array, Array], r: Array, s: Array, t: Array) -> tuple[Array, Array, Array]:
        w, b, gamma = point
        of_b = s + jnp.sum(ones * gamma) + jnp.where(known, 0.0, b)
        of_gamma = jnp.where(there, t + matmul(A, w) + ones * b, 0.0)
        return r - 2.0 * lam * w + matmul(A.T, gamma), of_b, of_gamma

    def once(r: Array, s: Array, t: Array) -> tuple[Array, Array, Array]:
        rest = -t - matmul(A, r) / (2.0 * lam)
        solved = lu_solve(factor, jnp.concatenate([jnp.where(there, rest, 0.0), -level * s[None]]))
        gamma = jnp.where(there, solved[:-1], 0.0)
        # Its last entry is b in the units of G.
        b = jnp.where(known, level * solved[-1], -s)
        return (r + matmul(A.T, gamma)) / (2.0 * lam), b, gamma

    def solve(r: Array, s: Array, t: Array) -> tuple[Array, Array, Array]:
        point = once(r, s, t)
        for _ in range(refinements):
            point = jax.tree.map(jnp.add, point, once(*residual(point, r, s, t)))
        return point

    return solve
