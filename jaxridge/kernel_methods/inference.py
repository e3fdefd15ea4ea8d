"""What is known of a kernel ridge function: standard errors, bias, bands, and the figures of the fit.

The estimator is linear in y: α = Ay and f̂(x) = S(x)y (letters of `spectrum`), so for errors of variance σ²/ωᵢ

    Cov α = σ² A Ω⁻¹ A      Var f̂(x) = σ² Σᵢ Sᵢ(x)²/ωᵢ      E f̂(x) − f(x) = S(x)f − f(x)      σ̂² = rss/(n − dof).

Bands are those of E f̂(x), the smoothed function; ``bias`` is what the formula gives with f̂ in the place of f,
−S(x)r for residuals r. A Gaussian process has wider bands, which count the bias as chance: `kernel_posterior`.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax.numpy as jnp

from jaxridge import select
from jaxridge.core import plan
from jaxridge.core.checks import as_lam, names_of
from jaxridge.core.factored import Solver
from jaxridge.core.implicit import without_derivatives
from jaxridge.core.numbers import matmul
from jaxridge.core.report import Record, brief, held, table
from jaxridge.core.results import messages
from jaxridge.core.types import Array, Float, Scalar
from jaxridge.core.verbs import verb
from jaxridge.kernel_methods.fit import KernelFit, points_in_order
from jaxridge.kernel_methods.form import KernelProblem
from jaxridge.kernel_methods.kernel_ridge import chosen_solver, problem_of
from jaxridge.kernel_methods.spectrum import KernelSpectrum
from jaxridge.kernels.base import Kernel
from jaxridge.optimize.uncertainty import student
from jaxridge.select.information import rows_of_figures

__all__ = ["KernelInference", "kernel_ridge_inference"]

NO_DERIVATIVES = (
    "kernel_ridge_inference has no derivatives: use jaxridge.kernel_ridge for those of predictions, "
    "jaxridge.kernel_posterior for those of a variance."
)


class KernelInference(Record):
    """A fit with its errors and figures, () or (t,): σ̂ ``sigma``, ``dof``, ``residual_dof`` n − dof, ``r2``,
    ``adjusted_r2``, ``rmse``, ``aic``, ``bic``. Printing it gives the table."""

    fit: KernelFit
    sigma: Float[Array, "*t"]
    dof: Scalar
    residual_dof: Scalar
    r2: Float[Array, "*t"]
    adjusted_r2: Float[Array, "*t"]
    rmse: Float[Array, "*t"]
    aic: Float[Array, "*t"]
    bic: Float[Array, "*t"]
    factored: KernelSpectrum = eqx.field(repr=False)

    def covariance(self) -> Float[Array, "*t n n"]:
        """σ̂² A Ω⁻¹ A of the dual coefficients, (n, n) or (t, n, n)."""
        problem = held(self, "factored").problem
        root = jnp.ones(problem.y.shape[0], problem.y.dtype) if problem.weights is None else jnp.sqrt(problem.weights)
        C, _ = held(self, "factored").solve(self.fit.lam, jnp.diag(root), jnp.zeros_like(root))
        return jnp.multiply.outer(jnp.square(self.sigma), matmul(C, C.T))

    def standard_error(self, X: Any) -> Float[Array, "m *t"]:
        """That of f̂(x) + b at new points."""
        return jnp.multiply.outer(self._spread(X), self.sigma)

    def bias(self, X: Any) -> Float[Array, "m *t"]:
        """What smoothing takes off f̂ at new points, were it the truth."""
        problem = held(self, "factored").problem
        return problem.squeeze(-matmul(self._smoother(X).T, held(self, "factored").residual(self.fit.lam)))

    def confidence(self, X: Any, level: float = 0.95) -> tuple[Array, Array, Array]:
        """Predictions for new points, and the band of their mean: (m,) or (m, t) each."""
        return self._band(X, level, self._spread(X))

    def prediction(self, X: Any, level: float = 0.95) -> tuple[Array, Array, Array]:
        """Predictions for new points, and the band of a new measurement of weight 1 there."""
        return self._band(X, level, jnp.hypot(self._spread(X), 1.0))

    def summary(self, level: float = 0.95) -> str:
        """The figures of one target, and the standard errors at the points as far as they go."""
        if self.sigma.ndim:
            raise ValueError("summary prints one target; call kernel_ridge_inference on one column of y.")
        errors = self.standard_error(self.fit.points)
        rows = [("lam", self.fit.lam), ("norm", self.fit.norm), *rows_of_figures(self)]
        rows += [("std err of f, median", jnp.median(errors)), ("std err of f, largest", jnp.max(errors))]
        rows += [(f"quantile of {level:g}", student(level, self.residual_dof))]
        return "\n".join([brief(self.fit.kernel), "", table(("", ""), rows), *messages(self.fit.result)])

    def __str__(self) -> str:
        return repr(self) if self.sigma.ndim else self.summary()

    def _smoother(self, X: Any) -> Float[Array, "n m"]:
        """S(x), a column for each point."""
        return _smoother(held(self, "factored"), self.fit.lam, points_in_order(X, self.fit.names, self.fit.points))

    def _spread(self, X: Any) -> Float[Array, " m"]:
        """√(Σᵢ Sᵢ²/ωᵢ); a row of weight 0 has no part in S."""
        S, weights = self._smoother(X), held(self, "factored").problem.weights
        if weights is not None:
            S = jnp.where((weights > 0)[:, None], S / jnp.sqrt(jnp.where(weights > 0, weights, 1.0))[:, None], 0.0)
        return jnp.linalg.norm(S, axis=0)

    def _band(self, X: Any, level: float, spread: Float[Array, " m"]) -> tuple[Array, Array, Array]:
        centre = self.fit.predict(X)
        half = student(level, self.residual_dof) * jnp.multiply.outer(spread, self.sigma)
        return centre, centre - half, centre + half


@verb()
def kernel_ridge_inference(
    points: Any,
    y: Any,
    lam: Any,
    *,
    kernel: Kernel,
    intercept: bool = True,
    weights: Any = None,
    solver: Solver | None = None,
) -> KernelInference:
    """Kernel ridge regression at one λ with standard errors, bias, bands and the figures of a fit.

    Args as for `kernel_ridge`, with one λ for all targets and a dense solver. Weights are precisions: the variance of
    row i is σ²/ωᵢ.

    Returns a `KernelInference`. λ is taken as given: one that was chosen on the same data makes bands shorter than they
    say. Derivatives raise ValueError.
    With a linear kernel it equals `jaxridge.ridge_inference`. Hastie and Tibshirani (1990), Generalized Additive
    Models, section 3.8.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> x = jnp.arange(6.0)[:, None]
    >>> y = jnp.array([1.0, 2.9, 5.2, 7.1, 8.8, 11.0])
    >>> found = jxr.kernel_ridge_inference(x, y, 1.0, kernel=jxr.kernels.Linear())
    >>> print(found.sigma.round(3), found.standard_error(x[:2]).round(3), found.bias(x[:2]).round(3))
    0.272 [0.19  0.144] [0.254 0.153]
    """
    problem = problem_of(points, y, weights, intercept, kernel)
    lam = as_lam(lam, problem.y, problem.single)
    if lam.ndim:
        raise ValueError("lam has one number for each target; call kernel_ridge_inference for one target at a time.")
    solver = chosen_solver(solver, problem, 1, plan.KERNEL_MEMORY)
    if solver.matrix_free:
        raise ValueError(
            "kernel_ridge_inference needs a dense solver, such as kernel_methods.Cholesky(), and its memory."
        )
    found = _inference(problem, lam, solver)
    return dataclasses.replace(found, fit=found.fit.with_names(names_of(points)))


@eqx.filter_jit
def _smoother(factored: KernelSpectrum, lam: Scalar, X: Any) -> Float[Array, "n m"]:
    problem = factored.problem
    across = problem.kernel.matrix(problem.points, X).astype(problem.y.dtype)
    return factored.solve(lam, problem.weigh(across), jnp.ones(across.shape[1], across.dtype))[0]


@eqx.filter_jit
def _inference(problem: KernelProblem, lam: Scalar, solver: Solver) -> KernelInference:
    problem, lam = without_derivatives((problem, lam), NO_DERIVATIVES)
    factored = solver.factor(problem)
    return KernelInference(factored.fit(lam), **select.figures(factored, lam), factored=factored)
