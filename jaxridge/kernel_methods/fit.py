"""A fitted kernel model, and what every factored kernel ridge problem has in common."""

from abc import abstractmethod
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge.core import plan
from jaxridge.core.checks import as_points, names_of
from jaxridge.core.factored import Factored, Model
from jaxridge.core.numbers import log_spaced, matmul
from jaxridge.core.rows import as_kind, count, map_rows
from jaxridge.core.types import Array, Float, Lam
from jaxridge.core.verbs import verb
from jaxridge.kernel_methods.form import KernelProblem
from jaxridge.kernels.base import Kernel
from jaxridge.linear.fit import in_order

__all__ = ["KernelFactored", "KernelFit", "default_grid", "predict", "span_of"]


class KernelFit(Model):
    """A fitted kernel model: ``predict(X) = kernel(X, points) @ dual_coef + intercept``.

    ``points`` are those that carry coefficients: all that were fitted, or the centres of `Nystroem`.
    ``dual_coef`` (n,) or (n, t), ``intercept`` () or (t,), ``lam`` as it was used, ``rss`` (weighted residual sum of
    squares), ``norm`` √(αᵀKα), that of the function in the space of the kernel: how far from smooth it is, falling
    as λ grows; ``result`` (`RESULTS`, one for each target). In a `Path` each of these has an axis of λ in front, and
    ``dof`` is there where the solver has it; ``iterations`` and ``residual_norm`` () or (t,), relative to the
    right-hand side, are those of an iterative solver.
    """

    kernel: Kernel
    points: Any
    dual_coef: Float[Array, "n *t"]
    intercept: Float[Array, "*t"]
    lam: Array
    rss: Float[Array, "*t"]
    norm: Float[Array, "*t"]
    result: Any
    dof: Array | None = None
    iterations: Array | None = None
    residual_norm: Array | None = None
    names: tuple[str, ...] | None = eqx.field(static=True, default=None)  # of the columns, if points were a data frame

    shared: ClassVar[tuple[str, ...]] = ("kernel", "points")

    @verb()
    def predict(self, X: Any, *, memory: int = plan.MEMORY) -> Float[Array, "m *t"]:
        """Predictions (m,) or (m, t) for new points, in blocks of rows whose kernel takes ``memory`` bytes.

        Columns of a data frame are found by their names.
        """
        X = points_in_order(X, self.names, self.points)
        return predict("X", self.kernel, X, self.points, self.dual_coef, self.intercept, memory)


def points_in_order(X: Any, names: tuple[str, ...] | None, points: Any) -> Any:
    """X as the model's points are, the columns of a data frame found by their names if the model knows any."""
    return as_kind("X", as_points("X", X) if names_of(X) is None else in_order("X", X, names), "the model", points)


@eqx.filter_jit
def predict(
    name: str, kernel: Kernel, X: Any, points: Any, dual_coef: Array, intercept: Array, memory: int
) -> Float[Array, "m *t"]:
    """k(X, points) @ dual_coef + intercept, or a ``ValueError`` for points of another kind."""
    X = as_kind(name, as_points(name, X), "the model", points)
    n = count(points)
    flat, b = dual_coef.reshape(n, -1), intercept.reshape(1, -1)
    block = max(1, plan.as_bytes(memory) // max(2 * n * flat.dtype.itemsize, 1))
    out = map_rows(lambda rows: matmul(kernel.matrix(rows, points).astype(flat.dtype), flat) + b, X, block)
    return out.reshape(count(X), *dual_coef.shape[1:])


class KernelFactored(Factored):
    """A factored kernel ridge problem; ``coef`` are the dual coefficients α of `points`."""

    problem: eqx.AbstractVar[KernelProblem]

    model = KernelFit

    @property
    def points(self) -> Any:
        """What carries the coefficients."""
        return self.problem.points

    @abstractmethod
    def intercept(self, lam: Lam) -> Float[Array, " t"]:
        """b = Σω(y − Kα)/Σω, or 0."""

    def dual_coef(self, lam: Lam) -> Float[Array, "n t"]:
        """α, another name of ``coef``."""
        return self.coef(lam)

    def fit(self, lam: Lam) -> KernelFit:
        parts = (self.coef(lam), self.intercept(lam), self.rss(lam), self.norm(lam), self.result(lam))
        alpha, b, rss, norm, result = self.problem.squeeze(parts)
        return KernelFit(self.problem.kernel, self.points, alpha, b, lam, rss, norm, result)

    def coefficients(self, lams: Float[Array, "k *t"]) -> tuple[Float[Array, "k n t"], Float[Array, "k t"]]:
        """α and b at every λ."""
        return jax.vmap(lambda lam: (self.coef(lam), self.intercept(lam)))(lams)

    def predict_at(self, name: str, X: Any, lams: Float[Array, "k *t"]) -> Float[Array, "k v t"]:
        alpha, b = self.coefficients(lams)
        columns = jnp.moveaxis(alpha, 0, 1)
        flat = columns.reshape(columns.shape[0], -1)
        out = predict(name, self.problem.kernel, X, self.points, flat, b.reshape(-1), plan.MEMORY)
        return jnp.moveaxis(out.reshape(-1, *columns.shape[1:]), 1, 0)

    def solve(self, lam: Lam, a: Float[Array, "n m"], s: Float[Array, " m"]) -> tuple[Array, Array]:
        """α, b of Ω(Kα + b) + λα = a, 1ᵀα = s: what posterior covariances are made of."""
        raise self.unavailable("a posterior")

    def span(self) -> tuple[Array, Array]:
        return span_of(self.problem)

    def default_grid(self) -> Float[Array, " k"]:
        return default_grid(self.problem)


def span_of(problem: KernelProblem) -> tuple[Array, Array]:
    """The trace bounds the largest eigenvalue from above; below (10 + √n)·eps of it all is rounding."""
    diagonal = problem.kernel.diagonal(problem.points).astype(problem.y.dtype)
    trace = jax.lax.stop_gradient(jnp.sum(diagonal))
    trace = jnp.where(trace > 0, trace, 1.0)
    eps = (10.0 + diagonal.shape[0] ** 0.5) * float(jnp.finfo(diagonal.dtype).eps)
    return jnp.log10(trace * eps), jnp.log10(trace)


def default_grid(problem: KernelProblem, count: int = 100) -> Float[Array, " k"]:
    """Log-spaced λ from what the dtype resolves to a hundred times the trace of the kernel matrix, and infinity.

    Infinity is the model without a kernel. Zero would add nothing: where a kernel matrix has eigenvalues that this
    dtype tells from 0 the least λ fits them like λ = 0, and elsewhere λ = 0 is not resolved.
    """
    low, high = span_of(problem)
    grid = log_spaced(low, high + 2, count - 1)
    return jnp.concatenate([grid, jnp.full(1, jnp.inf, grid.dtype)])
