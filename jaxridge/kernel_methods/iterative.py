"""Kernel ridge past the n × n wall, by conjugate gradients on every λ and target of a grid as one block.

It solves  min over α, b of  Σᵢ ωᵢ (yᵢ − f(xᵢ) − b)² + λ αᵀKα   with f = Σⱼ αⱼ k(·, xⱼ), by products with K alone.

With B = Ω − ωωᵀ/Σω for an intercept, Ω without, and its root R = √Ω(I − uuᵀ), u = √ω/‖√ω‖, B = RRᵀ, the system is
(RᵀKR + λ)γ = Rᵀy and α = Rγ.
"""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge.core import plan
from jaxridge.core.checks import as_key
from jaxridge.core.factored import Solver
from jaxridge.core.implicit import frozen, linear_root
from jaxridge.core.numbers import matmul, norm_in, poison, safe_divide
from jaxridge.core.results import RESULTS, override
from jaxridge.core.rows import copies, map_rows, take
from jaxridge.core.types import Array, Float, Int, Lam
from jaxridge.kernel_methods.fit import KernelFactored, KernelFit
from jaxridge.kernel_methods.form import KernelProblem, Levelled, levelled
from jaxridge.kernels.features import TALL
from jaxridge.kernels.product import KernelProduct
from jaxridge.linalg import conjugate_gradients
from jaxridge.linalg.conjugate_gradients import unless_failed
from jaxridge.linalg.pivoted_cholesky import LowRank, pivoted_cholesky


def _times(problem: KernelProblem, r: Float[Array, "n c"]) -> Float[Array, "n c"]:
    """Br."""
    return problem.weigh(problem.centre(r))


def _scaled(problem: KernelProblem, v: Float[Array, "n c"]) -> Float[Array, "n c"]:
    """√ω v."""
    return v if problem.weights is None else jnp.sqrt(problem.weights)[:, None] * v


def _project(problem: KernelProblem, v: Float[Array, "n c"]) -> Float[Array, "n c"]:
    """(I − uuᵀ)v."""
    if not problem.intercept:
        return v
    if problem.weights is None:
        return v - jnp.mean(v, axis=0)[None, :]
    u = jnp.sqrt(problem.weights / jnp.sum(problem.weights))
    return v - u[:, None] * matmul(u, v)[None, :]


def _into(problem: KernelProblem, v: Float[Array, "n c"]) -> Float[Array, "n c"]:
    """Rv."""
    return _scaled(problem, _project(problem, v))


def _back(problem: KernelProblem, v: Float[Array, "n c"]) -> Float[Array, "n c"]:
    """Rᵀv."""
    return _project(problem, _scaled(problem, v))


class _Solved(eqx.Module):
    """What a block of conjugate gradients gives for a grid."""

    alpha: Float[Array, "k n t"]
    intercept: Float[Array, "k t"]
    rss: Float[Array, "k t"]
    norm: Float[Array, "k t"]
    result: Any
    iterations: Int[Array, "k t"]
    residual_norm: Float[Array, "k t"]


