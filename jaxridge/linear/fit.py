"""A fitted linear model, and what every factored ridge problem has in common."""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxridge import operators
from jaxridge.core.checks import as_floats, names_of
from jaxridge.core.factored import Factored, Model
from jaxridge.core.numbers import lam_grid, matmul
from jaxridge.core.report import table
from jaxridge.core.results import messages
from jaxridge.core.types import Array, Bool, Float, Lam
from jaxridge.core.verbs import verb
from jaxridge.linear.design import Design

__all__ = ["Fit", "LinearFactored", "predict", "span_of"]


class Fit(Model):
    """A fitted linear model: ``predict(X) = X @ coef + intercept``.

    ``coef`` (d,) or (d, t), ``intercept`` () or (t,), ``lam`` as it was used, ``dof`` (effective degrees of
    freedom, the intercept counted), ``rss`` (weighted residual sum of squares), ``result`` (`RESULTS`, one for
    each target). In a `Path` each has an axis of λ in front.
    """

    coef: Float[Array, "d *t"]
    intercept: Float[Array, "*t"]
    lam: Array
    dof: Array
    rss: Float[Array, "*t"]
    result: Any
    names: tuple[str, ...] | None = eqx.field(static=True, default=None)  # of the columns, if X was a data frame

    @verb()
    def predict(self, X: Any) -> Float[Array, "n *t"]:
        """Predictions (n,) or (n, t) for new rows (n, d); columns of a data frame are found by their names."""
        return predict("X", X, self.coef, self.intercept, self.names)

    def summary(self) -> str:
        """The coefficients by name and the figures of the fit, as text; `jaxridge.ridge_inference` has their errors."""
        if self.coef.ndim > 1 or self.lam.ndim:
            raise ValueError("summary prints one fit; take one λ of a path, and fit one column of y.")
        names = self.names or tuple(f"x{j}" for j in range(self.coef.shape[0]))
        rows = [("intercept", self.intercept), *zip(names, self.coef, strict=True)]
        figures = [("lam", self.lam), ("dof", self.dof), ("rss", self.rss)]
        return "\n".join([table(("", "coef"), rows), "", table(("", ""), figures), *messages(self.result)])


def predict(
    name: str,
    X: Any,
    coef: Float[Array, "d *t"],
    intercept: Float[Array, "*t"],
    names: tuple[str, ...] | None = None,
) -> Float[Array, "n *t"]:
    """X @ coef + intercept, or a ``ValueError`` for columns that are not those of the fit."""
    if operators.is_sparse(X):
        return _of_sparse(name, X, coef, intercept)
    X = in_order(name, X, names)
    if X.shape[1] != coef.shape[0]:
        raise ValueError(
            f"{name} has {X.shape[1]} columns and the model was fitted on {coef.shape[0]}; pass the same ones."
        )
    dtype = np.promote_types(X.dtype, coef.dtype)
    product = matmul(X.astype(dtype), coef.astype(dtype))
    return product + jnp.broadcast_to(intercept.astype(dtype), product.shape)


def _of_sparse(name: str, X: Any, coef: Float[Array, "d *t"], intercept: Float[Array, "*t"]) -> Float[Array, "n *t"]:
    """The same for a sparse X."""
    given = operators.sparse(X) if not isinstance(X, operators.Sparse) else X
    if given.domain.shape != coef.shape[:1]:
        raise ValueError(f"{name} has {given.domain.shape[0]} columns and the model was fitted on {coef.shape[0]}.")
    product = given.mv(coef) if coef.ndim == 1 else jax.vmap(given.mv, 1, 1)(coef)
    return product + jnp.broadcast_to(intercept, product.shape)


def in_order(name: str, X: Any, names: tuple[str, ...] | None) -> Float[Array, "n d"]:
    """Rows as numbers, the columns of a data frame found by their names if the model knows any."""
    given = names_of(X)
    if names is not None and given is not None and given != names:
        lacking = [column for column in names if column not in given]
        if lacking:
            raise ValueError(f"{name} has no column {lacking[0]!r}, which the model was fitted on; it has {given}.")
        X = X[[X.columns[given.index(column)] for column in names]]
    return as_floats(name, X, (2,))


class LinearFactored(Factored):
    """A factored ridge problem on a matrix of features; ``coef`` are those of [X Z]."""

    problem: eqx.AbstractVar[Design]

    model = Fit

    def residual(self, lam: Lam) -> Float[Array, "n t"]:
        return self.problem.y - self.problem.product(self.coef(lam))

    def penalty_of(self, w: Float[Array, "a t"]) -> Float[Array, " t"]:
        """Σⱼ pⱼ wⱼ²."""
        penalty = self.problem.penalty
        return jnp.sum(penalty[:, None] * jnp.square(w[: penalty.shape[0]]), axis=0)

    def fit(self, lam: Lam) -> Fit:
        coef, intercept = self.problem.split(self.coef(lam))
        rss, result = self.problem.squeeze((self.rss(lam), self.result(lam)))
        return Fit(coef, intercept, lam, self.dof_or_nan(lam), rss, result)

    def predict_at(self, name: str, X: Any, lams: Float[Array, "k *t"]) -> Float[Array, "k v t"]:
        X = as_floats(name, X, (2,)).astype(self.problem.X.dtype)

        def at(lam: Array) -> Array:
            coef, intercept = self.problem.split(self.coef(lam))
            return predict(name, X, coef.reshape(coef.shape[0], -1), intercept.reshape(-1))

        return jax.vmap(at)(lams)

    def default_grid(self, count: int = 100) -> Float[Array, " k"]:
        """`lam_grid` over the squares of the singular values."""
        return lam_grid(*self.span(), self.full_rank(), count)

    @abstractmethod
    def full_rank(self) -> Bool[Array, ""]:
        """Whether λ = 0 has one solution, or of a wide problem fits all rows."""


def span_of(s: Float[Array, " r"]) -> tuple[Array, Array]:
    """log₁₀ of the squares of the smallest singular value above rounding and of the largest; 0 where there is none."""
    s = jax.lax.stop_gradient(s)
    largest = jnp.max(s, initial=0.0)
    largest = jnp.where(largest > 0, largest, 1.0)
    smallest = jnp.min(jnp.where(s > 0, s, largest), initial=jnp.inf)
    smallest = jnp.where(jnp.isfinite(smallest), smallest, largest)
    return 2 * jnp.log10(smallest), 2 * jnp.log10(largest)
