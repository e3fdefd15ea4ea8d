"""The Gaussian process behind kernel ridge: variances and covariances at new points."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxridge.core import plan
from jaxridge.core.checks import as_lam, names_of
from jaxridge.core.factored import Solver
from jaxridge.core.numbers import matmul, poison
from jaxridge.core.report import Record, held
from jaxridge.core.types import Array, Float
from jaxridge.core.verbs import verb
from jaxridge.kernel_methods.fit import KernelFactored, KernelFit, points_in_order
from jaxridge.kernel_methods.form import KernelProblem
from jaxridge.kernel_methods.kernel_ridge import chosen_solver, problem_of
from jaxridge.kernels.base import Kernel

__all__ = ["Posterior", "kernel_posterior"]


class Posterior(Record):
    """The Gaussian process behind a fit: f(x) + b given y, for noise variance σ² and prior covariance σ²/λ · k.

    ``noise`` () or (t,) is σ²; ``fit`` the mean.
    """

    fit: KernelFit
    noise: Float[Array, "*t"]
    factored: KernelFactored = eqx.field(repr=False)

    def mean(self, X: Any) -> Float[Array, "m *t"]:
        """The fit itself."""
        return self.fit.predict(X)

    def variance(self, X: Any) -> Float[Array, "m *t"]:
        """Variance of f(x) + b at each new point; that of a new measurement is larger by σ²."""
        return self._variance(points_in_order(X, self.fit.names, self.fit.points))

    def covariance(self, X: Any) -> Float[Array, "m m *t"]:
        """Covariance of f(x) + b between new points."""
        return self._covariance(points_in_order(X, self.fit.names, self.fit.points))

    @eqx.filter_jit
    def _variance(self, X: Any) -> Float[Array, "m *t"]:
        reduced = self._reduced(X, lambda across, solved: jnp.sum(across * solved, axis=0))
        return self._scaled(jnp.maximum(self.fit.kernel.diagonal(X) - reduced, 0.0))

    @eqx.filter_jit
    def _covariance(self, X: Any) -> Float[Array, "m m *t"]:
        return self._scaled(
            self.fit.kernel.matrix(X) - self._reduced(X, lambda across, solved: matmul(across.T, solved))
        )

    def _reduced(self, X: Any, product: Callable[[Array, Array], Array]) -> Array:
        """[k 1] M⁻¹ [k 1]ᵀ: what the measurements take off the prior."""
        factored, lam = held(self, "factored"), self.fit.lam
        problem = factored.problem
        across = self.fit.kernel.matrix(self.fit.points, X)
        ones = jnp.ones(across.shape[1], across.dtype)
        alpha, b = factored.solve(lam, problem.weigh(across), ones)
        reduced = product(across, alpha)
        return reduced + jnp.broadcast_to(b, reduced.shape) if problem.intercept else reduced

    def _scaled(self, covariance: Array) -> Array:
        scale = self.noise / self.fit.lam
        if held(self, "factored").problem.single:
            return covariance * scale
        scale = jnp.broadcast_to(scale, self.fit.intercept.shape)
        return covariance[..., None] * scale.reshape(*(1 for _ in covariance.shape), -1)


@verb()
def kernel_posterior(
    points: Any,
    y: Any,
    lam: Any,
    *,
    kernel: Kernel,
    noise: Any = None,
    intercept: bool = True,
    weights: Any = None,
    solver: Solver | None = None,
) -> Posterior:
    """The posterior of the Gaussian process of which `kernel_ridge` is the mean: its variances at new points.

    f has the prior covariance σ²/λ · k, the intercept a flat prior, measurement i the variance σ²/ωᵢ.

    Args as for `kernel_ridge`, with one λ for all targets; noise: σ², a scalar or (t,); None takes its restricted
    maximum likelihood estimate, λ yᵀα/(n − q).

    Returns a `Posterior` with ``mean``, ``variance`` and ``covariance``, which are differentiable too. ValueError for
    λ or σ² ≤ 0, NaN where they are traced.
    Equals ``sklearn.gaussian_process.GaussianProcessRegressor`` with the kernel σ²/λ · k, alpha = σ², no intercept.
    Rasmussen and Williams (2006), Gaussian Processes for Machine Learning, equations 2.25, 2.26 and 2.41.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> x, y = jnp.array([[0.0], [1.0]]), jnp.array([1.0, -1.0])
    >>> posterior = jxr.kernel_posterior(x, y, 0.1, kernel=jxr.kernels.RBF(), noise=0.1, intercept=False)
    >>> print(posterior.variance(jnp.array([[0.0], [50.0]])).round(3))
    [0.087 1.   ]
    """
    problem = problem_of(points, y, weights, intercept, kernel)
    lam = as_lam(lam, problem.y, problem.single)
    if lam.ndim:
        raise ValueError(f"lam has shape {lam.shape}; a posterior has one lam for all targets, a scalar.")
    noise = None if noise is None else as_lam(noise, problem.y, problem.single, "noise")
    for name, value in (("lam", lam), ("noise", noise)):
        if value is not None and not isinstance(value, Tracer) and not np.all(np.asarray(value) > 0):
            raise ValueError(f"{name} is {value}; a posterior needs a positive one.")
    solver = chosen_solver(solver, problem, 1, plan.KERNEL_MEMORY)
    if solver.matrix_free:
        raise ValueError("A posterior needs a dense solver, such as kernel_methods.Cholesky(), and its memory.")
    found = _kernel_posterior(problem, lam, noise, solver)
    return dataclasses.replace(found, fit=found.fit.with_names(names_of(points)))


@eqx.filter_jit
def _kernel_posterior(problem: KernelProblem, lam: Array, noise: Array | None, solver: Solver) -> Posterior:
    factored = solver.factor(problem)
    fit = factored.fit(lam)
    likely = problem.squeeze(factored.misfit(lam) / (problem.rows() - problem.free))
    variance = likely if noise is None else poison(noise, noise > 0)
    return Posterior(fit, poison(variance, lam > 0), factored)
