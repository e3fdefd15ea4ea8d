"""Rows a batch at a time, in what they come to: a monoid, so that batches and shards merge in any order.

Rows [1 x y] are shifted by the mean of the first batch before anything is summed, so that large means swamp nothing,
and √ω [1 X−m_X Y−m_Y] is known either by the triangle R of its QR factorisation, or by its Gram matrix in float64.
For float32 rows the Gram matrix is the more exact of the two by four digits at condition 1e4, and cheaper; for float64
rows the triangle is, since a Gram matrix squares the condition.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge.core.numbers import inner, matmul, poison, poison_tangent, safe_divide
from jaxridge.core.types import Array, Float, Int
from jaxridge.linear.design import Beyond, Design, Terms
from jaxridge.linear.rounding import gram_unit
from jaxridge.linear.spectrum import Spectrum, from_design


class Rows(eqx.Module):
    """What rows seen so far come to; see `init`."""

    shift: Float[Array, " b"]  # m, of features and targets
    summed: Float[Array, "p p"]  # the triangle of √ω [1 X−m Y−m], or its Gram matrix
    largest: Float[Array, " b"]  # of the entries of √ω [X−m Y−m]
    rows: Int[Array, ""]  # of positive weight
    intercept: bool = eqx.field(static=True)
    targets: int = eqx.field(static=True)
    gram: bool = eqx.field(static=True)


def init(features: int, targets: int, *, intercept: bool = True, dtype: Any = None, gram: bool | None = None) -> Rows:
    """No rows yet, of that many features and targets.

    Args:
        dtype: of the rows; JAX's default float if it is None.
        gram: keep the Gram matrix, and not the triangle. None does so for float32 rows where float64 can be had (x64),
            and the spectrum is then in float64.

    >>> import jax.numpy as jnp
    >>> from jaxridge import stream
    >>> rows = stream.update(stream.init(1, 1), jnp.array([[0.0], [1.0], [2.0]]), jnp.array([1.0, 3.0, 5.0]))
    >>> print(stream.finish(rows).coef(jnp.array(2.0))[:, 0].round(4))
    [1. 2.]
    """
    dtype, finest = jnp.dtype(dtype or jnp.result_type(float)), jnp.dtype(jax.dtypes.canonicalize_dtype("float64"))
    if gram is None:
        gram = finest.itemsize > dtype.itemsize
    dtype, size = finest if gram else dtype, 1 + features + targets
    none, count = jnp.zeros(size - 1, dtype), jnp.zeros((), jnp.result_type(int))
    return Rows(none, jnp.zeros((size, size), dtype), none, count, bool(intercept), targets, bool(gram))


def update(rows: Rows, X: Float[Array, "n d"], y: Float[Array, "n *t"], weights: Array | None = None) -> Rows:
    """Add rows: features (n, d), targets (n,) or (n, t), weights (n,) as for `jaxridge.ridge`; n may be 0.

    A triangle by QR of the old one on top of the new rows: 2(n + p)p² flops for p = d + t + 1, so batches of a few p
    rows or more cost little beyond one QR of everything. A Gram matrix np² flops.
    """
    y = y.reshape(X.shape[0], -1) if y.ndim == 1 else y
    expected = rows.shift.shape[0] - rows.targets
    if X.shape != (y.shape[0], expected) or y.shape[1] != rows.targets:
        raise ValueError(
            f"X has shape {X.shape} and y {y.shape}; these rows have {expected} features and {rows.targets} targets."
        )
    if X.shape[0] == 0:
        return rows
    dtype = rows.summed.dtype
    A = jnp.concatenate([X.astype(dtype), y.astype(dtype)], axis=1)
    omega = jnp.ones((), dtype) if weights is None else poison(weights, weights >= 0).astype(dtype)[:, None]
    used = jnp.asarray(X.shape[0]) if weights is None else jnp.sum(weights > 0)
    total = jnp.sum(jnp.broadcast_to(omega, (X.shape[0], 1)))
    seen = A if weights is None else jnp.where(omega > 0, A, 0.0)
    mean = safe_divide(jnp.sum(omega * seen, axis=0), total)
    shift = jnp.where(rows.rows > 0, rows.shift, jax.lax.stop_gradient(mean))
    A = jnp.concatenate([jnp.ones((X.shape[0], 1), dtype), A - shift[None, :]], axis=1)
    A = A if weights is None else jnp.sqrt(omega) * A
    summed = _joined(rows.gram, rows.summed, inner(A, A) if rows.gram else A)
    largest = jnp.maximum(rows.largest, jnp.max(jnp.abs(jax.lax.stop_gradient(A[:, 1:])), axis=0))
    return _with(rows, shift, summed, largest, rows.rows + used.astype(rows.rows.dtype))


def merge(a: Rows, b: Rows) -> Rows:
    """The rows of both."""
    if a.summed.shape != b.summed.shape or (a.intercept, a.targets, a.gram) != (b.intercept, b.targets, b.gram):
        raise ValueError("merge needs rows of the same features, targets, intercept and form; init both alike.")
    shift = jnp.where(a.rows > 0, a.shift, b.shift)
    summed = _joined(a.gram, _about(a, shift), _about(b, shift))
    return _with(a, shift, summed, jnp.maximum(a.largest, b.largest), a.rows + b.rows)


def _with(rows: Rows, shift: Array, summed: Array, largest: Array, count: Array) -> Rows:
    return Rows(shift, summed, largest, count, rows.intercept, rows.targets, rows.gram)


def _joined(gram: bool, a: Float[Array, "p p"], b: Float[Array, "n p"]) -> Float[Array, "p p"]:
    """Of both: a sum of Gram matrices, or the triangle of what stands on top of each other."""
    return a + b if gram else jnp.linalg.qr(jnp.concatenate([a, b]), mode="r")


def _about(rows: Rows, shift: Float[Array, " b"]) -> Float[Array, "p p"]:
    """The sums about another shift: x − m' = x − m + 1 (m − m')."""
    moved = jnp.eye(rows.summed.shape[0], dtype=rows.summed.dtype).at[0, 1:].add(rows.shift - shift)
    summed = matmul(rows.summed, moved)
    return matmul(moved.T, summed) if rows.gram else summed


def _triangle(rows: Rows) -> tuple[Float[Array, "a p"], Float[Array, " t"]]:
    """R of √ω [1 X−m Y−m] without the rows that only Y has, and those rows' sum of squares.

    Of a Gram matrix: the column of ones by elimination, then C = D V diag(e) Vᵀ D of the features, of unit diagonal
    without D, as R = diag(√e) Vᵀ D. Eigenvalues that are rounding leave rows of zeros.
    """
    summed, t = rows.summed, rows.targets
    size = summed.shape[0] - t
    if not rows.gram:
        return summed[:size], jnp.sum(jnp.square(summed[size:, size:]), axis=0)
    top = safe_divide(summed[0], jnp.sqrt(summed[0, 0]))
    C = summed[1:, 1:] - jnp.outer(top[1:], top[1:])
    d = size - 1
    still = jax.lax.stop_gradient(C)
    D = jnp.sqrt(jnp.diagonal(still)[:d])
    e, V = jnp.linalg.eigh(safe_divide(still[:d, :d], jnp.outer(D, D)))
    kept = e > gram_unit((d, d), e.dtype)
    root, T = (jnp.where(kept, x, 0.0) for x in (jnp.sqrt(e), 1.0 / jnp.sqrt(jnp.where(kept, e, 1.0))))
    T = safe_divide(V, D[:, None]) * T[None, :]
    R = root[:, None] * (V.T * D[None, :])
    # Of a C that moves, (I + δ/2 − δ²/8 + δ³/16) R is the root to third order, δ = TᵀCT − I on the directions kept.
    change = matmul(T.T, matmul(C[:d, :d] - still[:d, :d], T))
    eye = jnp.eye(d, dtype=e.dtype)
    R = matmul(eye + matmul(change, eye / 2 - matmul(change, eye / 8 - change / 16)), R)
    inverse = matmul(eye - matmul(change, eye / 2 - matmul(change, 3 * eye / 8 - 5 * change / 16)), T.T)
    along = matmul(inverse, C[:d, d:])
    rest = jnp.maximum(jnp.diagonal(C)[d:] - jnp.sum(jnp.square(along), axis=0), 0.0)
    below = jnp.concatenate([jnp.zeros((d, 1), e.dtype), R, along], axis=1)
    return jnp.concatenate([top[None, :], below]), rest


def finish(rows: Rows, penalty: Array | None = None) -> Spectrum:
    """The spectrum of all rows, without leverages; ``penalty`` (d,) as for `jaxridge.ridge`.

    Its coefficients are those of the features and then the intercept; ``spectrum.problem.split`` takes them apart.
    Equals ``from_design`` of the rows. Derivatives in rows go through `update`, and for the features need columns that
    are linearly independent (with a Gram matrix they are NaN else); `coefficients` has no such limit.
    """
    d, first = rows.shift.shape[0] - rows.targets, int(rows.intercept)
    R, rss = _triangle(rows)
    # Means go back into the row of the column of ones, which the intercept takes away again without touching others.
    means = R[:, :1] * jax.lax.stop_gradient(rows.shift)[None, :]
    X, y = R[:, 1 : 1 + d] + means[:, :d], R[:, 1 + d :] + means[:, d:]
    penalty = jnp.ones(d, R.dtype) if penalty is None else penalty.astype(R.dtype)
    beyond = Beyond((rows.rows - R.shape[0]).astype(R.dtype), rss, rows.largest[:d], rows.gram)
    terms = Terms(rows.intercept, False, (), False)
    problem = Design(X=X, Z=R[:, :first], y=y, weights=None, penalty=penalty, terms=terms, beyond=beyond)
    spectrum = from_design(problem).without_rows()
    if not rows.gram:
        return spectrum
    live = poison_tangent(problem.X, spectrum.factor.rank >= d)
    return eqx.tree_at(lambda s: s.problem.X, spectrum, live)
