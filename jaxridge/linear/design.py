"""A user's ridge problem, checked: arrays, static terms, and the live record through which derivatives flow.

The problem is   min over w, c of   Σᵢ ωᵢ (yᵢ − xᵢ·w − zᵢ·c)² + λ Σⱼ pⱼ wⱼ²,   where Z holds the columns without
a penalty (ones for the intercept).
"""

import math
from typing import Any, NamedTuple, TypedDict, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxridge.core.checks import as_flag, as_floats, names_of, of_known_shape
from jaxridge.core.factored import Problem
from jaxridge.core.numbers import exponent, filled, matmul, power_of_two
from jaxridge.core.types import Array, Float

__all__ = ["Beyond", "Data", "Design", "Options", "Terms", "checked", "column_sd", "design_of", "make_design"]


class Terms(NamedTuple):
    """The static side of a problem: what compiles into the program."""

    intercept: bool
    standardize: bool
    unpenalized: tuple[int, ...]
    single: bool  # y came as one vector, and answers go back as one


class Data(eqx.Module):
    """The arrays of a problem as the user has them."""

    X: Float[Array, "n d"]
    y: Float[Array, "n t"]
    weights: Float[Array, " n"] | None
    penalty: Float[Array, " d"] | None


class Beyond(eqx.Module):
    """Measurements that are known by a triangle only: how many more there were, and their sum of squares."""

    rows: Float[Array, ""]
    rss: Float[Array, " t"]
    largest: Float[Array, " d"] | None = None  # the largest entry of each column of X about a mean, where it is known
    gram: bool = eqx.field(static=True, default=False)  # whether the triangle is the root of a Gram matrix
    rounded: bool = eqx.field(static=True, default=False)  # whether the triangle alone was rounded, and no measurement


class Design(Problem):
    """The live problem: derivatives flow through these arrays and no others."""

    X: Float[Array, "n d"]  # penalised columns
    Z: Float[Array, "n q"]  # unpenalised ones, the intercept's ones first
    y: Float[Array, "n t"]
    weights: Float[Array, " n"] | None
    penalty: Float[Array, " d"]
    terms: Terms = eqx.field(static=True)
    beyond: Beyond | None = None

    def product(self, w: Float[Array, "a t"]) -> Float[Array, "n t"]:
        """[X Z] w."""
        d = self.X.shape[1]
        return matmul(self.X, w[:d]) + matmul(self.Z, w[d:])

    def adjoint(self, r: Float[Array, "n t"]) -> Float[Array, "a t"]:
        """[X Z]ᵀ r."""
        return jnp.concatenate([matmul(self.X.T, r), matmul(self.Z.T, r)])

    def padded_penalty(self) -> Float[Array, "a 1"]:
        """The penalties, 0 for the unpenalised columns."""
        return jnp.concatenate([self.penalty, jnp.zeros(self.Z.shape[1], self.X.dtype)])[:, None]

    def rows(self) -> Float[Array, ""] | int:
        """The number of measurements: rows of positive weight, and those that a triangle stands for."""
        rows = super().rows()
        return rows if self.beyond is None else rows + self.beyond.rows

    def split(self, w: Float[Array, "*k a t"]) -> tuple[Array, Array]:
        """Coefficients in the order of the user's columns and intercepts, from those of [X Z]."""
        d, q, free = self.X.shape[1], self.Z.shape[1], self.terms.unpenalized
        intercept = w[..., d, :] if self.terms.intercept else jnp.zeros((*w.shape[:-2], w.shape[-1]), w.dtype)
        coef = w[..., :d, :]
        if free:
            kept = [j for j in range(d + len(free)) if j not in free]
            order = np.argsort(np.array([*kept, *free]))
            coef = jnp.concatenate([coef, w[..., d + q - len(free) :, :]], axis=-2)[..., order, :]
        return (coef[..., 0], intercept[..., 0]) if self.terms.single else (coef, intercept)

    @property
    def free(self) -> int:
        """q, the number of unpenalised columns."""
        return self.Z.shape[1]

    @property
    def mean_alone(self) -> bool:
        """Whether all that is unpenalised is an intercept over rows of equal weight, so that Z is a column of ones."""
        return self.terms.intercept and self.free == 1 and self.weights is None and self.beyond is None

    @property
    def wide(self) -> bool:
        """Whether X̂ has no more rows than columns, so that nothing lies outside its range."""
        return self.X.shape[0] - self.Z.shape[1] <= self.X.shape[1]


class Options(TypedDict, total=False):
    """Keywords that every linear verb takes, with their defaults.

    intercept: add an unpenalised constant (True).
    standardize: penalise each column as if it had unit standard deviation (False). Coefficients stay in the
        units of X; a column that is constant up to rounding is left as it is.
    weights: (n,) precisions >= 0. For the fit, weight 2 is two identical measurements; None is all ones.
    penalty: (d,) positive factors of lam, one per column; None is all ones.
    unpenalized: columns of X without a penalty, as whole numbers, like the intercept (none).
    """

    intercept: bool
    standardize: bool
    weights: Any
    penalty: Any
    unpenalized: int | tuple[int, ...]


