"""The standard form of a ridge problem: weights, units, intercept and penalties become plain X̂, ŷ.

It is  min ‖X̂ŵ − ŷ‖² + λ'‖ŵ‖²  with X̂ = H √ω X L, where H reflects the columns √ω Z onto the first q coordinates and
drops those, and L = P^(−1/2) in powers of two of X.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge.core.numbers import exponent, matmul, poison, power_of_two
from jaxridge.core.types import Array, Bool, Float, Int, Scalar
from jaxridge.linalg.householder import householder, reflect
from jaxridge.linear.design import Design


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
