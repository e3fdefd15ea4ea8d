"""Kernel ridge past the n × n wall, by the exact path of a model on the span of k(·, c) for few centres c.

It solves  min over α, b of  Σᵢ ωᵢ (yᵢ − f(xᵢ) − b)² + λ αᵀKα   with f = Σⱼ αⱼ k(·, cⱼ) and K of the centres: ridge
regression on Nyström features, whose rows are streamed into a triangle.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge.core import plan
from jaxridge.core.checks import as_key, as_points
from jaxridge.core.factored import Solver
from jaxridge.core.implicit import first_order_only, frozen
from jaxridge.core.numbers import filled, matmul, norm_in
from jaxridge.core.rows import as_kind, copies, count, map_rows, sum_rows, take
from jaxridge.core.types import Array, Float, Lam
from jaxridge.kernel_methods.fit import KernelFactored, KernelFit
from jaxridge.kernel_methods.form import KernelProblem, Levelled, levelled
from jaxridge.kernels.features import NystroemFeatures, nystroem, nystroem_at
from jaxridge.linear import stream
from jaxridge.linear.spectrum import Spectrum

TRACES = (
    "points, kernel or weights: degrees of freedom and determinants of a streamed model have derivatives in lam only, "
    "and its scores in lam and y. Differentiate select.holdout instead."
)


class NystroemFactored(KernelFactored):
    """Features of the centres, and the frozen spectrum of all their rows; what needs rows goes over them once more."""

    problem: KernelProblem
    measured: Levelled
    features: NystroemFeatures
    spectrum: Spectrum
    block: int = eqx.field(static=True)  # rows of features at a time

    @property
    def missing(self) -> str:
        return "is not offered by Nystroem; use select.loo, select.gcv or select.holdout(points, y)"

    @property
    def points(self) -> Any:
        return self.features.centres

    def _weights(self) -> Float[Array, " n"]:
        problem = self.problem
        return filled(problem.y.shape[:1], 1.0, problem.y.dtype) if problem.weights is None else problem.weights

    def _of_features(self, lams: Float[Array, "k *t"]) -> tuple[Float[Array, "k m t"], Float[Array, "k t"]]:
        """Coefficients of the features, and the intercept from the level."""
        problem, y = self.problem, self.measured.y
        w = stream.coefficients(
            self.spectrum, self.features, problem.points, y, lams, weights=problem.weights, block=self.block
        )
        return self.spectrum.problem.split(w)

    def coefficients(self, lams: Float[Array, "k *t"]) -> tuple[Float[Array, "k m t"], Float[Array, "k t"]]:
        coef, b = self._of_features(lams)
        return jax.vmap(self.features.dual_coef)(coef), b + self.measured.level[None, :]

    def coef(self, lam: Lam) -> Float[Array, "m t"]:
        return self.coefficients(lam[None])[0][0]

    def intercept(self, lam: Lam) -> Float[Array, " t"]:
        return self._of_features(lam[None])[1][0] + self.measured.level

    def _rss(self, coef: Float[Array, "k m t"], b: Float[Array, "k t"]) -> Float[Array, "k t"]:
        def part(rows: Any, present: Array) -> Array:
            points, y, weights = rows
            fitted = jnp.moveaxis(matmul(self.features(points), coef), 0, 1) + b[None, :, :]
            return jnp.sum(jnp.where(present, weights, 0.0)[:, None, None] * jnp.square(y[:, None, :] - fitted), axis=0)

        return sum_rows(part, (self.problem.points, self.measured.y, self._weights()), self.block)

    def rss(self, lam: Lam) -> Float[Array, " t"]:
        return self._rss(*self._of_features(lam[None]))[0]

    def penalty_of(self, w: Float[Array, "m t"]) -> Float[Array, " t"]:
        """αᵀKα of the centres."""
        return jnp.sum(w * matmul(self.problem.kernel.matrix(self.points).astype(w.dtype), w), axis=0)

    def norm(self, lam: Lam) -> Float[Array, " t"]:
        """‖w‖ of the features, which is √(αᵀKα)."""
        w = self._of_features(lam[None])[0][0]
        return norm_in(w, w)

    def fit(self, lam: Lam) -> KernelFit:
        return self.fits(lam[None]).taken(0)

    def fits(self, lams: Float[Array, "k *t"]) -> KernelFit:
        problem, (coef, b) = self.problem, self._of_features(lams)
        rss, result = self._rss(coef, b), self.measured.coded(jax.vmap(self.spectrum.result)(lams))
        alpha = jax.vmap(self.features.dual_coef)(coef)
        parts = (alpha, b + self.measured.level[None, :], rss, jax.vmap(norm_in)(coef, coef), result)
        alpha, b, rss, norm, result = problem.squeeze(parts)
        dof = jax.vmap(self.dof_or_nan)(lams)
        return KernelFit(problem.kernel, self.points, alpha, b, lams, rss, norm, result, dof)

    def result(self, lam: Lam) -> Any:
        coded = self.measured.coded(jax.vmap(self.spectrum.result)(lam[None]))
        return jax.tree.map(lambda x: x[0], coded)

    def _guarded(self, message: str | None) -> Spectrum:
        """The spectrum, which is frozen, for sums that have derivatives in λ alone."""
        problem = self.problem
        moving = eqx.filter((problem.kernel, problem.points, self._weights()), eqx.is_inexact_array)
        return first_order_only(self.spectrum, moving, message)

    def dof(self, lam: Lam) -> Lam:
        return self._guarded(TRACES).dof(lam)

    def dof_or_nan(self, lam: Lam) -> Lam:
        return self._guarded(None).dof(lam)

    def residual_dof(self, lam: Lam) -> Lam:
        return self._guarded(TRACES).residual_dof(lam)

    def logdet(self, lam: Lam) -> Lam:
        return self._guarded(TRACES).logdet(lam)

    def residual(self, lam: Lam) -> Float[Array, "n t"]:
        coef, b = (x[0] for x in self._of_features(lam[None]))
        rows = self.problem.points, self.measured.y
        return map_rows(lambda rows: rows[1] - matmul(self.features(rows[0]), coef) - b[None, :], rows, self.block)

    def one_minus_leverage(self, lam: Lam) -> Float[Array, "n c"]:
        options = {"weights": self.problem.weights, "block": self.block}
        return 1.0 - stream.leverage(self.spectrum, self.features, self.problem.points, lam, **options)

    def loo_residual(self, lam: Lam) -> Float[Array, "n t"]:
        """rᵢ/(1 − hᵢ), where 1 − hᵢ is a difference, in one pass over the rows."""
        coef, b = (x[0] for x in self._of_features(lam[None]))

        def part(rows: Any) -> Array:
            points, y, weights = rows
            phi = self.features(points)
            r = y - matmul(phi, coef) - b[None, :]
            h = stream.leverages_of(self.spectrum, jnp.atleast_1d(lam), phi, weights)
            return r / jnp.broadcast_to(1.0 - h, r.shape)

        return map_rows(part, (self.problem.points, self.measured.y, self._weights()), self.block)


class Nystroem(Solver):
    """The exact path of the model on the span of k(·, c) for few centres c, its rows streamed into a triangle.

    key: of the centres, drawn by randomly pivoted Cholesky. rank: centres, n at most. centres: given instead.
    memory: bytes for the factor that finds the centres and for blocks of features, see `plan.feature_block`.
    Derivatives of ``dof`` in other things than λ are NaN.
    """

    key: Array | None
    centres: Any
    rank: int = eqx.field(static=True)
    memory: int = eqx.field(static=True)

    takes = KernelProblem
    matrix_free = True

    def __init__(self, key: Array | None = None, *, rank: int = 1000, centres: Any = None, memory: int = 2**31):
        if (key is None) == (centres is None):
            raise ValueError("Nystroem needs a key to draw centres with, or centres, one of both.")
        self.key = as_key(key, optional=True)
        self.centres = None if centres is None else as_points("centres", centres)
        self.rank, self.memory = plan.whole("rank", rank, 1), plan.as_bytes(memory)

    def factor(self, problem: KernelProblem, lams: Any = None) -> NystroemFactored:
        """Features, and the frozen spectrum of their rows."""
        kernel, points, measured = problem.kernel, problem.points, levelled(problem)
        n, t = problem.y.shape
        m = min(self.rank, n) if self.key is not None else count(self.centres)
        some = take(points, jnp.zeros(m, int))
        if self.key is None:
            some = as_kind("centres", self.centres, "points", points)
        alive = copies(lambda rows: kernel.matrix(rows, some), points)
        drawn = 0 if self.key is None else m
        block = plan.feature_block(n, m, t, drawn, problem.y.dtype, self.memory, alive)
        if self.key is None:
            features = nystroem_at(kernel, some)
        else:
            features = nystroem(kernel, points, m, key=self.key, weights=problem.weights)
        still, *rows = frozen((features, points, measured.y, problem.weights))
        options = {"intercept": problem.intercept, "weights": rows[2], "block": block}
        collected = stream.collect(still, rows[0], rows[1], **options)
        return NystroemFactored(problem, measured, features, stream.finish(collected), block)