def checked(
    X: Any,
    y: Any,
    *,
    intercept: bool = True,
    standardize: bool = False,
    weights: Any = None,
    penalty: Any = None,
    unpenalized: int | tuple[int, ...] = (),
) -> tuple[Data, Terms]:
    """Arrays and static terms of a problem. Shapes and dtypes are checked here, values never."""
    names = names_of(X) or ()
    X, y = of_known_shape("X", as_floats("X", X, (2,))), as_floats("y", y, (1, 2))
    (n, d), single = X.shape, y.ndim == 1
    if n == 0:
        raise ValueError("X has no rows; at least one observation is needed.")
    if y.shape[0] != n:
        raise ValueError(f"y has {y.shape[0]} rows and X has {n}; they must be the same observations.")
    dtype = np.promote_types(X.dtype, y.dtype)
    if weights is not None:
        weights = as_floats("weights", weights, (1,)).astype(dtype)
        if weights.shape != (n,):
            raise ValueError(f"weights has shape {weights.shape}; one weight per row of X is needed: ({n},).")
    if penalty is not None:
        penalty = as_floats("penalty", penalty, (1,)).astype(dtype)
        if penalty.shape != (d,):
            raise ValueError(f"penalty has shape {penalty.shape}; one positive number per column of X: ({d},).")
    intercept, standardize = as_flag("intercept", intercept), as_flag("standardize", standardize)
    free = static_columns(unpenalized, d, names)
    if intercept + len(free) > n:
        raise ValueError(f"unpenalized: {intercept + len(free)} columns without a penalty, but X has {n} rows.")
    terms = Terms(intercept, standardize, free, single)
    return Data(X.astype(dtype), y.astype(dtype).reshape(n, -1), weights, penalty), terms


def design_of(data: Data, terms: Terms) -> Design:
    """The live problem; pure, so that verbs call it inside their one compiled program.

    Scaling columns to unit standard deviation and penalising them equally is the same as multiplying each
    penalty by the variance of its column. That is how ``standardize`` is done, so coefficients never leave
    the user's units.
    """
    X, free = data.X, np.array(terms.unpenalized, int)
    n, d = X.shape
    kept = np.setdiff1d(np.arange(d), free)
    ones = [filled((n, 1), 1.0, X.dtype)] if terms.intercept else []
    Z = jnp.concatenate([*ones, X[:, free]], axis=1)
    penalty = jnp.ones(d, X.dtype) if data.penalty is None else data.penalty
    if len(free):
        X, penalty = X[:, kept], penalty[kept]
    if terms.standardize:
        penalty = penalty * _variance(X, data.weights)
    return Design(X=X, Z=Z, y=data.y, weights=data.weights, penalty=penalty, terms=terms)


def make_design(X: Any, y: Any, **problem: Unpack[Options]) -> Design:
    """The live problem of ``(X, y)``, for use with a factorisation of `jaxridge.linear.spectrum` directly.

    >>> import jax.numpy as jnp
    >>> from jaxridge import design, spectrum
    >>> problem = design.make_design(jnp.eye(3), jnp.arange(3.0), intercept=False)
    >>> float(spectrum.from_design(problem).dof(jnp.array(1.0)))
    1.5
    """
    return design_of(*checked(X, y, **problem))


def static_columns(unpenalized: Any, d: int, names: tuple[str, ...] = ()) -> tuple[int, ...]:
    """``unpenalized`` as sorted, distinct column numbers in 0..d-1; names are those of a data frame."""
    columns = (unpenalized,) if isinstance(unpenalized, int | str) else tuple(unpenalized)
    columns = tuple(names.index(j) if j in names else j for j in columns)
    for j in columns:
        if isinstance(j, bool) or not isinstance(j, int | np.integer) or not -d <= j < d:
            raise ValueError(f"unpenalized names column {j!r}; use whole numbers below {d}, or names that X has.")
    return tuple(sorted({int(j) % d for j in columns}))


def _variance(X: Float[Array, "n d"], weights: Float[Array, " n"] | None) -> Float[Array, " d"]:
    """Weighted variance (divisor Σω) of each column; 1 where a column is constant up to rounding."""
    used = jnp.abs(jax.lax.stop_gradient(X))
    if weights is not None:
        used = jnp.where((weights > 0)[:, None], used, 0.0)
    unit = power_of_two(-exponent(jnp.max(used, axis=0, initial=0.0)), X.dtype)
    # Nothing of positive weight exceeds 1 here; what has none must not overflow.
    most = 0.25 * math.sqrt(jnp.finfo(X.dtype).max)
    scaled = jnp.clip(X * unit[None, :], -most, most)

    def mean(M: Array) -> Array:
        if weights is None:
            return jnp.mean(M, axis=0)
        return jnp.sum((weights / jnp.sum(weights))[:, None] * M, axis=0)

    # The mean of what a first mean leaves mends the rounding of a long sum of values far from zero.
    centred = scaled - mean(scaled)[None, :]
    variance = mean(jnp.square(centred)) - jnp.square(mean(centred))
    # Entries are known to half an eps of the largest, so a smaller deviation is rounding.
    constant = variance <= (2.0 * jnp.finfo(X.dtype).eps) ** 2
    return jnp.where(constant, 1.0, variance / jnp.square(unit))


def column_sd(design: Design) -> np.ndarray:
    """Weighted standard deviation of each column of X, in the order of the user's columns (d,)."""
    X, Z, free = np.asarray(design.X), np.asarray(design.Z), list(design.terms.unpenalized)
    columns = np.empty((X.shape[0], X.shape[1] + len(free)), X.dtype)
    columns[:, free] = Z[:, Z.shape[1] - len(free) :]
    columns[:, np.setdiff1d(np.arange(columns.shape[1]), free)] = X
    weights = None if design.weights is None else np.asarray(design.weights)
    unit = np.max(np.abs(columns), axis=0, initial=np.finfo(X.dtype).tiny)
    columns = columns / unit[None, :]
    mean = np.average(columns, axis=0, weights=weights)
    return unit * np.sqrt(np.average(np.square(columns - mean[None, :]), axis=0, weights=weights))
