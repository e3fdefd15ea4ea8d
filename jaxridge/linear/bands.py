"""One target with a λ for each band: solved in the space of columns or of rows, with all that a search wants to know.

In columns, with s = min(1, λ^(−½)) and e = λs² so that λ = 0 and ∞ are numbers like others, w = s(s XᵀX s + e)⁻¹ s Xᵀy.
In rows, with v = 1/λ, α = (Σ v_g K_g + I)⁻¹ y and w_g = v_g X_gᵀα. Both are Cholesky factorisations, right to the
condition of X squared. They state for a target Q = ‖r‖² + Σλ_g‖w_g‖² and log det(I + Σ v_g K_g), for a band λ_g‖w_g‖²
and

    γ_g = d_g − λ_g tr_g (XᵀX + Λ)⁻¹ = v_g tr K_g (Σ v_h K_h + I)⁻¹

the degrees of freedom in it. Traces are exact, or of random signs z: E zᵀAz = tr A (Hutchinson 1990).
"""

from abc import abstractmethod
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve, solve_triangular

from jaxridge.core.numbers import inner, matmul
from jaxridge.core.types import Array, Float, Scalar

__all__ = ["Columns", "Rows", "Terms"]


class Terms(NamedTuple):
    """What one target says of its λs."""

    misfit: Scalar  # Q
    penalties: Float[Array, " G"]  # λ_g‖w_g‖²
    gamma: Float[Array, " G"]
    logdet: Scalar


class System(eqx.Module):
    """The side of a banded problem that all targets share; nothing in it carries a derivative."""

    @abstractmethod
    def terms(self, lam: Float[Array, " G"], y: Float[Array, " n"], signs: Array | None) -> Terms:
        """`Terms` for one target, traces by columns of random ``signs`` or exactly."""

    @abstractmethod
    def fold(self, mask: Float[Array, " n"], ones: Float[Array, " n"] | None) -> Any:
        """The rows where ``mask`` is 1, about their own mean along ``ones``, and how the others are predicted."""

    @property
    @abstractmethod
    def size(self) -> int:
        """The order of the matrices that are factored."""

    @abstractmethod
    def energy(self) -> Float[Array, " G"]:
        """tr K_g."""


def scales(lam: Float[Array, " G"]) -> tuple[Float[Array, " G"], Float[Array, " G"]]:
    """s = min(1, λ^(−½)) and e = λs²."""
    large = lam > 1
    return jnp.where(large, jax.lax.rsqrt(jnp.where(large, lam, 1.0)), 1.0), jnp.where(large, 1.0, lam)


def inverses(lam: Float[Array, " G"]) -> Float[Array, " G"]:
    """1/λ."""
    return 1.0 / lam


def _traces(L: Float[Array, "m m"], signs: Array | None) -> tuple[Array, Array]:
    """(M, N) with (LLᵀ)⁻¹ = M Nᵀ, exactly or on average: the inverse triangle, or solves beside their signs."""
    if signs is None:
        half = solve_triangular(L, jnp.eye(L.shape[0], dtype=L.dtype), lower=True)
        return half.T, half.T
    return cho_solve((L, True), signs) / signs.shape[1], signs


class Columns(System):
    """XᵀX for tall problems."""

    X: Float[Array, "n d"]
    gram: Float[Array, "d d"]
    bands: Float[Array, "d G"]  # 1 where a column belongs to a band

    @property
    def size(self) -> int:
        return self.X.shape[1]

    def energy(self) -> Float[Array, " G"]:
        return matmul(self.bands.T, jnp.diagonal(self.gram))

    def factor(self, lam: Float[Array, " G"], gram: Float[Array, "d d"]) -> tuple[Array, Array, Array]:
        """The Cholesky factor of sCs + e, with s and e for each column."""
        s, e = (matmul(self.bands, x) for x in scales(lam))
        H = s[:, None] * gram * s[None, :] + jnp.diag(e)
        return jnp.linalg.cholesky(H, symmetrize_input=False), s, e

    def terms(self, lam: Float[Array, " G"], y: Float[Array, " n"], signs: Array | None) -> Terms:
        L, s, e = self.factor(lam, self.gram)
        u = cho_solve((L, True), s * matmul(self.X.T, y))
        r = y - matmul(self.X, s * u)
        penalties = matmul(self.bands.T, e * u * u)
        left, right = _traces(L, signs)
        gamma = matmul(self.bands.T, 1.0 - e * jnp.sum(left * right, axis=1))
        logdet = 2.0 * jnp.sum(jnp.log(jnp.diagonal(L))) - jnp.sum(jnp.log(e))
        return Terms(jnp.sum(r * r) + jnp.sum(penalties), penalties, gamma, logdet)

    def fold(self, mask: Float[Array, " n"], ones: Float[Array, " n"] | None) -> "ColumnFold":
        X = self.X
        if ones is not None:
            share = mask * ones / jnp.sum(mask * ones * ones)
            X = X - ones[:, None] * matmul(share, X)[None, :]
        return ColumnFold(self, X, inner(X, mask[:, None] * X), mask, ones)


