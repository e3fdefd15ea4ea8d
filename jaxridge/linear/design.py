"""A user's problem and its standard form: weights, units, intercept and penalties become plain X̂, ŷ.

The problem is   min over w, c of   Σᵢ ωᵢ (yᵢ − xᵢ·w − zᵢ·c)² + λ Σⱼ pⱼ wⱼ²,   where Z holds the columns without
a penalty (ones for the intercept). Its standard form is  min ‖X̂ŵ − ŷ‖² + λ'‖ŵ‖²  with X̂ = H √ω X L, where H
reflects the columns √ω Z onto the first q coordinates and drops those, and L = P^(−1/2) in powers of two of X.
"""

import math
from typing import Any, NamedTuple, TypedDict, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxridge.core.numbers import exponent, matmul, poison, power_of_two
from jaxridge.core.types import Array, Bool, Float, Int, Scalar


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


class Design(eqx.Module):
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

    def weigh(self, r: Float[Array, "n t"]) -> Float[Array, "n t"]:
        """ω r."""
        return r if self.weights is None else self.weights[:, None] * r

    def padded_penalty(self) -> Float[Array, "a 1"]:
        """The penalties, 0 for the unpenalised columns."""
        return jnp.concatenate([self.penalty, jnp.zeros(self.Z.shape[1], self.X.dtype)])[:, None]

    def rows(self) -> Float[Array, ""] | int:
        """The number of measurements: rows of positive weight, and those that a triangle stands for."""
        rows = self.X.shape[0] if self.weights is None else jnp.sum(self.weights > 0, dtype=self.X.dtype)
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
    def wide(self) -> bool:
        """Whether X̂ has no more rows than columns, so that nothing lies outside its range."""
        return self.X.shape[0] - self.Z.shape[1] <= self.X.shape[1]


def as_floats(name: str, x: Any, ndim: tuple[int, ...]) -> Array:
    """``x`` as a real floating array, or a ``ValueError`` that says what to pass instead."""
    if isinstance(x, np.ma.MaskedArray):
        raise ValueError(f"{name} is masked; drop its masked rows, or fill them, for example {name}.filled(0.0).")
    if isinstance(x, jax.Array | np.ndarray):
        array = x
    elif hasattr(x, "todense") or hasattr(x, "toarray"):
        raise ValueError(f"{name} is sparse ({type(x).__name__}); pass a dense array, for example {name}.todense().")
    else:
        try:
            array = np.asarray(x)
        except ValueError:
            raise ValueError(f"{name} has rows of unequal length; every row needs a number for every column.") from None
    dtype = array.dtype
    if dtype.kind in "OSUMm":
        raise ValueError(f"{name} holds values that are not numbers (dtype {dtype}); encode or drop them first.")
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise ValueError(f"{name} is complex ({dtype}); stack the real and imaginary parts as rows instead.")
    if jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32:
        raise ValueError(f"{name} is {dtype}, too coarse to factorise; convert it with {name}.astype('float32').")
    if array.ndim not in ndim:
        wanted = " or ".join(f"{k}-D" for k in ndim)
        hint = f"; use {name}[:, None] for one feature" if name == "X" and array.ndim == 1 else ""
        raise ValueError(f"{name} must be {wanted}, got shape {array.shape}{hint}.")
    if not jnp.issubdtype(dtype, jnp.floating):
        return jnp.asarray(array, jnp.result_type(float))
    # Without a dtype of its own: float64 from NumPy is float32 where x64 is off, and that needs no warning.
    return jnp.asarray(array if dtype.isnative else array.astype(dtype.newbyteorder("=")))


def as_function(name: str, value: Any, instead: str) -> Any:
    """``value`` if it is something to call, or a ``ValueError`` that says what to pass instead."""
    if not callable(value) or isinstance(value, type):
        raise ValueError(f"{name} is {value!r}; pass {instead}.")
    return value


def as_key(key: Any, *, optional: bool = False) -> Any:
    """``key`` if it can be one of ``jax.random``, or None where that is a choice too; else a ``ValueError``."""
    if not (isinstance(key, jax.Array | np.ndarray) or (optional and key is None)):
        raise ValueError(f"key is {key!r}; pass one of jax.random, such as jax.random.key(0).")
    return key


def as_points(name: str, points: Any) -> Any:
    """A set of points: an array (n, d) of floats, or a pytree of arrays with a leading axis of n."""
    if isinstance(points, dict | tuple | eqx.Module):
        leaves = jax.tree.map(jnp.asarray, points)
        if not jax.tree.leaves(leaves) or any(leaf.ndim == 0 for leaf in jax.tree.leaves(leaves)):
            raise ValueError(f"{name} needs arrays with an axis of points in front.")
        return leaves
    if np.ndim(points) == 1:
        raise ValueError(
            f"{name} must be 2-D, (n, d), got shape {np.shape(points)}; use {name}[:, None] for one feature."
        )
    return as_floats(name, points, (2,))


