"""Householder's tridiagonal form of a symmetric matrix, and its reflections, on every platform and for export."""

import jax
import jax.numpy as jnp

from jaxridge.core.numbers import matmul, safe_divide, safe_sqrt
from jaxridge.core.types import Array, Float

__all__ = ["rotate", "tridiagonal"]

Form = tuple[Float[Array, "n n"], Float[Array, " n"], Float[Array, " n-1"], Float[Array, " n-1"]]
_PANEL = 64  # reflections that make one product: on CPU 32 to 128 are alike


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


def rotate(packed: Float[Array, "q q"], taus: Float[Array, " q"], x: Float[Array, "q m"], *, transpose: bool) -> Array:
    """Qx or Qᵀx with Q = H₀H₁…, Hₖ = I − τₖvvᵀ and v = (0, …, 0, 1, packed[k+1:, k]); `numpy.linalg.qr`'s raw form.

    By products, a panel of reflections at a time, I − VTVᵀ with T⁻¹ = diag(1/τ) + the part of VᵀV above the diagonal
    (Joffrain et al. 2006, ACM Trans. Math. Softw. 32, 169): 4q²m flops. Many columns pay for Q itself.

    >>> import jax.numpy as jnp
    >>> from jaxridge.linalg import tridiagonal
    >>> packed, tau = jnp.linalg.qr(jnp.array([[3.0, 1.0], [4.0, 2.0]]), mode="raw")
    >>> print(tridiagonal.rotate(packed.T, tau, jnp.array([[3.0], [4.0]]), transpose=True).round(4).T)
    [[-5.  0.]]
    """
    q, m = x.shape
    if m >= q:
        Q = jax.lax.linalg.householder_product(packed, taus)
        return matmul(Q.T if transpose else Q, x)
    width = min(_PANEL, taus.shape[0])
    panels = -(-taus.shape[0] // width)
    spare = panels * width - taus.shape[0]
    V = jnp.tril(packed[:, : taus.shape[0]], -1) + jnp.eye(q, taus.shape[0], dtype=x.dtype)
    V = jnp.pad(V, [(0, 0), (0, spare)]).reshape(q, panels, width).transpose(1, 0, 2)
    taus = jnp.pad(taus, (0, spare)).reshape(panels, width)

    def apply(x: Array, panel: tuple[Array, Array]) -> tuple[Array, None]:
        V, tau = panel
        inverse = jnp.eye(width, dtype=x.dtype) + tau[:, None] * jnp.triu(matmul(V.T, V), 1)
        z = matmul(V.T, x)
        # T = inverse⁻¹·diag(τ)
        if transpose:
            z = jax.lax.linalg.triangular_solve(inverse, z, left_side=True, lower=False, transpose_a=True)
            z = tau[:, None] * z
        else:
            z = jax.lax.linalg.triangular_solve(inverse, tau[:, None] * z, left_side=True, lower=False)
        return x - matmul(V, z), None

    return jax.lax.scan(apply, x, (V, taus), reverse=not transpose)[0]
