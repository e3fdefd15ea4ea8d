"""The spectrum of a kernel matrix: min over α of ‖y − Kα‖² + λ αᵀKα, every λ from one eigendecomposition."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge._implicit import attach
from jaxridge._numerics import cutoff, exponent, matmul, poison, power_of_two, safe_divide
from jaxridge._result import RESULTS, first_failure
from jaxridge._types import Array, Bool, Float, Lam, Scalar


class KernelSpectrum(eqx.Module):
    """K = U diag(e) Uᵀ, frozen, beside the live K and y. Methods take one λ, or one for each target.

    α = U z/(e+λ), residual λα, leverages hᵢ = 1 − λGᵢᵢ and leave-one-out residuals αᵢ/Gᵢᵢ with G = (K+λI)⁻¹.
    Derivatives are those of (K + λI)α = y and (K + λI)G = I, to every order; the second costs a solve with n
    columns at each λ that is differentiated.
    """

    K: Float[Array, "n n"]
    y: Float[Array, "n t"]
    U: Float[Array, "n n"]
    e: Float[Array, " n"]  # in units of scale
    scale: Scalar
    cutoff: Scalar
    finite: Bool[Array, ""]
    definite: Bool[Array, ""]

    def dual_coef(self, lam: Lam) -> Float[Array, "n t"]:
        """α; predictions are the kernel between new points and the old ones, times α."""
        return _dual(self, lam)

    def residual(self, lam: Lam) -> Float[Array, "n t"]:
        """y − Kα = λα, the part of y in the null space of K also at λ = 0."""
        return _residual(self, lam)

    def rss(self, lam: Lam) -> Float[Array, " t"]:
        """‖y − Kα‖²."""
        return jnp.sum(jnp.square(self.residual(lam)), axis=0)

    def squared_norm(self, lam: Lam) -> Float[Array, " t"]:
        """αᵀKα, the squared norm in the space of the kernel."""
        alpha = self.dual_coef(lam)
        return jnp.sum(alpha * matmul(self.K, alpha), axis=0)

    def dof(self, lam: Lam) -> Lam:
        """tr K(K+λI)⁻¹."""
        return _dof(self, lam)

    def residual_dof(self, lam: Lam) -> Lam:
        """n − dof = λ tr G."""
        return jnp.sum(self.one_minus_leverage(lam), axis=0).reshape(jnp.shape(lam))

    def one_minus_leverage(self, lam: Lam) -> Float[Array, "n c"]:
        """1 − hᵢ = λGᵢᵢ."""
        return _one_minus_hat(self, lam)

    def loo_residual(self, lam: Lam) -> Float[Array, "n t"]:
        """yᵢ minus the prediction of the fit without it: αᵢ/Gᵢᵢ."""
        return _loo_residual(self, lam)

    def logdet(self, lam: Lam) -> Lam:
        """log det(I + K/λ)."""
        return _logdet(self, lam)

    def result(self, lam: Lam) -> Any:
        """A `RESULTS` item for each target."""
        lam = jnp.atleast_1d(lam)
        below = (jnp.min(self.e, initial=jnp.inf) <= self.cutoff) & (lam / self.scale < self.cutoff)
        return first_failure(
            (~(self.finite & jnp.all(jnp.isfinite(self.y), axis=0)), RESULTS.nonfinite_input),
            (~self.definite, RESULTS.indefinite_kernel),
            (~(lam >= 0), RESULTS.invalid_lam),
            (below, RESULTS.unresolved),
            shape=(self.y.shape[1],),
        )


def from_kernel(K: Float[Array, "n n"], y: Float[Array, "n t"]) -> KernelSpectrum:
    """Factor a symmetric positive semidefinite kernel matrix by ``eigh``; no intercept.

    Eigenvalues below rounding, n·eps·e₁, are taken as 0; one below minus that makes the matrix indefinite,
    which comes back as a code with NaN.

    >>> import jax.numpy as jnp
    >>> from jaxridge import spectrum
    >>> kernel = spectrum.from_kernel(2.0 * jnp.eye(3), jnp.ones((3, 1)))
    >>> print(kernel.dual_coef(jnp.array(2.0))[:, 0], kernel.dof(jnp.array(2.0)))
    [0.25 0.25 0.25] 1.5
    """
    if K.ndim != 2 or K.shape[0] != K.shape[1]:
        raise ValueError(f"K has shape {K.shape}; a kernel matrix is square, (n, n).")
    if y.ndim != 2 or y.shape[0] != K.shape[0]:
        raise ValueError(f"y has shape {y.shape}; targets for a kernel matrix of {K.shape[0]} points are (n, t).")
    still = jax.lax.stop_gradient(K)
    size = jnp.max(jnp.abs(still))
    scale = power_of_two(exponent(size), K.dtype)
    finite = jnp.isfinite(size)
    e, U = jnp.linalg.eigh(poison(still / scale, finite), symmetrize_input=True)
    floor = cutoff(jnp.abs(e), K.shape)
    definite = jnp.min(e, initial=0.0) >= -floor
    e = poison(jnp.where(e > floor, e, jnp.where(jnp.isnan(e), e, 0.0)), definite)
    return KernelSpectrum(K, y, U, e, scale, floor, finite, definite)


def _seen(spectrum: KernelSpectrum, lam: Lam) -> Float[Array, "n c"]:
    """1/(e+λ); 0 for a direction that neither sees, so that λ = 0 gives the minimum-norm solution."""
    lam = jnp.atleast_1d(lam)
    total = spectrum.e[:, None] + poison(lam, lam >= 0)[None, :] / spectrum.scale
    return safe_divide(jnp.ones_like(total), total) / spectrum.scale


def _carrier(spectrum: KernelSpectrum, lam: Lam, rhs: Float[Array, "n t"]) -> Float[Array, "n t"]:
    """(K + λI)⁻¹ rhs, live."""
    lam = jnp.atleast_1d(lam)
    U, seen = jax.lax.stop_gradient((spectrum.U, _seen(spectrum, lam)))

    def solve(_: Any, b: Array) -> Array:
        return matmul(U, seen * matmul(U.T, b))

    return jax.lax.custom_linear_solve(lambda x: matmul(spectrum.K, x) + lam[None, :] * x, rhs, solve, symmetric=True)


def _dual_value(spectrum: KernelSpectrum, lam: Lam) -> Array:
    return matmul(spectrum.U, _seen(spectrum, lam) * matmul(spectrum.U.T, spectrum.y))


def _kept(spectrum: KernelSpectrum, lam: Lam, least: Array) -> Float[Array, "n c"]:
    """(least + λ)/(e + λ): 1 − f for least = 0; 1 where neither e nor λ is anything, and for infinite λ."""
    lam = jnp.atleast_1d(lam)
    lam = poison(lam, lam >= 0)[None, :] / spectrum.scale
    e, infinite = spectrum.e[:, None], jnp.isinf(lam)
    lam = jnp.where(infinite, 0.0, lam)
    unseen = (e + lam == 0) | infinite
    return jnp.where(unseen, 1.0, (least + lam) / jnp.where(unseen, 1.0, e + lam))


def _residual_value(spectrum: KernelSpectrum, lam: Lam) -> Array:
    return matmul(spectrum.U, _kept(spectrum, lam, jnp.zeros_like(spectrum.scale)) * matmul(spectrum.U.T, spectrum.y))


def _one_minus_hat_value(spectrum: KernelSpectrum, lam: Lam) -> Array:
    return matmul(jnp.square(spectrum.U), _kept(spectrum, lam, jnp.zeros_like(spectrum.scale)))


def _dof_value(spectrum: KernelSpectrum, lam: Lam) -> Lam:
    return jnp.sum(spectrum.e[:, None] * spectrum.scale * _seen(spectrum, lam), axis=0).reshape(jnp.shape(lam))


def _dof_live(spectrum: KernelSpectrum, lam: Lam) -> Lam:
    return -jnp.sum(lam * _diagonal_live(spectrum, lam), axis=0).reshape(jnp.shape(lam))


def _loo_value(spectrum: KernelSpectrum, lam: Lam) -> Array:
    """λα/(λG) with the common factor λ replaced by e_min + λ, which leaves both as good at λ = 0 as anywhere."""
    kept = _kept(spectrum, lam, jnp.min(spectrum.e, initial=jnp.inf))
    numerator = matmul(spectrum.U, kept * matmul(spectrum.U.T, spectrum.y))
    return numerator / jnp.broadcast_to(matmul(jnp.square(spectrum.U), kept), numerator.shape)


def _diagonal_live(spectrum: KernelSpectrum, lam: Lam) -> Array:
    eye = jnp.eye(spectrum.K.shape[0], dtype=spectrum.K.dtype)
    return jax.vmap(lambda lam: jnp.diagonal(_carrier(spectrum, lam, eye)), out_axes=1)(jnp.atleast_1d(lam))


def _logdet_value(spectrum: KernelSpectrum, lam: Lam) -> Array:
    shape, lam, e = jnp.shape(lam), jnp.atleast_1d(lam)[None, :], spectrum.e[:, None] * spectrum.scale
    ratio = jnp.where((e == 0) & (lam == 0), 0.0, e / lam)
    return jnp.sum(jnp.log1p(ratio), axis=0).reshape(shape)


def _logdet_live(spectrum: KernelSpectrum, lam: Lam) -> Array:
    n = spectrum.K.shape[0]

    def one(lam: Array) -> Array:
        return jnp.linalg.slogdet(jnp.eye(n, dtype=lam.dtype) + spectrum.K / lam)[1]

    return jax.vmap(one)(jnp.atleast_1d(lam)).reshape(jnp.shape(lam))


def _dual_live(spectrum: KernelSpectrum, lam: Lam) -> Array:
    return _carrier(spectrum, lam, spectrum.y)


def _loo_live(spectrum: KernelSpectrum, lam: Lam) -> Array:
    alpha = _dual_live(spectrum, lam)
    return alpha / jnp.broadcast_to(_diagonal_live(spectrum, lam), alpha.shape)


_dual = attach(_dual_value, _dual_live)
_residual = attach(_residual_value, lambda spectrum, lam: jnp.atleast_1d(lam)[None, :] * _dual_live(spectrum, lam))
_one_minus_hat = attach(
    _one_minus_hat_value, lambda spectrum, lam: jnp.atleast_1d(lam)[None, :] * _diagonal_live(spectrum, lam)
)
_dof = attach(_dof_value, _dof_live)
_loo_residual = attach(_loo_value, _loo_live)
_logdet = attach(_logdet_value, _logdet_live)