class ColumnFold(eqx.Module):
    """Columns about the mean of the rows that are fitted."""

    system: Columns
    X: Float[Array, "n d"]
    gram: Float[Array, "d d"]
    mask: Float[Array, " n"]
    ones: Float[Array, " n"] | None

    def residuals(self, lam: Float[Array, " G"], y: Float[Array, " n"]) -> tuple[Float[Array, " n"], Array]:
        """Those of the rows that are held out, and their derivatives in log λ (n, G): one factor for all."""
        y = about_mean(y, self.mask, self.ones)
        L, s, e = self.system.factor(lam, self.gram)
        u = cho_solve((L, True), s * matmul(self.X.T, self.mask * y))
        moves = cho_solve((L, True), (e * u)[:, None] * self.system.bands)
        out = 1.0 - self.mask
        coefs = jnp.concatenate([u[:, None], moves], axis=1) * s[:, None]
        product = out[:, None] * matmul(self.X, coefs)
        return out * y - product[:, 0], product[:, 1:]

    def held_out(self, lam: Float[Array, " G"], y: Float[Array, "n t"]) -> Float[Array, "n t"]:
        """Residuals of the rows that are held out, of many targets."""
        y = jax.vmap(about_mean, (1, None, None), 1)(y, self.mask, self.ones)
        L, s, _ = self.system.factor(lam, self.gram)
        w = s[:, None] * cho_solve((L, True), s[:, None] * matmul(self.X.T, self.mask[:, None] * y))
        return (1.0 - self.mask)[:, None] * (y - matmul(self.X, w))


class Rows(System):
    """A matrix K_g for each band, for wide problems and for kernels."""

    K: Float[Array, "G n n"]

    @property
    def size(self) -> int:
        return self.K.shape[1]

    def energy(self) -> Float[Array, " G"]:
        return jnp.trace(self.K, axis1=1, axis2=2)

    def total(self, v: Float[Array, " G"]) -> Float[Array, "n n"]:
        """Σ v_g K_g."""
        return jnp.tensordot(v, self.K, 1, precision=jax.lax.Precision.HIGHEST)

    def products(self, M: Float[Array, "n k"]) -> Float[Array, "G n k"]:
        """K_g M."""
        return jax.lax.map(lambda K: matmul(K, M), self.K)

    def terms(self, lam: Float[Array, " G"], y: Float[Array, " n"], signs: Array | None) -> Terms:
        v = inverses(lam)
        A = self.total(v)
        L = jnp.linalg.cholesky(A + jnp.eye(A.shape[0], dtype=A.dtype), symmetrize_input=False)
        alpha = cho_solve((L, True), y)
        penalties = v * matmul(self.products(alpha[:, None])[:, :, 0], alpha)
        left, right = _traces(L, signs)
        gamma = v * jnp.sum(self.products(left) * right[None], axis=(1, 2))
        misfit = jnp.sum(alpha * alpha) + jnp.sum(penalties)
        return Terms(misfit, penalties, gamma, 2.0 * jnp.sum(jnp.log(jnp.diagonal(L))))

    def fold(self, mask: Float[Array, " n"], ones: Float[Array, " n"] | None) -> "RowFold":
        return RowFold(self, mask, ones)


class RowFold(eqx.Module):
    """Kernels about the mean of the rows that are fitted."""

    system: Rows
    mask: Float[Array, " n"]
    ones: Float[Array, " n"] | None

    def residuals(self, lam: Float[Array, " G"], y: Float[Array, " n"]) -> tuple[Float[Array, " n"], Array]:
        """As those of `ColumnFold`."""
        m, v = self.mask, inverses(lam)
        y = about_mean(y, m, self.ones)
        K, L = self._factor(v)
        alpha = m * cho_solve((L, True), m * y)
        back = alpha if self.ones is None else alpha - m * self.ones * _level(self.ones * alpha, m, self.ones)
        change = self._centred(self.system.products(back[:, None])[:, :, 0].T) * v[None, :]
        solved = m[:, None] * cho_solve((L, True), m[:, None] * change)
        out = 1.0 - m
        return out * (y - matmul(K, alpha)), out[:, None] * (change - matmul(K, solved))

    def held_out(self, lam: Float[Array, " G"], y: Float[Array, "n t"]) -> Float[Array, "n t"]:
        """As that of `ColumnFold`."""
        y, m = self._centred(y), self.mask[:, None]
        K, L = self._factor(inverses(lam))
        return (1.0 - m) * (y - matmul(K, m * cho_solve((L, True), m * y)))

    def _centred(self, M: Float[Array, "n k"]) -> Float[Array, "n k"]:
        """JM with J = I − 1(m1)ᵀ/Σm1²."""
        return jax.vmap(about_mean, (1, None, None), 1)(M, self.mask, self.ones)

    def _factor(self, v: Float[Array, " G"]) -> tuple[Array, Array]:
        """JKJᵀ, and the Cholesky factor of its part among the rows that are fitted, and 1."""
        K, m = self._centred(self._centred(self.system.total(v)).T), self.mask
        A = m[:, None] * K * m[None, :] + jnp.eye(K.shape[0], dtype=K.dtype)
        return K, jnp.linalg.cholesky(A, symmetrize_input=False)


def _level(x: Array, mask: Array, ones: Array) -> Scalar:
    """Σx/Σm1²."""
    return jnp.sum(x) / jnp.sum(mask * ones * ones)


def about_mean(y: Float[Array, " n"], mask: Float[Array, " n"], ones: Float[Array, " n"] | None) -> Float[Array, " n"]:
    """y less the mean along ``ones`` of the rows that are fitted."""
    return y if ones is None else y - ones * _level(mask * ones * y, mask, ones)