class IterativeFactored(KernelFactored):
    """A kernel, its preconditioner and how much is computed at a time: a solve for whatever is asked."""

    problem: KernelProblem
    solver: "Iterative"
    measured: Levelled
    product: KernelProduct
    preconditioner: Any
    together: int = eqx.field(static=True)  # columns

    direct: ClassVar[bool] = False

    @property
    def missing(self) -> str:
        return (
            "is not to be had from an iterative solution, and an approximation of it would be another score; use "
            "select.holdout(points, y), or solver=Nystroem(key), whose model has leverages"
        )

    def coef(self, lam: Lam) -> Float[Array, "n t"]:
        return self._solved(lam[None]).alpha[0]

    def intercept(self, lam: Lam) -> Float[Array, " t"]:
        return self._solved(lam[None]).intercept[0]

    def rss(self, lam: Lam) -> Float[Array, " t"]:
        return self._solved(lam[None]).rss[0]

    def residual(self, lam: Lam) -> Float[Array, "n t"]:
        solved = self._solved(lam[None])
        return self.problem.y - self.product(solved.alpha[0]) - solved.intercept

    def norm(self, lam: Lam) -> Float[Array, " t"]:
        return self._solved(lam[None]).norm[0]

    def result(self, lam: Lam) -> Any:
        return jax.tree.map(lambda x: x[0], self._solved(lam[None]).result)

    def penalty_of(self, w: Float[Array, "n t"]) -> Float[Array, " t"]:
        """αᵀKα."""
        return jnp.sum(w * self.product(w), axis=0)

    def coefficients(self, lams: Float[Array, "k *t"]) -> tuple[Float[Array, "k n t"], Float[Array, "k t"]]:
        solved = self._solved(lams)
        return solved.alpha, solved.intercept

    def fit(self, lam: Lam) -> KernelFit:
        return self.fits(lam[None]).taken(0)

    def fits(self, lams: Float[Array, "k *t"]) -> KernelFit:
        solved, problem = self._solved(lams), self.problem
        names = ("alpha", "intercept", "rss", "norm", "result", "iterations", "residual_norm")
        alpha, b, rss, norm, result, *how = problem.squeeze(tuple(getattr(solved, name) for name in names))
        return KernelFit(problem.kernel, self.points, alpha, b, lams, rss, norm, result, None, *how)

    def without_rows(self) -> None:
        """The matrix and its preconditioner are too large to keep."""

    def _solved(self, lams: Float[Array, "k *t"]) -> _Solved:
        """Every λ and target of a grid, as one row of columns, targets fastest."""
        problem, y = self.problem, self.measured.y
        k, t = lams.shape[0], y.shape[1]
        grid = jnp.broadcast_to(lams if lams.ndim == 2 else lams[:, None], (k, t)).reshape(-1)

        def solved(columns: Int[Array, " c"]) -> tuple[Any, ...]:
            Y, lam = y[:, columns % t], grid[columns]
            alpha, stats = self._solve(Y, lam)
            alpha = poison(alpha, jnp.isfinite(stats.residual_norm)[None, :])
            seen = self.product(alpha)
            rest = Y - seen
            b = problem.mean(rest) if problem.intercept else jnp.zeros_like(lam)
            rss = jnp.sum(problem.weigh(jnp.square(rest - b[None, :])), axis=0)
            result = override(RESULTS.nonfinite_input, ~jnp.all(jnp.isfinite(Y), axis=0), stats.result(lam))
            return alpha.T, b, rss, norm_in(alpha, seen), result, stats.iterations, stats.residual_norm

        columns = jnp.arange(k * t)
        every = solved(columns) if self.together >= k * t else map_rows(solved, columns, self.together)
        alpha, b, rss, norm, result, *how = jax.tree.map(lambda x: x.reshape(k, t, *x.shape[1:]), every)
        b, result = b + self.measured.level[None, :], self.measured.coded(result)
        return _Solved(jnp.moveaxis(alpha, 1, 2), b, rss, norm, result, *how)

    def _solve(
        self,
        Y: Float[Array, "n c"],
        lam: Float[Array, " c"],
    ) -> tuple[Float[Array, "n c"], conjugate_gradients.Stats]:
        """α of  B(Kα − y) + λα = 0, which is linear in ω, so that a weight may be 0."""
        problem, product, M, solver = self.problem, self.product, self.preconditioner, self.solver
        seen, still, fixed = frozen((product, problem, lam))
        usual = 1e-6 if Y.dtype == jnp.float64 else 1e-4
        tol = jax.lax.stop_gradient(jnp.asarray(usual if solver.tol is None else solver.tol, Y.dtype))
        # An infinite λ has the solution 0 with derivative 0, whatever stands for it here.
        infinite = jnp.isinf(fixed)
        fixed, lam = (jnp.where(infinite, 1.0, x) for x in (fixed, lam))
        damping = poison(fixed, fixed >= 0)

        def iterate(b: Array) -> tuple[Array, conjugate_gradients.Stats]:
            gamma, stats = conjugate_gradients.run(
                b, damping, lambda V: _back(still, seen(_into(still, V))), M, tol, solver.max_steps
            )
            return _project(still, gamma), stats

        gamma, stats = iterate(jnp.where(infinite[None, :], 0.0, _back(still, jax.lax.stop_gradient(Y))))

        def tangent(b: Array, solution: Any) -> Array:
            change, own = solution(b)
            return unless_failed(change, b, tol, stats, own)

        def equation(alpha: Array) -> Array:
            return _times(problem, product(alpha) - Y) + lam[None, :] * alpha

        forward, backward = _with_unused(seen, still, fixed, iterate)
        alpha = linear_root(
            equation, _into(still, gamma), lambda b: tangent(b, forward), lambda b: tangent(b, backward)
        )
        return jnp.where(infinite[None, :], 0.0, alpha), stats