class Problem(TypedDict, total=False):
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
    X, y = as_floats("X", X, (2,)), as_floats("y", y, (1, 2))
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
    free = _static_columns(unpenalized, d)
    if intercept + len(free) > n:
        raise ValueError(f"unpenalized: {intercept + len(free)} columns without a penalty, but X has {n} rows.")
    terms = Terms(bool(intercept), bool(standardize), free, single)
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
    ones = [jnp.ones((n, 1), X.dtype)] if terms.intercept else []
    Z = jnp.concatenate([*ones, X[:, free]], axis=1)
    penalty = jnp.ones(d, X.dtype) if data.penalty is None else data.penalty
    if len(free):
        X, penalty = X[:, kept], penalty[kept]
    if terms.standardize:
        penalty = penalty * _variance(X, data.weights)
    return Design(X, Z, data.y, data.weights, penalty, terms)


def make_design(X: Any, y: Any, **problem: Unpack[Problem]) -> Design:
    """The live problem of ``(X, y)``, for use with a factorisation of `jaxridge.linear.spectrum` directly.

    >>> import jax.numpy as jnp
    >>> from jaxridge import design, spectrum
    >>> problem = design.make_design(jnp.eye(3), jnp.arange(3.0), intercept=False)
    >>> float(spectrum.from_design(problem).dof(jnp.array(1.0)))
    1.5
    """
    return design_of(*checked(X, y, **problem))


def _static_columns(unpenalized: Any, d: int) -> tuple[int, ...]:
    """``unpenalized`` as sorted, distinct column numbers in 0..d-1."""
    columns = (unpenalized,) if isinstance(unpenalized, int) else tuple(unpenalized)
    for j in columns:
        if isinstance(j, bool) or not isinstance(j, int | np.integer) or not -d <= j < d:
            raise ValueError(f"unpenalized names column {j!r}; use whole numbers below {d}, the columns of X.")
    return tuple(sorted({int(j) % d for j in columns}))


def _variance(X: Float[Array, "n d"], weights: Float[Array, " n"] | None) -> Float[Array, " d"]:
    """Weighted variance (divisor Σω) of each column; 1 where a column is constant up to rounding."""
    share = jnp.full(X.shape[0], 1 / X.shape[0], X.dtype) if weights is None else weights / jnp.sum(weights)
    used = jnp.abs(jax.lax.stop_gradient(X))
    if weights is not None:
        used = jnp.where((weights > 0)[:, None], used, 0.0)
    unit = power_of_two(-exponent(jnp.max(used, axis=0, initial=0.0)), X.dtype)
    # Nothing of positive weight exceeds 1 here; what has none must not overflow.
    most = 0.25 * math.sqrt(jnp.finfo(X.dtype).max)
    scaled = jnp.clip(X * unit[None, :], -most, most)
    mean = matmul(share, scaled)
    variance = matmul(share, jnp.square(scaled - mean[None, :]))
    # The mean is known to n·eps of the largest entry, so a smaller deviation is rounding.
    constant = variance <= (X.shape[0] * jnp.finfo(X.dtype).eps) ** 2
    return jnp.where(constant, 1.0, variance / jnp.square(unit))


class Checks(eqx.Module):
    """What is wrong with the data, as booleans."""

    finite: Bool[Array, ""]
    finite_y: Bool[Array, " t"]
    weights: Bool[Array, ""]
    penalty: Bool[Array, ""]
    independent: Bool[Array, ""]

    def good(self) -> Bool[Array, ""]:
        """Whether a factorisation makes sense; targets fail one by one."""
        return self.finite & self.weights & self.penalty & self.independent


