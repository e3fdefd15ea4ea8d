"""The standard form of a ridge problem: weights, units, intercept and penalties become plain X̂, ŷ.

It is  min ‖X̂ŵ − ŷ‖² + λ'‖ŵ‖²  with X̂ = H √ω X L, where H reflects the columns √ω Z onto the first q coordinates and
drops those, and L = P^(−1/2) in powers of two of X.
"""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxridge.core.numbers import centre_of, exponent, matmul, poison, power_of_two
from jaxridge.core.types import Array, Bool, Float, Int, Scalar
from jaxridge.linalg.householder import householder, reflect
from jaxridge.linear.design import Design


class Checks(eqx.Module):
    """What is wrong with the data, as booleans."""

    finite: Bool[Array, ""]
    finite_y: Bool[Array, " t"]
    weights: Bool[Array, ""]
    penalty: Bool[Array, ""]
    independent: Bool[Array, ""]  # the unpenalised columns are
    separate: Bool[Array, ""]  # and rounding leaves their coefficients nineteen parts in twenty

    def good(self) -> Bool[Array, ""]:
        """Whether a factorisation makes sense; targets fail one by one."""
        return self.finite & self.weights & self.penalty & self.independent


class StandardForm(eqx.Module):
    """X̂ and ŷ with all that leads back to the user's units. Nothing here carries a derivative."""

    X: Float[Array, "p d"]  # p = n − q
    y: Float[Array, "p t"]
    longest: Scalar  # (Σⱼ maxᵢ x̂ᵢⱼ²)^½: no row of X̂ is longer
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
            first = (_first(v.shape[0], 1.0, 0.0, v.dtype) - v[0] * v)[:, None]
            below = reflect(v, jnp.concatenate([jnp.zeros((1, basis.shape[1]), v.dtype), basis]))
            basis = _swap(jnp.concatenate([first, below], axis=1), pivot)
        return basis


def _first(n: int, first: float, rest: float, dtype: Any) -> Float[Array, " n"]:
    """One number, and then another: a part of the loop that reads it, and no array while compiling."""
    return jnp.where(jnp.arange(n) == 0, jnp.asarray(first, dtype), jnp.asarray(rest, dtype))


def _swap(M: Float[Array, "n m"], row: Int[Array, ""] | None) -> Float[Array, "n m"]:
    """M with its first row and another one exchanged."""
    return M if row is None else M.at[0].set(M[row]).at[row].set(M[0])


class _Reduced(NamedTuple):
    """Rows without the unpenalised columns, and the way back to those columns' coefficients."""

    X: Float[Array, "p d"]
    y: Float[Array, "p t"]
    X_coef: Float[Array, "q d"]  # what each column takes of the unpenalised coefficients
    y_coef: Float[Array, "q t"]  # coordinates of y along the orthonormal basis
    to_coef: Float[Array, "q q"]  # Z times this is that basis
    reflectors: tuple[tuple[Float[Array, " _"], Int[Array, ""] | None], ...]
    independent: Bool[Array, ""]
    separate: Bool[Array, ""]
    heaviest: Scalar  # the largest root of a weight among these rows


def _split(blocks: list[Array], d: int) -> list[Array]:
    """The columns of X and those of y, from one block or from two."""
    return blocks if len(blocks) == 2 else [blocks[0][:, :d], blocks[0][:, d:]]


def _without_mean(blocks: list[Array], d: int) -> _Reduced:
    """An intercept and no weights: the reflection of √n e₁ is v ∝ (1 + √n, 1, …, 1), so that H needs sums only.

    HM has −S/√n on top and below it Mᵢ − (√n M₁ + S)/(n + √n), S the sum of the rows; a mean taken off first changes
    nothing but the rounding.
    """
    n, dtype = blocks[0].shape[0], blocks[0].dtype
    root = math.sqrt(n)
    below, means = [], []
    for M in blocks:
        mean = centre_of(M)
        M = M - mean
        total = jnp.sum(M, axis=0, keepdims=True)
        below.append(M[1:] - (root * M[:1] + total) / (n + root))
        means.append(mean + total / n)
    (X, y), (X_mean, y_mean) = _split(below, d), _split(means, d)
    v = _first(n, 1.0 + root, 1.0, dtype) / math.sqrt(n + root)
    yes, to_coef = jnp.array(True), jnp.full((1, 1), -1.0 / root, dtype)
    return _Reduced(X, y, X_mean, -root * y_mean, to_coef, ((v, None),), yes, yes, jnp.ones((), dtype))


