"""Householder's tridiagonal form of a symmetric matrix, and its reflections, on every platform and for export."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxridge.core.numbers import matmul, safe_divide, safe_sqrt
from jaxridge.core.types import Array, Float

__all__ = ["Reflections", "reflections", "rotate", "tridiagonal"]

Form = tuple[Float[Array, "n n"], Float[Array, " n"], Float[Array, " n-1"], Float[Array, " n-1"]]
_PANEL = 32  # reflections that make one product: on CPU 32 and 64 are alike


def tridiagonal(K: Float[Array, "n n"]) -> Form:
    """``(packed, d, off, taus)`` with K = QTQᵀ, T of diagonal d and off-diagonal off, Q = H₀H₁…Hₙ₋₂.

    Hₖ = I − τₖvvᵀ with v = (0, …, 0, 1, packed[k+2:, k]) from row k + 1 on. LAPACK's sytrd where there is one, and
    elsewhere (on TPUs) n steps of two products each, bound by memory. (4/3)n³ flops.

    >>> import jax.numpy as jnp
    >>> from jaxridge.linalg import tridiagonal
    >>> _, d, off, _ = tridiagonal.tridiagonal(jnp.array([[4.0, 3.0, 4.0], [3.0, 1.0, 0.0], [4.0, 0.0, 1.0]]))
    >>> print(d, off)
    [4. 1. 1.] [-5.  0.]
    """
    return jax.lax.platform_dependent(K, tpu=_by_products, default=_by_library)


def _by_library(K: Float[Array, "n n"]) -> Form:
    packed, d, off, taus = jax.lax.linalg.tridiagonal(K, lower=True)
    return packed, d, off, taus


def _by_products(K: Float[Array, "n n"]) -> Form:
    n = K.shape[0]
    index = jnp.arange(n)

    def step(left: Array, k: Array) -> tuple[Array, tuple[Array, ...]]:
        column = jnp.where(index > k, left[:, k], 0.0)
        # Only that part is in rounding: what is below the first row that is kept.
        size = jnp.max(jnp.abs(column), initial=0.0)
        unit = jnp.where(size > 0, size, 1.0)
        head, below = left[k + 1, k] / unit, jnp.where(index > k + 1, column, 0.0) / unit
        tail = jnp.sum(jnp.square(below))
        beta = jnp.where(tail > 0, -jnp.copysign(safe_sqrt(jnp.square(head) + tail), head), head)
        tau = jnp.where(tail > 0, safe_divide(beta - head, beta), 0.0)
        v = jnp.where(index == k + 1, 1.0, safe_divide(below, jnp.broadcast_to(head - beta, below.shape)))
        p = tau * matmul(left, v[:, None])[:, 0]
        w = p - 0.5 * tau * jnp.sum(p * v) * v
        left = left - v[:, None] * w[None, :] - w[:, None] * v[None, :]
        return left, (v, unit * beta, tau)

    left, (V, off, taus) = jax.lax.scan(step, K, index[:-1])
    packed = jnp.concatenate([V, jnp.zeros((1, n), K.dtype)]).T
    return packed, jnp.diagonal(left), off, taus


class Reflections(NamedTuple):
    """Q = H₀H₁… in panels of I − VTVᵀ."""

    V: Float[Array, "k n p"]
    T: Float[Array, "k p p"]


def reflections(packed: Float[Array, "n n"], taus: Float[Array, " n-1"]) -> Reflections:
    """Those of a `tridiagonal` form.

    T⁻¹ = diag(1/τ) + the part of VᵀV above the diagonal (Joffrain et al. 2006, ACM Trans. Math. Softw. 32, 169).

    >>> import jax.numpy as jnp
    >>> from jaxridge.linalg import tridiagonal as form
    >>> packed, d, off, taus = form.tridiagonal(jnp.array([[4.0, 3.0, 4.0], [3.0, 1.0, 0.0], [4.0, 0.0, 1.0]]))
    >>> Q = form.reflections(packed, taus)
    >>> print(form.rotate(Q, jnp.array([[1.0], [3.0], [4.0]]), transpose=True).round(4).T)
    [[ 1. -5.  0.]]
    """
    n, count = packed.shape[0], taus.shape[0]
    width = max(min(_PANEL, count), 1)
    panels = max(-(-count // width), 1)
    spare = panels * width - count
    V = jnp.tril(packed[:, :count], -2) + jnp.eye(n, count, -1, dtype=packed.dtype)
    V = jnp.pad(V, [(0, 0), (0, spare)]).reshape(n, panels, width).transpose(1, 0, 2)
    tau = jnp.pad(taus, (0, spare)).reshape(panels, width, 1)
    eye = jnp.broadcast_to(jnp.eye(width, dtype=packed.dtype), (panels, width, width))
    inverse = eye + tau * jnp.triu(matmul(V.transpose(0, 2, 1), V), 1)
    T: Array = jax.lax.linalg.triangular_solve(inverse, tau * eye, left_side=True, lower=False)
    return Reflections(V, T)


def rotate(Q: Reflections, x: Float[Array, "n m"], *, transpose: bool) -> Float[Array, "n m"]:
    """Qx or Qᵀx by products, 4n²m flops; Q itself pays for many columns. A batch of x alone becomes columns."""
    return (_back if transpose else _forth)(*Q, x)


def _rotation(transpose: bool) -> Callable[..., Array]:
    def one(V: Array, T: Array, x: Array) -> Array:
        n, m = x.shape
        if m >= n > 1:
            below = V.transpose(1, 0, 2).reshape(n, -1)[1:, : n - 1]
            H = jax.lax.linalg.householder_product(below, jnp.diagonal(T, axis1=1, axis2=2).reshape(-1)[: n - 1])
            return jnp.concatenate([x[:1], matmul(H.T if transpose else H, x[1:])])

        def apply(x: Array, panel: tuple[Array, Array]) -> tuple[Array, None]:
            V, T = panel
            return x - matmul(V, matmul(T.T if transpose else T, matmul(V.T, x))), None

        return jax.lax.scan(apply, x, (V, T), reverse=not transpose)[0]

    together = jax.custom_batching.custom_vmap(one)

    @together.def_vmap
    def batched(size: int, has: list[bool], V: Array, T: Array, x: Array) -> tuple[Array, bool]:
        if has[0] or has[1]:
            return jax.vmap(one, [0 if each else None for each in has])(V, T, x), True
        turned = together(V, T, jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1))
        return jnp.moveaxis(turned.reshape(x.shape[1], size, x.shape[2]), 1, 0), True

    return together


_forth, _back = _rotation(False), _rotation(True)
