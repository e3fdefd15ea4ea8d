"""The loss that is trained here, ½ mean (Xw − y)², with its gradients on all rows and on a few drawn ones."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge.core.checks import as_floats, as_key
from jaxridge.core.numbers import matmul
from jaxridge.core.results import RESULTS, first_failure
from jaxridge.core.types import Array, Bool, Float, Scalar

__all__ = ["Regression", "as_batch", "as_count", "as_keys", "with_arrays"]


class Regression(eqx.Module):
    """½ mean (Xw − y)², of which the ridge penalty λ‖w‖² is the gradient (λ/n)w."""

    X: Float[Array, "n d"]
    y: Float[Array, " n"]

    @classmethod
    def of(cls, X: Any, y: Any) -> "Regression":
        """The loss of a table, or a ``ValueError`` for shapes that cannot be meant."""
        X, y = as_floats("X", X, (2,)), as_floats("y", y, (1,))
        if y.shape[0] != X.shape[0] or X.size == 0:
            raise ValueError(f"X has shape {X.shape} and y {y.shape}; pass (n, d) and (n,) with n and d at least 1.")
        return cls(X, y.astype(X.dtype))

    def residual(self, w: Float[Array, " d"]) -> Float[Array, " n"]:
        """Xw − y."""
        return matmul(self.X, w) - self.y

    def gradient(self, w: Float[Array, " d"]) -> Float[Array, " d"]:
        """Xᵀ(Xw − y)/n."""
        return matmul(self.X.T, self.residual(w)) / self.X.shape[0]

    def sampled(self, w: Float[Array, " d"], key: Array, batch: int | None) -> Float[Array, " d"]:
        """The gradient on ``batch`` rows drawn with replacement; on all of them for None."""
        if batch is None:
            return self.gradient(w)
        rows = jax.random.randint(key, (batch,), 0, self.X.shape[0])
        return Regression(self.X[rows], self.y[rows]).gradient(w)

    def moments(self, w: Float[Array, " d"], batch: int) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
        """Mean and variance of the gradients that ``sampled`` draws."""
        rows = self.X * self.residual(w)[:, None]
        mean = jnp.mean(rows, axis=0)
        return mean, jnp.mean((rows - mean[None]) ** 2, axis=0) / batch

    def curvature(self) -> Scalar:
        """The largest eigenvalue of XᵀX/n."""
        R = jnp.linalg.qr(self.X, mode="r")
        finite = jnp.all(jnp.isfinite(R))
        return jnp.linalg.norm(jnp.where(finite, R, 0.0), ord=2) ** 2 / self.X.shape[0]

    @property
    def finite(self) -> Bool[Array, ""]:
        """Whether X and y are all numbers."""
        return jnp.all(jnp.isfinite(self.X)) & jnp.all(jnp.isfinite(self.y))

    def judged(self, *cases: tuple[Array, Any]) -> Any:
        """The first failure: numbers that are none, then the cases."""
        return first_failure((~self.finite, RESULTS.nonfinite_input), *cases, shape=())


def with_arrays(record: Any, dtype: Any) -> Any:
    """The same record with arrays for numbers, so that other numbers are no other program; functions stay."""
    return jax.tree.map(lambda x: jnp.asarray(x, dtype) if eqx.is_array_like(x) else x, record)


def as_batch(batch: Any) -> int | None:
    """A number of rows to draw, or None for all."""
    return None if batch is None else as_count("batch", batch, 1, " or None for all of them at once")


def as_count(name: str, value: Any, least: int, instead: str = "") -> int:
    """A whole number, which sets the length of a loop."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} is {value!r}; pass a whole number >= {least}{instead}.")
    return value


def as_keys(key: Any, batch: int | None) -> Array:
    """A key where rows are drawn; without drawing none is needed."""
    return jax.random.key(0) if batch is None and key is None else as_key(key)