def _without_columns(
    blocks: list[Array],
    d: int,
    Z: Float[Array, "n q"],
    weights: Float[Array, " n"] | None,
    root: Float[Array, " n"] | None,
) -> _Reduced:
    """Rows of √ω X and √ω y without what the unpenalised columns √ω Z span, by a reflection for each."""
    dtype, q = Z.dtype, Z.shape[1]
    if q == 0:
        X, y = _split(blocks if root is None else [root[:, None] * M for M in blocks], d)
        heaviest, yes, none = jnp.max(jnp.ones(1, dtype) if root is None else root), jnp.array(True), jnp.zeros((0, 0))
        return _Reduced(X, y, X[:0], y[:0], none.astype(dtype), (), yes, yes, heaviest)
    # Taking the first unpenalised column's own coefficient off first changes nothing but rounding. When that
    # column is the intercept the coefficient is the mean, and a large mean would swamp the reflection below.
    share = Z[:, :1] if weights is None else Z[:, :1] * (weights / jnp.max(weights))[:, None]
    share = share / jnp.sum(share * Z[:, :1])
    shifts, shift_Z = ([jnp.sum(share * M, axis=0, keepdims=True) for M in part] for part in (blocks, [Z]))
    shift_Z = shift_Z[0].at[0, 0].set(0.0)
    undo = jnp.eye(q, dtype=dtype).at[0].add(-shift_Z[0])
    blocks, Z = [M - Z[:, :1] * shift for M, shift in zip(blocks, shifts, strict=True)], Z - Z[:, :1] * shift_Z
    if root is not None:
        blocks, Z = [root[:, None] * M for M in blocks], root[:, None] * Z

    lengths = jnp.linalg.norm(Z, axis=0)
    norms = lengths + jnp.abs(undo[0]) * lengths[0]
    left = jnp.ones((1, 1), dtype) if root is None else root[:, None]
    triangle, reflectors = jnp.zeros((q, q), dtype), []
    tops = [jnp.zeros((q, M.shape[1]), dtype) for M in blocks]
    for i in range(q):
        # The heaviest row becomes the one that is dropped: what is left of it is its rounding times its weight.
        pivot = None if root is None else jnp.argmax(jnp.abs(Z[:, 0]))
        v = householder(_swap(Z, pivot)[:, 0])
        Z, *blocks = (reflect(v, _swap(M, pivot)) for M in (Z, *blocks))
        triangle = triangle.at[i, i:].set(Z[0])
        tops = [top.at[i].set(M[0]) for top, M in zip(tops, blocks, strict=True)]
        Z, blocks = Z[1:, 1:], [M[1:] for M in blocks]
        left = left if root is None else _swap(left, pivot)[1:]
        reflectors.append((v, pivot))

    to_coef = matmul(undo, jax.scipy.linalg.solve_triangular(triangle, jnp.eye(q, dtype=dtype)))
    first, diagonal = jnp.eye(q, 1, dtype=dtype), jnp.abs(jnp.diagonal(triangle))
    rounding = 8.0 * math.sqrt(q) * jnp.finfo(dtype).eps
    (X, y), (X_tops, y_tops), (shift_X, shift_y) = (_split(part, d) for part in (blocks, tops, shifts))
    return _Reduced(
        X=X,
        y=y,
        X_coef=matmul(to_coef, X_tops) + first * shift_X,
        y_coef=y_tops + matmul(triangle, first) * shift_y,
        to_coef=to_coef,
        reflectors=tuple(reflectors),
        independent=jnp.all(diagonal > rounding * norms),
        separate=jnp.all(0.05 * diagonal > rounding * lengths),
        heaviest=jnp.max(left, initial=0.0),
    )


def _scaled(X: Float[Array, "n d"], y: Float[Array, "n t"]) -> tuple[list[Array], list[Array], list[Array]]:
    """Columns of size 1 in one block or two, which of X and of y are finite, and the exponents taken off."""
    # One target goes through the loops over X as its last column: each loop is a kernel to compile.
    blocks, of_y = [X, y], [0, 1]
    if y.shape[1] == 1:
        blocks, of_y = [jnp.concatenate([X, y], axis=1)], [np.eye(1, X.shape[1] + 1, X.shape[1], np.int32)]
    exponents = [exponent(jnp.max(jnp.abs(M), axis=0, keepdims=True, initial=0.0)) for M in blocks]
    exponents = [_even(e, which) for e, which in zip(exponents, of_y, strict=True)]
    # Quotients are computed once; a factor the loops would compute again for every entry.
    blocks = [M / power_of_two(e, X.dtype) for M, e in zip(blocks, exponents, strict=True)]
    finite, finite_y = _split([jnp.isfinite(jnp.sum(M, axis=0, keepdims=True)) for M in blocks], X.shape[1])
    return blocks, [finite, finite_y[0]], [e[0] for e in _split(exponents, X.shape[1])]


