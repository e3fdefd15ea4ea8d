"""A Tikhonov problem that is another problem after a change of variables, whose exits it has."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp

from jaxridge import operators
from jaxridge.core.numbers import matmul
from jaxridge.core.results import RESULTS, override
from jaxridge.core.types import Array, Bool, Float, Lam
from jaxridge.inverse.diagonal import DiagonalSpectrum
from jaxridge.inverse.fit import TikhonovFactored, TikhonovProblem
from jaxridge.inverse.maps import columns
from jaxridge.linear.spectrum import Spectrum


class Within(TikhonovFactored):
    """The exits of ``inner``, with x from its coefficients."""

    inner: eqx.AbstractVar[Any]

    @property
    def missing(self) -> str:
        return self.inner.missing

    @property
    def singular_values(self) -> Float[Array, " r"]:
        """Generalised singular values of A and L, largest first."""
        return self.inner.singular_values

    def span(self) -> tuple[Array, Array]:
        return self.inner.span()

    def default_grid(self) -> Float[Array, " k"]:
        return self.inner.default_grid()

    def residual(self, lam: Lam) -> Float[Array, "m t"]:
        return self.inner.residual(lam)

    def rss(self, lam: Lam) -> Float[Array, " t"]:
        return self.inner.rss(lam)

    def squared_norm(self, lam: Lam) -> Float[Array, " t"]:
        return self.inner.squared_norm(lam)

    def misfit(self, lam: Lam) -> Float[Array, " t"]:
        return self.inner.misfit(lam)

    def norm(self, lam: Lam) -> Float[Array, " t"]:
        return self.inner.norm(lam)

    def dof(self, lam: Lam) -> Lam:
        return self.inner.dof(lam)

    def residual_dof(self, lam: Lam) -> Lam:
        return self.inner.residual_dof(lam)

    def logdet(self, lam: Lam) -> Lam:
        return self.inner.logdet(lam)

    def loo_residual(self, lam: Lam) -> Float[Array, "m t"]:
        return self.inner.loo_residual(lam)

    def one_minus_leverage(self, lam: Lam) -> Float[Array, "m c"]:
        return self.inner.one_minus_leverage(lam)

    def fold(self, partition: Any) -> "_Folds":
        return _Folds(self.inner.fold(partition))

    def by_product(self) -> "Within":
        return eqx.tree_at(lambda within: within.inner, self, self.inner.by_product())

    def exact(self) -> "Within":
        return eqx.tree_at(lambda within: within.inner, self, self.inner.exact())


class _Folds(eqx.Module):
    """Those of the inner problem."""

    folds: Any

    def losses(self, factored: Within, lam: Lam, loss: Callable[[Array], Array], frozen: bool) -> Float[Array, "f t"]:
        return self.folds.losses(factored.inner, lam, loss, frozen)


class DirectFactored(Within):
    """In the coordinates of the standard form, x = x₀ + L⁺u + Wc."""

    problem: TikhonovProblem
    inner: Spectrum

    def coef(self, lam: Lam) -> Float[Array, "n t"]:
        w, norm, x_ref = self.inner.coef(lam), self.problem.norm, self.problem.x_ref
        x = columns(norm.times, w[: norm.size]) + matmul(norm.null, w[norm.size :])
        return x if x_ref is None else x + x_ref[:, None]

    def result(self, lam: Lam) -> Any:
        shared = jnp.broadcast_to(self.inner.factor.checks.finite & self._shared(), self.problem.y.shape[1:])
        return override(RESULTS.shared_null_space, shared, self.inner.result(lam))

    def _shared(self) -> Bool[Array, ""]:
        """Whether A sees less of the null space of L than rounding."""
        W = self.problem.norm.null
        if not W.shape[1]:
            return jnp.array(False)
        A = self.problem.A.matrix()
        least = jnp.min(jnp.linalg.svd(matmul(A, W), compute_uv=False))
        return least <= max(A.shape) * jnp.finfo(W.dtype).eps * jnp.linalg.norm(A)


class DiagonalFactored(Within):
    """In the coordinates of a transform."""

    problem: TikhonovProblem
    inner: DiagonalSpectrum
    A: operators.Diagonalised

    def coef(self, lam: Lam) -> Float[Array, "n t"]:
        shape, x_ref = self.A.symbol.shape, self.problem.x_ref
        x = columns(lambda z: self.A.synthesise(z.reshape(shape)).ravel(), self.inner.coef(lam))
        return x if x_ref is None else x + x_ref[:, None]

    def result(self, lam: Lam) -> Any:
        return self.inner.result(lam)
