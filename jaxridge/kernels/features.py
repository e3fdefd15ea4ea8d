"""Kernels as features: maps φ with φ(x)·φ(z) ≈ k(x, z), so that ridge on them is kernel ridge, nearly.

Each is an equinox module from points to (n, m), ready for `jaxridge.ridge_path` or `jaxridge.stream`, with live kernel
parameters. Nyström features are exact at their centres; random Fourier features need none.
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.linalg import solve_triangular

from jaxridge.core.checks import as_floats, as_key, as_points
from jaxridge.core.implicit import frozen, moves, with_rule
from jaxridge.core.numbers import matmul, poison
from jaxridge.core.rows import as_kind, count, map_rows, sum_rows, take
from jaxridge.core.types import Array, Bool, Float
from jaxridge.kernels.base import Kernel
from jaxridge.kernels.stationary import RBF, Laplace, Matern12, Matern32, Matern52
from jaxridge.linalg.pivoted_cholesky import Pivots, pivoted_cholesky

__all__ = [
    "FourierFeatures",
    "NystroemFeatures",
    "fourier",
    "leverage",
    "leverage_scores",
    "nystroem",
    "nystroem_at",
    "uniform",
]


# Rows at a time where a kernel is evaluated at few columns.
TALL = 4096


class NystroemFeatures(eqx.Module):
    """φ(x) = L⁻¹k(C, x) with LLᵀ = k(C, C): the projection on the span of the centres C.

    Features beyond the rank of k(C, C), as from repeated centres, are 0. Derivatives in the parameters of the kernel
    are those at fixed centres.
    """

    kernel: Kernel
    centres: Any
    L: Float[Array, "m m"]
    used: Bool[Array, " m"]

    def __call__(self, points: Any) -> Float[Array, "n m"]:
        K = jnp.where(self.used[None, :], self.kernel.matrix(points, self.centres), 0.0)
        return solve_triangular(self._live(), K.T, lower=True).T

    def dual_coef(self, w: Float[Array, "m t"]) -> Float[Array, "m t"]:
        """Coefficients α of the kernel at the centres, Σⱼ αⱼ k(·, cⱼ) = φ(·)·w."""
        w = poison(jnp.where(self.used[:, None], w, 0.0), jnp.all(jnp.isfinite(w), axis=0)[None, :])
        return solve_triangular(self._live(), w, lower=True, trans="T")

    def _live(self) -> Float[Array, "m m"]:
        both = self.used[:, None] & self.used[None, :]
        K = jnp.where(both, self.kernel.matrix(self.centres), jnp.eye(self.used.shape[0], dtype=self.L.dtype))
        return _triangle(K, jax.lax.stop_gradient(self.L))


def _triangle_rule(primals: Any, tangents: Any) -> tuple[Array, Array]:
    """dL = L Φ(L⁻¹ dK L⁻ᵀ), Φ the lower half, diagonal halved."""
    L = _triangle(*primals)
    if not moves(tangents[0]):
        return L, jnp.zeros_like(L)
    inner = solve_triangular(L, solve_triangular(L, tangents[0], lower=True).T, lower=True)
    return L, matmul(L, jnp.tril(inner) - 0.5 * jnp.diag(jnp.diagonal(inner)))


# The Cholesky factor L of K, already found.
_triangle = with_rule(lambda K, L: L, _triangle_rule)


@eqx.filter_jit
def nystroem(
    kernel: Kernel, points: Any, rank: int, *, key: Array, weights: Float[Array, " n"] | None = None
) -> NystroemFeatures:
    """Nyström features at centres that randomly pivoted Cholesky takes from the points; see `linalg.pivoted_cholesky`.

    Args:
        points: n of them. rank: centres, n at most. weights: points of weight 0 are not taken.

    Equals ``sklearn.kernel_approximation.Nystroem`` at the same centres up to a rotation. Williams and Seeger
    (2001), NeurIPS 13, 682.

    >>> import jax, jax.numpy as jnp
    >>> from jaxridge import features, kernels
    >>> x, kernel = jnp.linspace(-1.0, 1.0, 50)[:, None], kernels.RBF(0.5)
    >>> phi = features.nystroem(kernel, x, 12, key=jax.random.key(0))(x)
    >>> print(phi.shape, bool(jnp.max(jnp.abs(phi @ phi.T - kernel.matrix(x))) < 1e-3))
    (50, 12) True
    """
    points = as_points("points", points)
    still_kernel, still_points = frozen((kernel, points))
    diagonal = still_kernel.diagonal(still_points)
    if weights is not None:
        diagonal = jnp.where(weights > 0, diagonal, 0.0)

    def columns(i: Array) -> Array:
        return map_rows(lambda rows: still_kernel.matrix(rows, take(still_points, i)), still_points, TALL)

    return _at(kernel, points, pivoted_cholesky(diagonal, columns, rank, key))


@eqx.filter_jit
def nystroem_at(kernel: Kernel, centres: Any) -> NystroemFeatures:
    """Nyström features at given centres, put in the order of their largest pivots; repeated ones add nothing.

    >>> import jax.numpy as jnp
    >>> from jaxridge import features, kernels
    >>> phi = features.nystroem_at(kernels.RBF(), jnp.array([[0.0], [1.0], [0.0]]))
    >>> print(phi(jnp.array([[0.0]])).round(4))
    [[1. 0. 0.]]
    """
    centres = as_points("centres", centres)
    K = jax.lax.stop_gradient(kernel.matrix(centres))
    return _at(kernel, centres, pivoted_cholesky(jnp.diagonal(K), lambda i: K[:, i], count(centres), None))


def _at(kernel: Kernel, points: Any, pivots: Pivots) -> NystroemFeatures:
    both = pivots.used[:, None] & pivots.used[None, :]
    F = pivots.F[pivots.indices]
    # A point whose k(x, x) is not finite leaves no pivot at all.
    L = poison(jnp.where(both, jnp.tril(F), jnp.eye(both.shape[0], dtype=F.dtype)), jnp.all(jnp.isfinite(F)))
    return NystroemFeatures(kernel, take(points, pivots.indices), L, pivots.used)


def uniform(points: Any, rank: int, *, key: Array) -> Any:
    """That many different points, each as likely as any other: centres for `nystroem_at`."""
    return _draw(points, rank, key)


def _draw(points: Any, rank: int, key: Array, share: Float[Array, " n"] | None = None) -> Any:
    points = as_points("points", points)
    if not 0 < rank <= count(points):
        raise ValueError(f"rank is {rank}; {count(points)} points have from 1 to as many different centres.")
    return take(points, jax.random.choice(as_key(key), count(points), (rank,), replace=False, p=share))


def leverage_scores(
    kernel: Kernel, points: Any, lam: Any, centres: Any, *, weights: Float[Array, " n"] | None = None
) -> Float[Array, " n"]:
    """Ridge leverage scores diag K(K + λ)⁻¹: how much each of n points weighs in its own fit at λ > 0, from 0 to 1.

    Args:
        points: n of them. weights: K is then √ωK√ω.
        centres: m points. The scores are exact when these are all points, and else φ(xᵢ)·(PCP + λ)⁻¹φ(xᵢ), 1 at most,
            with C = Σ φφᵀ over the points and P the projection on the span of the centres, in O(nm²).

    They sum to the degrees of freedom. ValueError for λ ≤ 0, NaN if it is traced. El Alaoui and Mahoney (2015),
    NeurIPS 28, 775.

    >>> import jax.numpy as jnp
    >>> from jaxridge import features, kernels
    >>> x = jnp.array([[0.0], [0.0], [9.0]])
    >>> print([f"{score:.4f}" for score in features.leverage_scores(kernels.RBF(), x, 0.5, x)])
    ['0.4000', '0.4000', '0.6667']
    """
    if not isinstance(lam, Tracer) and not np.all(np.asarray(lam) > 0):
        raise ValueError(f"lam is {lam}; leverage scores need a positive λ, such as one of the grid to be solved.")
    points = as_points("points", points)
    centres = as_kind("centres", as_points("centres", centres), "points", points)
    return _leverage_scores(kernel, points, as_floats("lam", lam, (0,)), centres, weights)


@eqx.filter_jit
def _leverage_scores(
    kernel: Kernel, points: Any, lam: Any, centres: Any, weights: Float[Array, " n"] | None
) -> Float[Array, " n"]:
    phi, rows = nystroem_at(kernel, centres), jnp.ones_like(kernel.diagonal(points)) if weights is None else weights

    def weighed(rows: Any) -> tuple[Array, Array]:
        F = jnp.sqrt(rows[1])[:, None] * phi(rows[0])
        rest = rows[1] * kernel.diagonal(rows[0]) - jnp.sum(jnp.square(F), axis=1)
        return F, jnp.maximum(rest, 0.0)

    def gram(rows: Any, present: Array) -> Array:
        F = jnp.where(present[:, None], weighed(rows)[0], 0.0)
        return matmul(F.T, F)

    G = sum_rows(gram, (points, rows), TALL)
    lam = poison(jnp.asarray(lam, G.dtype), lam > 0)
    L = jnp.linalg.cholesky(G + lam * jnp.eye(G.shape[0], dtype=G.dtype))

    def scores(rows: Any) -> Array:
        F, rest = weighed(rows)
        return jnp.minimum(jnp.sum(jnp.square(solve_triangular(L, F.T, lower=True)), axis=0) + rest / lam, 1.0)

    return map_rows(scores, (points, rows), TALL)


def leverage(
    kernel: Kernel, points: Any, rank: int, lam: Any, *, key: Array, weights: Float[Array, " n"] | None = None
) -> Any:
    """That many different points, drawn in proportion to their `leverage_scores` at λ: centres for `nystroem_at`.

    The scores come from as many centres drawn with equal chances. `nystroem` chooses better where the spectrum of the
    kernel falls fast; this knows what matters at λ.

    >>> import jax, jax.numpy as jnp
    >>> from jaxridge import features, kernels
    >>> x = jnp.zeros((100, 1)).at[7].set(9.0)
    >>> print(bool(jnp.any(features.leverage(kernels.RBF(), x, 4, 1e-3, key=jax.random.key(0)) == 9.0)))
    True
    """
    first, second = jax.random.split(as_key(key))
    scores = leverage_scores(kernel, points, lam, uniform(points, rank, key=first), weights=weights)
    return _draw(points, rank, second, scores / jnp.sum(scores))


class FourierFeatures(eqx.Module):
    """φ(x) = √(1/m) [cos Wx/ℓ, sin Wx/ℓ] with m rows of W drawn from the spectral density of the kernel at ℓ = 1."""

    kernel: RBF | Matern12 | Matern32 | Matern52 | Laplace
    W: Float[Array, "m d"]

    def __call__(self, points: Float[Array, "n d"]) -> Float[Array, "n p"]:
        z = matmul(self.kernel.units(points), self.W.T)
        return jnp.concatenate([jnp.cos(z), jnp.sin(z)], axis=1) / math.sqrt(self.W.shape[0])


_DEGREES = {Matern12: 1.0, Matern32: 3.0, Matern52: 5.0}


def fourier(kernel: Kernel, d: int, size: int, *, key: Array, dtype: Any = None) -> FourierFeatures:
    """Random Fourier features of a RBF, Matérn or Laplace kernel on points of d dimensions; the error is O(size^−½).

    Args:
        d: dimensions of a point. size: features, an even number: cosine and sine of size/2 frequencies.
        dtype: of the frequencies, that of the points; JAX's default float if it is None.

    Frequencies are normal for `RBF`, multivariate t with 2ν degrees of freedom for Matérn ν, and Cauchy in each
    dimension for `Laplace`. Equals ``sklearn.kernel_approximation.RBFSampler`` in law. Rahimi and Recht
    (2007), NeurIPS 20.

    >>> import jax, jax.numpy as jnp
    >>> from jaxridge import features, kernels
    >>> phi = features.fourier(kernels.RBF(), 2, 4000, key=jax.random.key(0))(jnp.array([[0.0, 0.0], [0.6, 0.8]]))
    >>> print(bool(abs(phi[0] @ phi[1] - jnp.exp(-0.5)) < 0.05))
    True
    """
    if size < 2 or size % 2:
        raise ValueError(f"size is {size}; Fourier features come in pairs, so pass an even number from 2 on.")
    dtype = jnp.dtype(dtype or jnp.result_type(float))
    along, across = jax.random.split(as_key(key))
    if isinstance(kernel, Laplace):
        return FourierFeatures(kernel, jax.random.cauchy(along, (size // 2, d), dtype))
    W = jax.random.normal(along, (size // 2, d), dtype)
    if isinstance(kernel, RBF):
        return FourierFeatures(kernel, W)
    if not isinstance(kernel, Matern12 | Matern32 | Matern52):
        raise ValueError(f"{type(kernel).__name__} has no Fourier features here; use features.nystroem.")
    half = 0.5 * _DEGREES[type(kernel)]
    return FourierFeatures(kernel, W / jnp.sqrt(jax.random.gamma(across, half, (size // 2, 1), dtype) / half))