def standard_form(design: Design) -> StandardForm:
    """X̂, ŷ of a problem, computed so that scales of 1e±150, large means and tiny weights lose nothing.

    Data that fail a check give an X̂ of NaN only: LAPACK's SVD never returns when an entry is infinite.
    """
    X, Z, y, weights, penalty = jax.lax.stop_gradient((design.X, design.Z, design.y, design.weights, design.penalty))
    dtype, q = X.dtype, Z.shape[1]
    root = None if weights is None else jnp.sqrt(weights)
    if root is not None:
        # Rows of weight zero take no part and set no scale; what is not finite stays to be found.
        unused = (root == 0)[:, None]
        X, Z, y = (jnp.where(unused & jnp.isfinite(rows), 0.0, rows) for rows in (X, Z, y))
    blocks, (finite, finite_y), (column_exponent, y_exponent) = _scaled(X, y)

    free_unit, also = jnp.ones(q, dtype), [] if weights is None else [weights]
    row_exponent = jnp.zeros((), jnp.int32)
    if design.mean_alone:
        reduced = _without_mean(blocks, X.shape[1])
    else:
        free_unit = power_of_two(-exponent(jnp.max(jnp.abs(Z), axis=0)), dtype)
        Z = Z * free_unit[None, :]
        also += [jnp.sum(Z, axis=0)]
        if root is not None:
            row_exponent = _even(exponent(jnp.max(root)))
            root = root * power_of_two(-row_exponent, dtype)
        reduced = _without_columns(blocks, X.shape[1], Z, weights, root)
    checks = Checks(
        # Sums, of rows of size 1, since a largest entry loses NaN on CPUs where the reduction is vectorised.
        finite=jnp.all(finite) & _all_finite(penalty, *also),
        finite_y=finite_y,
        weights=jnp.array(True) if weights is None else jnp.all(weights >= 0) & jnp.any(weights > 0),
        penalty=jnp.all(penalty > 0),
        independent=reduced.independent,
        separate=reduced.separate,
    )

    # What is left of a column that the unpenalised ones span is rounding, less than an ulp of it, and must not
    # pass for data: a constant column has the coefficient 0.
    rest = jnp.max(jnp.abs(reduced.X), axis=0, initial=0.0)
    rest = jnp.where(rest > jnp.finfo(dtype).eps * reduced.heaviest, rest, 0.0)
    scale, size = _units(penalty, column_exponent + row_exponent, rest)
    shrink = 1.0 / poison(size, checks.good())
    return StandardForm(
        X=reduced.X * shrink[None, :],
        y=jnp.where(checks.finite_y[None, :], reduced.y, jnp.nan),
        longest=jnp.linalg.norm(rest * shrink),
        root_weights=None if weights is None else jnp.sqrt(weights),
        reflectors=reduced.reflectors,
        free_y=jnp.where(checks.finite_y[None, :], reduced.y_coef, jnp.nan),
        free_to_coef=free_unit[:, None] * reduced.to_coef * power_of_two(-row_exponent, dtype),
        centre=free_unit[:, None] * (reduced.X_coef * power_of_two(column_exponent, dtype)[None, :]),
        unit=scale / jnp.sqrt(penalty),
        scale=scale,
        y_scale=1.0 / power_of_two(-y_exponent - row_exponent, dtype),
        checks=checks,
    )


def _units(
    penalty: Float[Array, " d"], magnitude: Int[Array, " d"], rest: Float[Array, " d"]
) -> tuple[Scalar, Float[Array, " d"]]:
    """scale = 2^−E, and by what each column is divided: L⁻¹ = P^(1/2) 2^E, infinite for a column that is rounding.

    Columns come as mantissas of size ``rest`` with exponents ``magnitude``. E is the size of √ω X P^(−1/2): entries of
    X̂ are then about 1 or less. It stays well inside the range of the dtype, so that nothing that is multiplied by 2^E
    or 2^−E turns subnormal.
    """
    dtype, info = rest.dtype, jnp.finfo(rest.dtype)
    limit, far = info.maxexp - 4, 3 * info.maxexp // 4
    root = jnp.sqrt(penalty)
    of_root = exponent(root)
    magnitude = magnitude - of_root
    largest = jnp.max(jnp.where(rest > 0, magnitude + exponent(rest), -4 * limit), initial=-4 * limit)
    largest = _even(jnp.clip(jnp.where(largest == -4 * limit, 0, largest), -far, far))
    size = root * power_of_two(-of_root, dtype) * power_of_two(jnp.maximum(largest - magnitude, -limit), dtype)
    return 1.0 / power_of_two(largest, dtype), jnp.where(rest > 0, size, jnp.inf)


def _even(e: Int[Array, "..."], which: Any = 1) -> Int[Array, "..."]:
    """The even number that is e or follows it, where ``which`` is 1: 2^e then has a root without rounding."""
    return e + (e & which)


def _all_finite(*arrays: Array) -> Bool[Array, ""]:
    """Whether every entry of every array is finite."""
    finite = jnp.array(True)
    for array in arrays:
        finite &= jnp.all(jnp.isfinite(array))
    return finite
