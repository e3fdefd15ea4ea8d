"""Kernel ridge past the n × n wall: conjugate gradients on all of it, or the exact path of an approximate model.

Both solve  min over α, b of  Σᵢ ωᵢ (yᵢ − f(xᵢ) − b)² + λ αᵀKα   with f = Σⱼ αⱼ k(·, cⱼ) and K of the cⱼ, for every λ
of a grid: `Iterative` with a coefficient for each point, `Nystroem` with one for each of a few centres.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge.core import plan
from jaxridge.core.implicit import implicit_solution, once_only, still
from jaxridge.core.numbers import matmul, poison, safe_divide
from jaxridge.core.results import RESULTS, override
from jaxridge.core.rows import copies, count, map_rows, same_kind, sum_rows, take
from jaxridge.core.types import Array, Float, Int
from jaxridge.kernel_methods.form import from_level
from jaxridge.kernels.features import TALL, NystroemFeatures, nystroem, nystroem_at
from jaxridge.linalg import conjugate_gradients
from jaxridge.linalg.conjugate_gradients import KernelProduct, LowRank, pivoted_cholesky, unless_failed
from jaxridge.linear import stream
from jaxridge.linear.design import as_key, as_points
from jaxridge.linear.spectrum import Spectrum


class LargePath(eqx.Module):
    """The models of a grid: ``points`` carry the coefficients ``dual_coef`` (k, m, t); ``intercept`` (k, t).

    ``rss`` (k, t); ``dof`` (k,) or (k, t), None where nothing computes it; ``result`` (k, t). ``iterations`` and
    ``residual_norm`` (k, t), relative to the right-hand side, are those of an iterative solver, and None without one.
    """

    points: Any
    dual_coef: Float[Array, "k m t"]
    intercept: Float[Array, "k t"]
    rss: Float[Array, "k t"]
    dof: Array | None
    result: Any
    iterations: Int[Array, "k t"] | None
    residual_norm: Float[Array, "k t"] | None


class LargeSolver(eqx.Module):
    """Solves every λ of a grid without an n × n factor."""

    def path(
        self,
        kernel: Any,
        points: Any,
        y: Float[Array, "n t"],
        lams: Float[Array, "k *t"],
        weights: Float[Array, " n"] | None = None,
        intercept: bool = True,
    ) -> LargePath:
        """The models of the grid, each with a code."""
        y, level = from_level(y, weights, intercept)
        checks = [(RESULTS.nonfinite_kernel, jnp.all(jnp.isfinite(kernel.diagonal(points))))]
        if weights is not None:
            checks.append((RESULTS.nonfinite_input, jnp.all(jnp.isfinite(weights))))
            checks.append((RESULTS.invalid_weights, ~jnp.any(weights < 0) & jnp.any(weights > 0)))
        for _, good in checks:
            y = poison(y, good)
        path = self._path(kernel, points, y, lams, weights, intercept)
        result = path.result
        for failure, good in checks:
            result = override(failure, jnp.broadcast_to(~good, path.intercept.shape), result)
        return eqx.tree_at(lambda path: (path.intercept, path.result), path, (path.intercept + level[None, :], result))

    def _path(
        self,
        kernel: Any,
        points: Any,
        y: Float[Array, "n t"],
        lams: Float[Array, "k *t"],
        weights: Float[Array, " n"] | None,
        intercept: bool,
    ) -> LargePath:
        raise NotImplementedError


class _Measure(eqx.Module):
    """Weights and intercept: B = Ω − ωωᵀ/Σω with an intercept, Ω without, and its root R, B = RRᵀ.

    R = √Ω(I − uuᵀ) with u = √ω/‖√ω‖.
    """

    weights: Float[Array, " n"] | None
    intercept: bool = eqx.field(static=True)

    def mean(self, r: Float[Array, "n c"]) -> Float[Array, " c"]:
        """Σωr / Σω."""
        return jnp.mean(r, axis=0) if self.weights is None else matmul(self.weights, r) / jnp.sum(self.weights)

    def centre(self, r: Float[Array, "n c"]) -> Float[Array, "n c"]:
        """r less its mean, if there is an intercept."""
        return r - self.mean(r)[None, :] if self.intercept else r

    def weigh(self, r: Float[Array, "n c"]) -> Float[Array, "n c"]:
        """ωr."""
        return r if self.weights is None else self.weights[:, None] * r

    def times(self, r: Float[Array, "n c"]) -> Float[Array, "n c"]:
        """Br."""
        return self.weigh(self.centre(r))

    def scaled(self, v: Float[Array, "n c"]) -> Float[Array, "n c"]:
        """√ω v."""
        return v if self.weights is None else jnp.sqrt(self.weights)[:, None] * v

    def project(self, v: Float[Array, "n c"]) -> Float[Array, "n c"]:
        """(I − uuᵀ)v."""
        if not self.intercept:
            return v
        if self.weights is None:
            return v - jnp.mean(v, axis=0)[None, :]
        u = jnp.sqrt(self.weights / jnp.sum(self.weights))
        return v - u[:, None] * matmul(u, v)[None, :]

    def into(self, v: Float[Array, "n c"]) -> Float[Array, "n c"]:
        """Rv."""
        return self.scaled(self.project(v))

    def back(self, v: Float[Array, "n c"]) -> Float[Array, "n c"]:
        """Rᵀv."""
        return self.project(self.scaled(v))


class Iterative(LargeSolver):
    """Conjugate gradients on all λs and targets as one block, preconditioned by a randomly pivoted Cholesky factor.

    tol: a λ is solved when the residual of (RᵀKR + λ)γ = Rᵀy, α = Rγ, is below tol times its right-hand side; None is
    1e-6 in float64 and 1e-4 in float32, which rounding allows.
    rank: columns of the preconditioner, 0 for none; at most the number of points. max_steps: products at most.
    key: of the pivots, ``jax.random.key(0)``; they change the number of steps, never what is solved.
    memory: bytes for the kernel matrix or blocks of it, vectors and preconditioner, see `plan.kernel_blocks`.
    A λ that was not solved has NaN derivatives.
    """

    key: Array
    tol: Array | None
    rank: int = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)
    memory: int = eqx.field(static=True)

    def __init__(self, key: Array, *, tol: Any = None, rank: int = 500, max_steps: int = 500, memory: int = 2**31):
        self.key, self.tol = as_key(key), None if tol is None else jnp.asarray(tol)
        self.rank, self.max_steps = plan.whole("rank", rank), plan.whole("max_steps", max_steps, 1)
        self.memory = plan.as_bytes(memory)

    def _path(
        self,
        kernel: Any,
        points: Any,
        y: Float[Array, "n t"],
        lams: Float[Array, "k *t"],
        weights: Float[Array, " n"] | None,
        intercept: bool,
    ) -> LargePath:
        (n, t), k = y.shape, lams.shape[0]
        rank = min(self.rank, n)
        alive = copies(lambda rows: kernel.matrix(rows, points), points)
        blocks = plan.kernel_blocks(n, k * t, rank, y.dtype, self.memory, alive)
        # A grid of (λ, target) pairs as one row of columns, targets fastest.
        grid = jnp.broadcast_to(lams if lams.ndim == 2 else lams[:, None], (k, t)).reshape(-1)
        measure = _Measure(weights, intercept)
        product = KernelProduct.make(kernel, points, stored=blocks.stored, block=blocks.rows)
        M = _preconditioner(still(product), still(measure), rank, self.key)

        def solved(columns: Int[Array, " c"]) -> tuple[Any, ...]:
            Y, lam = y[:, columns % t], grid[columns]
            alpha, stats = self._solve(product, measure, M, Y, lam)
            alpha = poison(alpha, jnp.isfinite(stats.residual_norm)[None, :])
            rest = Y - product(alpha)
            b = measure.mean(rest) if intercept else jnp.zeros_like(lam)
            rss = jnp.sum(measure.weigh(jnp.square(rest - b[None, :])), axis=0)
            result = override(RESULTS.nonfinite_input, ~jnp.all(jnp.isfinite(Y), axis=0), stats.result(lam))
            return alpha.T, b, rss, result, stats.iterations, stats.residual_norm

        columns = jnp.arange(k * t)
        every = solved(columns) if blocks.together == k * t else map_rows(solved, columns, blocks.together)
        alpha, b, rss, result, iterations, norms = jax.tree.map(lambda x: x.reshape(k, t, *x.shape[1:]), every)
        return LargePath(points, jnp.moveaxis(alpha, 1, 2), b, rss, None, result, iterations, norms)

    def _solve(
        self,
        product: KernelProduct,
        measure: _Measure,
        M: Callable[[Array], conjugate_gradients.Block],
        Y: Float[Array, "n c"],
        lam: Float[Array, " c"],
    ) -> tuple[Float[Array, "n c"], conjugate_gradients.Stats]:
        """α of  B(Kα − y) + λα = 0, which is linear in ω, so that a weight may be 0."""
        seen, frozen, fixed = still((product, measure, lam))
        usual = 1e-6 if Y.dtype == jnp.float64 else 1e-4
        tol = jax.lax.stop_gradient(jnp.asarray(usual if self.tol is None else self.tol, Y.dtype))
        # An infinite λ has the solution 0, whatever multiplies it here.
        damping = jnp.where(jnp.isinf(fixed), 1.0, poison(fixed, fixed >= 0))

        def iterate(b: Array) -> tuple[Array, conjugate_gradients.Stats]:
            gamma, stats = conjugate_gradients.run(
                b, damping, lambda V: frozen.back(seen(frozen.into(V))), M, tol, self.max_steps
            )
            return frozen.project(gamma), stats

        gamma, stats = iterate(jnp.where(jnp.isinf(fixed)[None, :], 0.0, frozen.back(jax.lax.stop_gradient(Y))))

        def tangent(b: Array, solution: Any) -> Array:
            change, own = solution(b)
            return unless_failed(change, b, tol, stats, own)

        def equation(alpha: Array) -> Array:
            return measure.times(product(alpha) - Y) + lam[None, :] * alpha

        forward, backward = _with_unused(seen, frozen, fixed, iterate)
        alpha = implicit_solution(
            equation, frozen.into(gamma), lambda b: tangent(b, forward), lambda b: tangent(b, backward)
        )
        return alpha, stats


def _with_unused(product: KernelProduct, measure: _Measure, lam: Float[Array, " c"], iterate: Any) -> tuple[Any, Any]:
    """b ↦ (BK + λ)⁻¹b for b in the range of its derivatives, where columns sum to 0, and its transpose.

    Both by (RᵀKR + λ)⁻¹; rows of weight zero stand alone in one and follow from the others in the other.
    """
    if measure.weights is None:
        alike = lambda b: iterate(measure.project(b))  # noqa: E731
        return alike, alike
    weights, lam = measure.weights[:, None], lam[None, :]
    root, used = jnp.sqrt(weights), weights > 0

    def divided(a: Array, b: Array) -> Array:
        return safe_divide(a, jnp.broadcast_to(b, a.shape))

    def forward(b: Array) -> tuple[Array, conjugate_gradients.Stats]:
        share = jnp.sum(jnp.where(used, b, 0.0), axis=0, keepdims=True) / jnp.sum(weights) if measure.intercept else 0.0
        alone = divided(jnp.where(used, weights * share, b), lam)
        gamma, stats = iterate(measure.project(divided(b, root)) - measure.back(product(alone)))
        return alone + measure.into(gamma), stats

    def backward(b: Array) -> tuple[Array, conjugate_gradients.Stats]:
        gamma, stats = iterate(measure.back(b))
        rest = divided(b - product(measure.into(gamma)), lam)
        level = measure.mean(rest)[None, :] if measure.intercept else 0.0
        return jnp.where(used, divided(gamma, root) + level, rest), stats

    return forward, backward


def _preconditioner(product: KernelProduct, measure: _Measure, rank: int, key: Array) -> Any:
    """Of RᵀKR, from pivots of √ωK√ω; none for rank 0."""
    if not rank:
        return conjugate_gradients.identity
    kernel, points = product.kernel, product.points

    def columns(i: Int[Array, " b"]) -> Float[Array, "n b"]:
        seen = measure.scaled(map_rows(lambda rows: kernel.matrix(rows, take(points, i)), points, TALL))
        return seen if measure.weights is None else seen * jnp.sqrt(measure.weights[i])[None, :]

    diagonal = measure.weigh(kernel.diagonal(points)[:, None])[:, 0]
    pivots = pivoted_cholesky(diagonal, columns, rank, key)
    return LowRank.of(measure.project(pivots.F))


class Nystroem(LargeSolver):
    """The exact path of the model on the span of k(·, c) for few centres c, its rows streamed into a triangle.

    key: of the centres, drawn by randomly pivoted Cholesky. rank: centres, n at most. centres: given instead.
    memory: bytes for the factor that finds the centres and for blocks of features, see `plan.feature_block`.
    Derivatives of ``dof`` in other things than λ are NaN.
    """

    key: Array | None
    centres: Any
    rank: int = eqx.field(static=True)
    memory: int = eqx.field(static=True)

    def __init__(self, key: Array | None = None, *, rank: int = 1000, centres: Any = None, memory: int = 2**31):
        if (key is None) == (centres is None):
            raise ValueError("Nystroem needs a key to draw centres with, or centres, one of both.")
        self.key = as_key(key, optional=True)
        self.centres = None if centres is None else as_points("centres", centres)
        self.rank, self.memory = plan.whole("rank", rank, 1), plan.as_bytes(memory)

    def _path(
        self,
        kernel: Any,
        points: Any,
        y: Float[Array, "n t"],
        lams: Float[Array, "k *t"],
        weights: Float[Array, " n"] | None,
        intercept: bool,
    ) -> LargePath:
        features, spectrum, block = self.model(kernel, points, y, weights, intercept)
        w = stream.coefficients(spectrum, features, points, y, lams, weights=weights, block=block)
        coef, b = spectrum.design.split(w)
        rows = jnp.ones(y.shape[0], y.dtype) if weights is None else weights
        moving = eqx.filter((kernel, points, rows), eqx.is_inexact_array)
        dof = jax.vmap(once_only(spectrum, moving, None).dof)(lams)

        def part(rows: Any, present: Array) -> Array:
            points, y, weights = rows
            fitted = jnp.moveaxis(matmul(features(points), coef), 0, 1) + b[None, :, :]
            return jnp.sum(jnp.where(present, weights, 0.0)[:, None, None] * jnp.square(y[:, None, :] - fitted), axis=0)

        return LargePath(
            points=features.centres,
            dual_coef=jax.vmap(features.dual_coef)(coef),
            intercept=b,
            rss=sum_rows(part, (points, y, rows), block),
            dof=dof,
            result=jax.vmap(spectrum.result)(lams),
            iterations=None,
            residual_norm=None,
        )

    def model(
        self, kernel: Any, points: Any, y: Float[Array, "n t"], weights: Float[Array, " n"] | None, intercept: bool
    ) -> tuple[NystroemFeatures, Spectrum, int]:
        """Features, the frozen spectrum of their rows, and how many rows to take at a time: for `jaxridge.stream`."""
        n, t = y.shape
        m = min(self.rank, n) if self.key is not None else count(self.centres)
        if self.key is None:
            same_kind("centres", self.centres, "points", points)
        some = take(points, jnp.zeros(m, int)) if self.key is not None else self.centres
        alive = copies(lambda rows: kernel.matrix(rows, some), points)
        block = plan.feature_block(n, m, t, 0 if self.key is None else m, y.dtype, self.memory, alive)
        if self.key is None:
            features = nystroem_at(kernel, self.centres)
        else:
            features = nystroem(kernel, points, m, key=self.key, weights=weights)
        frozen, *rows = still((features, points, y, weights))
        collected = stream.collect(frozen, rows[0], rows[1], intercept=intercept, weights=rows[2], block=block)
        return features, stream.finish(collected), block