class StandardForm(eqx.Module):
    """X̂ and ŷ with all that leads back to the user's units. Nothing here carries a derivative."""

    X: Float[Array, "p d"]  # p = n − q
    y: Float[Array, "p t"]
    root_weights: Float[Array, " n"] | None
    reflectors: tuple[tuple[Float[Array, " _"], Int[Array, ""] | None], ...]  # each with its pivot row
    free_y: Float[Array, "q t"]  # coordinates of √ω y along the unpenalised columns
    free_to_coef: Float[Array, "q q"]  # √ω Z times this is orthonormal
    centre: Float[Array, "q d"]  # the unpenalised coefficients that a unit of each wⱼ takes away
    unit: Float[Array, " d"]  # w = unit · ŵ, and scale² is what the penalty of a unit ŵ comes to
    scale: Scalar
    y_scale: Float[Array, " t"]  # y = ŷ · y_scale
    checks: Checks

    def lift(self, M: Float[Array, "p m"]) -> Float[Array, "n m"]:
        """From reduced rows back to all rows: a zero in front, then the reflection, last one first."""
        for v, pivot in reversed(self.reflectors):
            M = jnp.concatenate([jnp.zeros((1, M.shape[1]), M.dtype), M])
            M = _swap(reflect(v, M), pivot)
        return M

    def free_basis(self) -> Float[Array, "n q"]:
        """The orthonormal basis of √ω Z: where the reflections came from."""
        basis = jnp.zeros((self.X.shape[0], 0), self.X.dtype)
        for v, pivot in reversed(self.reflectors):
            first = jnp.zeros((v.shape[0], 1), v.dtype).at[0].set(1.0)
            below = jnp.concatenate([jnp.zeros((1, basis.shape[1]), v.dtype), basis])
            basis = _swap(reflect(v, jnp.concatenate([first, below], axis=1)), pivot)
        return basis


def _swap(M: Float[Array, "n m"], row: Int[Array, ""] | None) -> Float[Array, "n m"]:
    """M with its first row and another one exchanged."""
    return M if row is None else M.at[0].set(M[row]).at[row].set(M[0])


def reflect(v: Float[Array, " n"], M: Float[Array, "n m"]) -> Float[Array, "n m"]:
    """(I − v vᵀ) M, with ‖v‖² = 2: a Householder reflection."""
    return M - v[:, None] * matmul(v, M)[None, :]


def householder(z: Float[Array, " n"]) -> Float[Array, " n"]:
    """The v of the Householder reflection that sends z to a multiple of the first coordinate."""
    length = jnp.linalg.norm(z)
    v = z.at[0].add(jnp.where(z[0] < 0, -length, length))
    return v * (jnp.sqrt(2.0).astype(v.dtype) / jnp.where(length == 0, 1.0, jnp.linalg.norm(v)))


