"""Differences of neighbours as penalties, with their null space and pseudo-inverse."""

import functools
import math
from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from jaxridge.core.types import Array, Float
from jaxridge.operators.base import Operator, image_shape, known, kronecker, structure
from jaxridge.operators.blur import Diagonalised, in_basis


class Difference(Operator):
    """Differences of neighbours; see `difference`. It brings its null space and its pseudo-inverse."""

    order: int = eqx.field(static=True)
    periodic: bool = eqx.field(static=True)

    def apply(self, x: Array) -> Array:
        return jnp.concatenate([self._of_axis(x, axis).ravel() for axis in range(x.ndim)])

    def _of_axis(self, x: Array, axis: int) -> Array:
        if not self.periodic:
            return jnp.diff(x, self.order, axis)
        ahead = jnp.roll(x, -1, axis) - x
        return ahead if self.order == 1 else ahead - jnp.roll(ahead, 1, axis)

    @property
    def null(self) -> Float[Array, "q ..."]:
        """An orthonormal basis of the x with L x = 0, (q, *shape): constants, or products of straight lines."""
        lines = [_null_lines(n, self.order, self.periodic) for n in self.domain.shape]
        basis = lines[0] if len(lines) == 1 else np.einsum("ai,bj->abij", *lines).reshape(-1, *self.domain.shape)
        return jnp.asarray(basis, self.domain.dtype)

    def gram(self) -> Diagonalised | None:
        """LᵀL in the basis of periodic blurs, or of reflective ones for free first differences; else None.

        Its symbol is Σₐ (2 sin(πkₐ/n))²ᵒ along the axes a with o the order, and half that angle in the cosine basis.
        """
        if not self.periodic and self.order == 2:
            return None
        whole = 1.0 if self.periodic else 0.5
        waves = [(2 * np.sin(whole * np.pi * np.arange(n) / n)) ** (2 * self.order) for n in self.domain.shape]
        symbol = functools.reduce(np.add.outer, waves)
        return in_basis(jnp.asarray(symbol, self.domain.dtype), self.periodic)

    def pinv(self, u: Float[Array, " m"]) -> Array:
        """L⁺u, the x of least norm among those with the least ‖L x − u‖ (Moore and Penrose), linear in u (m,).

        A signal: running sums, O(n). An image: the singular value decompositions D = U S Vᵀ of the differences along
        either axis diagonalise LᵀL, the sum of both; products with n × n matrices, O(n³). Equals
        ``numpy.linalg.pinv(L.as_matrix()) @ u``. Lynch, Rice and Thomas (1964), Numer. Math. 6, 185.
        """
        if u.shape != self.codomain.shape:
            raise ValueError(f"u has shape {u.shape}; give differences, {self.codomain.shape}.")
        return self._pinv_signal(u) if len(self.domain.shape) == 1 else self._pinv_image(u)

    def _pinv_signal(self, u: Array) -> Array:
        if self.periodic and self.order == 2:
            # The second difference at i is the first of first ones at i − 1.
            u = jnp.roll(u, -1)
        for _ in range(self.order):
            sums = jnp.cumsum(u - jnp.mean(u))[:-1] if self.periodic else jnp.cumsum(u)
            u = jnp.concatenate([jnp.zeros(1, u.dtype), sums])
        null = self.null.astype(u.dtype)
        return u - jnp.tensordot(jnp.tensordot(null, u, 1), null, 1)

    def _pinv_image(self, u: Array) -> Array:
        """V c with c = Σₐ Sₐ (Uₐᵀ ⊗ Vᵀ) uₐ / Σ S²: the square of a small s is never divided by."""
        (U0, s0, V0), (U1, s1, V1) = (_singular(n, self.order, self.periodic) for n in self.domain.shape)
        squares = np.add.outer(s0**2, s1**2)
        inverse = np.divide(1.0, squares, out=np.zeros_like(squares), where=squares > 0)
        down, across = jnp.split(u, [U0.shape[0] * V1.shape[0]])
        c0 = kronecker((U0.T, V1.T), down.reshape(U0.shape[0], V1.shape[0]))
        c1 = kronecker((V0.T, U1.T), across.reshape(V0.shape[0], U1.shape[0]))
        gain0, gain1 = (jnp.asarray(s * inverse, u.dtype) for s in (s0[:, None], s1[None, :]))
        return kronecker((V0, V1), gain0 * c0 + gain1 * c1)


def _null_lines(n: int, order: int, periodic: bool) -> np.ndarray:
    """Orthonormal rows: the constant, and the straight line where second differences do not see it."""
    constant = np.full((1, n), n**-0.5)
    if order == 1 or periodic:
        return constant
    line = np.arange(n) - (n - 1) / 2
    return np.vstack([constant, line / np.linalg.norm(line)])


@functools.lru_cache(maxsize=16)
def _singular(n: int, order: int, periodic: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """U (m, n), s (n,), V (n, n) of the differences along one axis, with s = 0 and no U in the null space."""
    D = np.diff(np.eye(n), order, axis=0)
    if periodic:
        ahead = np.roll(np.eye(n), -1, axis=0) - np.eye(n)
        D = ahead if order == 1 else ahead - np.roll(ahead, 1, axis=0)
    rank = n - len(_null_lines(n, order, periodic))
    U, s, Vt = np.linalg.svd(D)
    embed = np.eye(len(s), n) * (np.arange(n) < rank)
    return U @ embed, s @ embed, Vt.T


def difference(
    shape: Any, order: int = 1, *, boundary: Literal["free", "periodic"] = "free", dtype: Any = None
) -> Difference:
    """First or second differences L of neighbours, to penalise ‖L x‖² = Σ (x[i+1] − x[i])² and the like.

    Args:
        shape: of x. One axis, n: L x is (n − order,) with free ends and (n,) periodic. Two axes: L x is one vector, the
            differences down the columns and then those along the rows, either raveled.
        order: 1, x[i+1] − x[i]; 2, x[i+1] − 2x[i] + x[i−1]. An image has no mixed second differences in it, so that
            free ones leave 1, i, j and i·j unpenalised.
        boundary: ``"free"``, only neighbours that exist; ``"periodic"``, the last is a neighbour of the first.
        dtype: of ``L.null`` and ``L.as_matrix()``; JAX's default float when None.

    Besides, ``L.null`` is its null space, ``L.pinv(u)`` L⁺u and ``L.gram()`` LᵀL in a fast basis. Equals
    ``numpy.diff``. ValueError for another order or boundary, or an axis not longer than the order.

    >>> import jax.numpy as jnp
    >>> from jaxridge import operators
    >>> L = operators.difference(4, 2)
    >>> L.mv(jnp.arange(4.0) ** 2).tolist(), L.null.shape
    ([2.0, 2.0], (2, 4))
    """
    shape = image_shape(shape, (1, 2))
    known("boundary", boundary, ("free", "periodic"))
    if order not in (1, 2):
        raise ValueError(f"order is {order}; choose 1 or 2, and compose two operators for more.")
    if min(shape) <= order:
        raise ValueError(f"shape is {shape}; differences of order {order} need more than {order} points on each axis.")
    lost = 0 if boundary == "periodic" else order
    count = sum(math.prod(n - lost * (a == axis) for a, n in enumerate(shape)) for axis in range(len(shape)))
    return Difference(structure(shape, dtype), structure([count], dtype), order, boundary == "periodic")
