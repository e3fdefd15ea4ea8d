"""Problems that an orthonormal transform makes diagonal: every formula is a sum over independent coordinates.

With h the symbol of A, ℓ that of L and z the transform of b, coordinate j of the minimiser of ‖Ax − b‖² + λ‖Lx‖² is
h̄ⱼzⱼ/(|hⱼ|² + λ|ℓⱼ|²). Nothing is factored, so that plain differentiation is right, to every order.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxridge.core.factored import Factored, Measurements, Terms
from jaxridge.core.numbers import lam_grid, poison, safe_divide
from jaxridge.core.results import RESULTS, first_failure
from jaxridge.core.types import Array, Float, Lam
from jaxridge.inverse.fit import TikhonovFit
from jaxridge.linear.fit import span_of

__all__ = ["DiagonalSpectrum", "from_diagonal"]


class DiagonalSpectrum(Factored):
    """A diagonal problem, whose ``coef`` are coordinates; leverages of rows are a ``ValueError``."""

    problem: Measurements
    symbol: Array  # h (n,), real or complex
    squares: Float[Array, " n"]  # |h|²
    penalty: Float[Array, " n"]  # |ℓ|²
    z: Array  # (n, t)

    model = TikhonovFit

    @property
    def missing(self) -> str:
        return "needs the rows of A, which a transformed problem has not; use select.gcv, by dof and residual_dof"

    def _parts(self, lam: Lam) -> tuple[Array, Array]:
        """|h|² and λ|ℓ|², in units that an infinite λ does not leave."""
        lam = jnp.atleast_1d(lam)
        lam = poison(lam, lam >= 0)[None, :]
        infinite = jnp.isinf(lam)
        squares, penalty = self.squares[:, None], self.penalty[:, None]
        damping = jnp.where(infinite, 1.0, lam) * penalty
        seen = jnp.where(infinite & (penalty > 0), 0.0, squares)
        return seen, damping

    def filter_factors(self, lam: Lam) -> Float[Array, "n c"]:
        """f = |h|²/(|h|² + λ|ℓ|²)."""
        seen, damping = self._parts(lam)
        return safe_divide(seen, seen + damping)

    def _kept(self, lam: Lam) -> Float[Array, "n c"]:
        """1 − f, without a subtraction; 1 in a coordinate that is not seen."""
        seen, damping = self._parts(lam)
        unseen = seen + damping == 0
        return jnp.where(unseen, 1.0, safe_divide(damping, seen + damping))

    def _real_coef(self, lam: Lam) -> list[Float[Array, "n t"]]:
        """The real part of x, and the imaginary one where there is one."""
        seen, damping = self._parts(lam)
        gain = safe_divide(jnp.where(seen > 0, 1.0, jnp.zeros_like(damping)), seen + damping)
        h, z = self.symbol[:, None], self.z
        if not jnp.iscomplexobj(h):
            return [h * z * gain]
        # Products of complex numbers would be what a checkpoint keeps, which JAX refuses.
        return [(h.real * z.real + h.imag * z.imag) * gain, (h.real * z.imag - h.imag * z.real) * gain]

    def coef(self, lam: Lam) -> Array:
        """Coordinates of x (n, t)."""
        parts = self._real_coef(lam)
        return jax.lax.complex(*parts) if len(parts) == 2 else parts[0]

    def squared_norm(self, lam: Lam) -> Float[Array, " t"]:
        return jnp.sum(self.penalty[:, None] * sum(jnp.square(part) for part in self._real_coef(lam)), axis=0)

    def rss(self, lam: Lam) -> Float[Array, " t"]:
        """‖(1 − f)z‖²."""
        return jnp.sum(jnp.square(self._kept(lam)) * _square(self.z), axis=0)

    def penalty_of(self, w: Array) -> Float[Array, " t"]:
        """Σ|ℓ|²|w|²."""
        return jnp.sum(self.penalty[:, None] * _square(w), axis=0)

    def dof(self, lam: Lam) -> Lam:
        """Σf."""
        return jnp.sum(self.filter_factors(lam), axis=0).reshape(jnp.shape(lam))

    def residual_dof(self, lam: Lam) -> Lam:
        """Σ(1 − f)."""
        return jnp.sum(self._kept(lam), axis=0).reshape(jnp.shape(lam))

    def logdet(self, lam: Lam) -> Lam:
        """Σ log(1 + |h|²/λ|ℓ|²) over the penalised coordinates."""
        seen, damping = self._parts(lam)
        ratio = jnp.where(damping == 0, jnp.where(seen > 0, jnp.inf, 0.0), seen / jnp.where(damping == 0, 1.0, damping))
        return jnp.sum(jnp.where(self.penalty[:, None] > 0, jnp.log1p(ratio), 0.0), axis=0).reshape(jnp.shape(lam))

    @property
    def singular_values(self) -> Float[Array, " n"]:
        """|h|/|ℓ|, largest first; 0 where it is rounding or without a penalty."""
        ratio = jnp.sqrt(safe_divide(self.squares, self.penalty))
        floor = self.z.shape[0] * jnp.finfo(ratio.dtype).eps * jnp.max(ratio, initial=0.0)
        return jnp.sort(jnp.where(ratio > floor, ratio, 0.0), descending=True)

    def span(self) -> tuple[Array, Array]:
        return span_of(self.singular_values)

    def default_grid(self, count: int = 100) -> Float[Array, " k"]:
        return lam_grid(*self.span(), jnp.all(self.squares > _rounding(self.squares)), count)

    def fit(self, lam: Lam) -> TikhonovFit:
        parts = (self.coef(lam), self.rss(lam), self.norm(lam), self.result(lam))
        x, rss, norm, result = self.problem.squeeze(parts)
        return TikhonovFit(x, lam, rss, norm, result, jnp.zeros_like(rss), jnp.zeros(rss.shape, jnp.int32))

    def result(self, lam: Lam) -> Any:
        """A `RESULTS` item for each target."""
        lam, z = jnp.atleast_1d(lam), jax.lax.stop_gradient(self.z)
        finite = jnp.all(jnp.isfinite(jax.lax.stop_gradient(self.coef(lam))), axis=0)
        good = jnp.all(jnp.isfinite(jax.lax.stop_gradient(self.squares)))
        shared = jnp.any((self.penalty == 0) & (self.squares <= _rounding(self.squares)))
        singular = jnp.any(self.squares <= _rounding(self.squares))
        return first_failure(
            (~(good & jnp.all(jnp.isfinite(z), axis=0)), RESULTS.nonfinite_input),
            (shared, RESULTS.shared_null_space),
            (~(lam >= 0), RESULTS.invalid_lam),
            (~finite, RESULTS.overflow),
            (singular & (lam == 0), RESULTS.rank_deficient),
            shape=z.shape[1:],
        )


def _square(z: Array) -> Float[Array, "n t"]:
    """|z|², with derivative 0 at 0."""
    return jnp.square(z.real) + jnp.square(z.imag) if jnp.iscomplexobj(z) else jnp.square(z)


def _rounding(squares: Float[Array, " n"]) -> Array:
    return jnp.square(squares.shape[0] * jnp.finfo(squares.dtype).eps) * jnp.max(squares, initial=0.0)


def from_diagonal(symbol: Any, z: Any, *, penalty: Any = None) -> DiagonalSpectrum:
    """The problem min ‖diag(h)x − z‖² + λ‖diag(ℓ)x‖², what Fourier and cosine transforms make of convolutions.

    Args:
        symbol: (n,) h, real or complex. z: (n,) or (n, t), the transform of b by an
            orthonormal one, so that norms are those of b.
        penalty: (n,) ℓ, the symbol of L; None is all ones. Coordinates with ℓ = 0 have no penalty.

    >>> import jax.numpy as jnp
    >>> from jaxridge import inverse
    >>> diagonal = inverse.from_diagonal(jnp.array([2.0, 1.0]), jnp.array([4.0, 3.0]))
    >>> print(diagonal.coef(jnp.array(1.0))[:, 0], diagonal.dof(jnp.array(1.0)))
    [1.6 1.5] 1.3
    """
    symbol, z = jnp.asarray(symbol), jnp.asarray(z)
    if symbol.ndim != 1 or z.ndim not in (1, 2) or z.shape[0] != symbol.shape[0]:
        raise ValueError(f"symbol has shape {symbol.shape} and z {z.shape}; pass (n,), and (n,) or (n, t).")
    squares = _square(symbol)
    ell = jnp.ones_like(squares) if penalty is None else _square(jnp.asarray(penalty))
    if ell.shape != symbol.shape:
        raise ValueError(f"penalty has shape {ell.shape}; one number for each of the symbol is needed: {symbol.shape}.")
    z = z.reshape(z.shape[0], -1)
    common = jnp.promote_types(symbol.dtype, z.dtype)
    symbol, z = symbol.astype(common), z.astype(common)
    # Rules ask for the shape and the real dtype of the targets only.
    problem = Measurements(z.real, None, Terms(), jnp.sum(ell == 0, dtype=squares.dtype))
    return DiagonalSpectrum(problem, symbol, squares, ell, z)