def standard_form(design: Design) -> StandardForm:
    """X̂, ŷ of a problem, computed so that scales of 1e±150, large means and tiny weights lose nothing.

    Data that fail a check give an X̂ of NaN only: LAPACK's SVD never returns when an entry is infinite.
    """
    X, Z, y, weights, penalty = jax.lax.stop_gradient((design.X, design.Z, design.y, design.weights, design.penalty))
    dtype, (n, q) = X.dtype, Z.shape
    root = None if weights is None else jnp.sqrt(weights)
    if root is not None:
        # Rows of weight zero take no part and set no scale; what is not finite stays to be found.
        unused = (root == 0)[:, None]
        X, Z, y = (jnp.where(unused & jnp.isfinite(rows), 0.0, rows) for rows in (X, Z, y))
    column_size = jnp.max(jnp.abs(X), axis=0, initial=0.0)
    free_size, y_size = jnp.max(jnp.abs(Z), axis=0), jnp.max(jnp.abs(y), axis=0)
    column_exponent, free_unit = exponent(column_size), power_of_two(-exponent(free_size), dtype)
    y_scale = power_of_two(exponent(y_size), dtype)
    row_exponent = jnp.zeros((), jnp.int32) if root is None else exponent(jnp.max(root))
    unit = power_of_two(-column_exponent, dtype)
    Z = Z * free_unit[None, :]

    # Taking the first unpenalised column's own coefficient off first changes nothing but rounding. When that
    # column is the intercept the coefficient is the mean, and a large mean would swamp the reflection below.
    shift_X, shift_y = jnp.zeros((1, X.shape[1]), dtype), jnp.zeros((1, y.shape[1]), dtype)
    if q:
        share = Z[:, 0] if weights is None else Z[:, 0] * (weights / jnp.max(weights))
        share = share / matmul(share, Z[:, 0])
        # Means of the arrays as they came: a product of scaled ones would store those first.
        shift_X, shift_y = (matmul(share, X) * unit)[None, :], (matmul(share, y) / y_scale)[None, :]
    X, y = X * unit[None, :], y / y_scale[None, :]
    undo = jnp.eye(q, dtype=dtype)
    if q:
        shift_Z = matmul(share, Z)[None, :].at[0, 0].set(0.0)
        undo = undo.at[0].add(-shift_Z[0])
        X, y, Z = X - Z[:, :1] * shift_X, y - Z[:, :1] * shift_y, Z - Z[:, :1] * shift_Z
    if root is not None:
        root = root * power_of_two(-row_exponent, dtype)
        X, Z, y = root[:, None] * X, root[:, None] * Z, root[:, None] * y

    norms = jnp.linalg.norm(Z, axis=0) + (jnp.abs(undo[0]) * jnp.linalg.norm(Z[:, 0]) if q else 0.0)
    triangle, reflectors = jnp.zeros((q, q), dtype), []
    X_tops, y_tops = jnp.zeros((q, X.shape[1]), dtype), jnp.zeros((q, y.shape[1]), dtype)
    left = None if root is None else root[:, None]
    for i in range(q):
        # The heaviest row becomes the one that is dropped: what is left of it is its rounding times its weight.
        pivot = None if root is None else jnp.argmax(jnp.abs(Z[:, 0]))
        Z, X, y = _swap(Z, pivot), _swap(X, pivot), _swap(y, pivot)
        v = householder(Z[:, 0])
        Z, X, y = reflect(v, Z), reflect(v, X), reflect(v, y)
        triangle = triangle.at[i, i:].set(Z[0])
        X_tops, y_tops = X_tops.at[i].set(X[0]), y_tops.at[i].set(y[0])
        Z, X, y = Z[1:, 1:], X[1:], y[1:]
        left = left if left is None else _swap(left, pivot)[1:]
        reflectors.append((v, pivot))

    diagonal = jnp.abs(jnp.diagonal(triangle))
    checks = Checks(
        finite=_all_finite(column_size, free_size, penalty, *([] if weights is None else [weights])),
        finite_y=jnp.isfinite(y_size),
        weights=jnp.array(True) if weights is None else jnp.all(weights >= 0) & jnp.any(weights > 0),
        penalty=jnp.all(penalty > 0),
        independent=jnp.all(diagonal > n * jnp.finfo(dtype).eps * norms),
    )
    to_coef = jax.scipy.linalg.solve_triangular(triangle, jnp.eye(q, dtype=dtype)) if q else triangle
    to_coef = matmul(undo, to_coef)
    first = jnp.eye(q, 1, dtype=dtype)
    centre = (matmul(to_coef, X_tops) + first * shift_X) * power_of_two(column_exponent, dtype)[None, :]

    # What is left of a column that the unpenalised ones span is rounding, less than an ulp of it, and must not
    # pass for data: a constant column has the coefficient 0.
    rest = jnp.max(jnp.abs(X), axis=0, initial=0.0)
    heaviest = 1.0 if left is None else jnp.max(left, initial=0.0)
    rest = jnp.where(rest > jnp.finfo(dtype).eps * heaviest, rest, 0.0)

    # L = P^(−1/2) / 2^E, with 2^E the size of √ω X P^(−1/2): entries of X̂ are then about 1 or less. E stays well
    # inside the range of the dtype, so that nothing that is multiplied by 2^E or 2^−E turns subnormal.
    root_penalty, limit, far = jnp.sqrt(penalty), jnp.finfo(dtype).maxexp - 4, 3 * jnp.finfo(dtype).maxexp // 4
    penalty_exponent = exponent(root_penalty)
    magnitude = column_exponent - penalty_exponent + row_exponent
    largest = jnp.max(jnp.where(rest > 0, magnitude + exponent(rest), -4 * limit), initial=-4 * limit)
    largest = jnp.clip(jnp.where(largest == -4 * limit, 0, largest), -far, far)
    scale = power_of_two(-largest, dtype)
    shrink = jnp.clip(magnitude - largest, -2 * limit, limit)
    mantissa = root_penalty * power_of_two(-penalty_exponent, dtype)
    shrink = power_of_two(shrink // 2, dtype) * power_of_two(shrink - shrink // 2, dtype) / mantissa
    X = X * poison(jnp.where(rest > 0, shrink, 0.0), checks.good())[None, :]
    return StandardForm(
        X=X,
        y=jnp.where(checks.finite_y[None, :], y, jnp.nan),
        root_weights=None if weights is None else jnp.sqrt(weights),
        reflectors=tuple(reflectors),
        free_y=jnp.where(checks.finite_y[None, :], y_tops + matmul(triangle, first) * shift_y, jnp.nan),
        free_to_coef=free_unit[:, None] * to_coef * power_of_two(-row_exponent, dtype),
        centre=free_unit[:, None] * centre,
        unit=scale / root_penalty,
        scale=scale,
        y_scale=y_scale * power_of_two(row_exponent, dtype),
        checks=checks,
    )


def _all_finite(*arrays: Array) -> Bool[Array, ""]:
    """Whether every entry of every array is finite."""
    finite = jnp.array(True)
    for array in arrays:
        finite &= jnp.all(jnp.isfinite(array))
    return finite
