"""The seminorm ‖Lx‖ with its pseudo-inverse and null space.

With W an orthonormal basis of the null space of L, every x is L⁺u + Wc, and ‖Lx‖ = ‖u‖ for the u of least norm. So
min ‖Ax − b‖² + λ‖Lx‖² is ridge regression on AL⁺ with the columns AW unpenalised, which is Eldén's standard form.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxridge.core.implicit import moves, with_rule
from jaxridge.core.numbers import matmul
from jaxridge.core.types import Array, Float
from jaxridge.inverse.maps import Map


class Seminorm(eqx.Module):
    """‖Lx‖: L itself, L⁺ with its transpose, and the null space W (n × q). ``L`` is None for the plain norm."""

    L: Map | None
    inverse: Any  # None, a matrix K (n × r) with ‖LKu‖ = ‖u‖, or an operator with ``pinv``
    null: Float[Array, "n q"]
    size: int = eqx.field(static=True)  # of u

    @classmethod
    def of(cls, L: Float[Array, "p n"], nullity: int | None) -> "Seminorm":
        """From a matrix, by its SVD."""
        K, W = split(L, nullity_of(L) if nullity is None else nullity)
        return cls(Map.of("L", L), K, W, K.shape[1])

    @classmethod
    def bare(cls, L: Map) -> "Seminorm":
        """L alone, for solvers that need neither its pseudo-inverse nor its null space."""
        return cls(L, None, jnp.zeros((L.shape[1], 0), L.inputs.dtype), 0)

    def apply(self, x: Float[Array, " n"]) -> Float[Array, " p"]:
        """Lx."""
        return x if self.L is None else self.L(x)

    def normal(self, x: Float[Array, " n"]) -> Float[Array, " n"]:
        """LᵀLx."""
        return x if self.L is None else self.L.adjoint(self.L(x))

    def times(self, u: Float[Array, " r"]) -> Float[Array, " n"]:
        """L⁺u."""
        if self.L is None:
            return u
        if eqx.is_array(self.inverse):
            return matmul(self.inverse, u)
        return self.L.inputs.flat(self.inverse.pinv(self.L.outputs.shaped(u)))

    def adjoint(self, x: Float[Array, " n"]) -> Float[Array, " r"]:
        """(L⁺)ᵀx."""
        if self.L is None:
            return x
        if eqx.is_array(self.inverse):
            return matmul(self.inverse.T, x)
        return jax.linear_transpose(self.times, jax.ShapeDtypeStruct((self.size,), x.dtype))(x)[0]


def seminorm(L: Any, n: int, dtype: Any, nullity: int | None) -> Seminorm | None:
    """Of a matrix, of an operator that brings ``pinv`` and ``null``, or None: L has no pseudo-inverse."""
    if L is None:
        if nullity:
            raise ValueError(f"nullity is {nullity} but L is None, the identity, whose null space is empty.")
        return Seminorm(None, None, jnp.zeros((n, 0), dtype), n)
    given = Map.of("L", L)
    if given.shape[1] != n:
        raise ValueError(f"L takes x of {given.shape[1]} numbers and A of {n}; both act on the same x.")
    given = given.astype(dtype)
    if hasattr(L, "pinv") and hasattr(L, "null"):
        return Seminorm(given, L, L.null.reshape(L.null.shape[0], n).T.astype(dtype), given.shape[0])
    if not given.is_matrix:
        return None
    return Seminorm.of(given.operator, nullity)


def nullity_of(L: Any) -> int:
    """n − rank of a matrix whose numbers are known, with NumPy's cut-off."""
    if isinstance(L, Tracer):
        raise ValueError(
            "L is traced, so that the dimension of its null space is not known; pass nullity=, for example 1 for a "
            "first difference and 2 for a second one."
        )
    known = np.asarray(L, np.float64)
    return L.shape[1] - int(np.linalg.matrix_rank(known)) if np.all(np.isfinite(known)) else 0


def split(L: Float[Array, "p n"], nullity: int) -> tuple[Float[Array, "n r"], Float[Array, "n q"]]:
    """K and W with LW = 0, WᵀW = I and KᵀLᵀLK = I, by one SVD; r = n − q is the rank.

    Derivatives, to every order while the rank stays, are those of one way to move both along with L, which is all
    that a minimiser over Ku + Wc can see:  dW = −K(LK)ᵀ dL W,  dK = −½ K((LK)ᵀ dL K + (dL K)ᵀ LK).
    """
    p, n = L.shape
    rank = n - nullity
    if not 0 <= nullity <= n or rank > p:
        raise ValueError(
            f"nullity is {nullity}; for L of shape {L.shape} it lies between {max(0, n - p)} and {n}, the columns "
            "without a penalty."
        )
    return _split_of(rank)(L)


@cache
def _split_of(rank: int) -> Callable[[Array], tuple[Array, Array]]:
    """One function for each rank, so that other numbers are no other program."""

    def value(L: Array) -> tuple[Array, Array]:
        # LAPACK's SVD never returns when an entry is infinite.
        guarded = jnp.where(jnp.all(jnp.isfinite(L)), L, jnp.nan)
        _, s, Vt = jnp.linalg.svd(guarded, full_matrices=True)
        return Vt[:rank].T / s[None, :rank], Vt[rank:].T

    def rule(primals: Any, tangents: Any) -> tuple[Any, Any]:
        (L,), (dL,) = primals, tangents
        K, W = decomposed(L)
        if not moves(dL):
            return (K, W), (jnp.zeros_like(K), jnp.zeros_like(W))
        LK, dLK = matmul(L, K), matmul(dL, K)
        half = matmul(LK.T, dLK)
        return (K, W), (-0.5 * matmul(K, half + half.T), -matmul(K, matmul(LK.T, matmul(dL, W))))

    decomposed = with_rule(value, rule)
    return decomposed