def _with_unused(
    product: KernelProduct, problem: KernelProblem, lam: Float[Array, " c"], iterate: Any
) -> tuple[Any, Any]:
    """b ↦ (BK + λ)⁻¹b for b in the range of its derivatives, where columns sum to 0, and its transpose.

    Both by (RᵀKR + λ)⁻¹; rows of weight zero stand alone in one and follow from the others in the other.
    """
    if problem.weights is None:
        alike = lambda b: iterate(_project(problem, b))  # noqa: E731
        return alike, alike
    weights, lam = problem.weights[:, None], lam[None, :]
    root, used = jnp.sqrt(weights), weights > 0

    def divided(a: Array, b: Array) -> Array:
        return safe_divide(a, jnp.broadcast_to(b, a.shape))

    def forward(b: Array) -> tuple[Array, conjugate_gradients.Stats]:
        share = jnp.sum(jnp.where(used, b, 0.0), axis=0, keepdims=True) / jnp.sum(weights) if problem.intercept else 0.0
        alone = divided(jnp.where(used, weights * share, b), lam)
        gamma, stats = iterate(_project(problem, divided(b, root)) - _back(problem, product(alone)))
        return alone + _into(problem, gamma), stats

    def backward(b: Array) -> tuple[Array, conjugate_gradients.Stats]:
        gamma, stats = iterate(_back(problem, b))
        rest = divided(b - product(_into(problem, gamma)), lam)
        level = problem.mean(rest)[None, :] if problem.intercept else 0.0
        return jnp.where(used, divided(gamma, root) + level, rest), stats

    return forward, backward


def _preconditioner(product: KernelProduct, problem: KernelProblem, rank: int, key: Array) -> Any:
    """Of RᵀKR, from pivots of √ωK√ω; none for rank 0."""
    if not rank:
        return conjugate_gradients.identity
    kernel, points = product.kernel, product.points

    def columns(i: Int[Array, " b"]) -> Float[Array, "n b"]:
        seen = _scaled(problem, map_rows(lambda rows: kernel.matrix(rows, take(points, i)), points, TALL))
        return seen if problem.weights is None else seen * jnp.sqrt(problem.weights[i])[None, :]

    diagonal = problem.weigh(kernel.diagonal(points)[:, None])[:, 0]
    pivots = pivoted_cholesky(diagonal, columns, rank, key)
    return LowRank.of(_project(problem, pivots.F))


class Iterative(Solver):
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

    takes = KernelProblem
    matrix_free = True

    def __init__(self, key: Array, *, tol: Any = None, rank: int = 500, max_steps: int = 500, memory: int = 2**31):
        self.key, self.tol = as_key(key), None if tol is None else jnp.asarray(tol)
        self.rank, self.max_steps = plan.whole("rank", rank), plan.whole("max_steps", max_steps, 1)
        self.memory = plan.as_bytes(memory)

    def factor(self, problem: KernelProblem, lams: Float[Array, "k *t"] | None = None) -> IterativeFactored:
        """The preconditioner; nothing is solved yet. As many columns are made room for as ``lams`` have."""
        (n, t), k = problem.y.shape, 1 if lams is None else lams.shape[0]
        kernel, points, rank = problem.kernel, problem.points, min(self.rank, n)
        alive = copies(lambda rows: kernel.matrix(rows, points), points)
        blocks = plan.kernel_blocks(n, k * t, rank, problem.y.dtype, self.memory, alive)
        product = KernelProduct.make(kernel, points, stored=blocks.stored, block=blocks.rows)
        M = _preconditioner(frozen(product), frozen(problem), rank, self.key)
        return IterativeFactored(problem, self, levelled(problem), product, M, blocks.together)
