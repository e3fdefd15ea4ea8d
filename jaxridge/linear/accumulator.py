"""Rows a batch at a time, in what they come to: a monoid, so that batches and shards merge in any order.

Rows [1 x y] are shifted by the mean of the first batch before anything is summed, so that large means swamp nothing,
and √ω [1 X−m_X Y−m_Y] is known either by the triangle R of its QR factorisation, or by its Gram matrix in float64.
For float32 rows the Gram matrix is the more exact of the two by four digits at condition 1e4, and cheaper; for float64
rows the triangle is, since a Gram matrix squares the condition (`plan.rows`). Rows may be dealt to folds in turn, each
with sums of its own, so that one pass serves k-fold cross-validation.
"""

from functools import reduce
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxridge.core import plan
from jaxridge.core.checks import as_flag, as_floats
from jaxridge.core.numbers import inner, matmul, poison, poison_tangent, safe_divide
from jaxridge.core.types import Array, Float, Int
from jaxridge.linear.design import Beyond, Design, Terms, static_columns
from jaxridge.linear.rounding import gram_unit
from jaxridge.linear.spectrum import Spectrum, from_design


class Rows(eqx.Module):
    """What rows seen so far come to; see `init`. With folds every array has an axis of them in front."""

    shift: Float[Array, "*f b"]  # m, of features and targets
    summed: Float[Array, "*f p p"]  # the triangle of √ω [1 X−m Y−m], or its Gram matrix
    largest: Float[Array, "*f b"]  # of the entries of √ω [X−m Y−m]; 0 for a Gram matrix, whose rounding needs none
    rows: Int[Array, "*f"]  # of positive weight
    seen: Int[Array, "*f"]  # of any weight
    intercept: bool = eqx.field(static=True)
    targets: int = eqx.field(static=True)
    gram: bool = eqx.field(static=True)
    folds: int = eqx.field(static=True, default=0)
    single: bool = eqx.field(static=True, default=False)  # targets come as one vector, and answers go back as one
    rounded: bool = eqx.field(static=True, default=False)  # sums of finer digits, a triangle of them in coarser ones

    @property
    def features(self) -> int:
        """d."""
        return self.shift.shape[-1] - self.targets


def init(
    features: int,
    targets: int | None = None,
    *,
    intercept: bool = True,
    dtype: Any = None,
    gram: bool | None = None,
    folds: int = 0,
) -> Rows:
    """No rows yet; see `stream.init`."""
    finest = jnp.dtype(jax.dtypes.canonicalize_dtype("float64"))
    route = plan.rows(jnp.dtype(dtype or jnp.result_type(float)), finest, gram)
    folds = plan.whole("folds", folds)
    if folds == 1:
        raise ValueError("folds is 1; at least 2 are needed, or 0 for none.")
    dtype, front = jnp.dtype(route.dtype), (folds,) if folds else ()
    size = 1 + features + (1 if targets is None else targets)
    none, count = jnp.zeros((*front, size - 1), dtype), jnp.zeros(front, jnp.result_type(int))
    summed = jnp.zeros((*front, size, size), dtype)
    gram = route.form == "gram"
    return Rows(
        none, summed, none, count, count, as_flag("intercept", intercept), targets or 1, gram, folds, targets is None
    )


def update(rows: Rows, X: Float[Array, "n d"], y: Float[Array, "n t"], weights: Array | None = None) -> Rows:
    """Add rows that fit; see `stream.update`."""
    return _dealt(rows, X, y, weights) if rows.folds else _added(rows, X, y, weights)


def _dealt(rows: Rows, X: Float[Array, "n d"], y: Float[Array, "n t"], weights: Array | None) -> Rows:
    """Rows in turn to every fold, the first to the one that is next; folds that get none get one of weight 0."""
    n, folds = X.shape[0], rows.folds
    missing = -n % folds
    if missing and weights is None:
        weights = jnp.ones(n, X.dtype)

    def split(M: Array) -> Array:
        M = jnp.pad(M, ((0, missing), *((0, 0) for _ in M.shape[1:])))
        return jnp.moveaxis(M.reshape(-1, folds, *M.shape[1:]), 1, 0)

    turn = jnp.sum(rows.seen) % folds
    ahead = jax.tree.map(lambda leaf: jnp.roll(leaf, -turn, axis=0), rows)
    parts = (split(X), split(y), None if weights is None else split(weights))
    added = jax.vmap(_added)(ahead, *parts)
    seen = ahead.seen + (n - jnp.arange(folds) + folds - 1) // folds
    added = eqx.tree_at(lambda rows: rows.seen, added, seen.astype(rows.seen.dtype))
    return jax.tree.map(lambda leaf: jnp.roll(leaf, turn, axis=0), added)


def _added(rows: Rows, X: Float[Array, "n d"], y: Float[Array, "n t"], weights: Array | None) -> Rows:
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
    largest = rows.largest
    if not rows.gram:
        largest = jnp.maximum(largest, jnp.max(jnp.abs(jax.lax.stop_gradient(A[:, 1:])), axis=0))
    counts = rows.rows + used.astype(rows.rows.dtype), rows.seen + X.shape[0]
    return with_sums(rows, shift, summed, largest, *counts)


def merge(a: Rows, b: Rows) -> Rows:
    """The rows of both, fold by fold."""
    return jax.vmap(_merged)(a, b) if a.folds else _merged(a, b)


def alike(a: Rows, b: Rows) -> bool:
    """Whether two sums are of one kind of rows."""
    kinds = [(x.summed.shape, x.intercept, x.targets, x.gram, x.folds, x.single, x.rounded) for x in (a, b)]
    return kinds[0] == kinds[1]


def _merged(a: Rows, b: Rows) -> Rows:
    shift = jnp.where(a.rows > 0, a.shift, b.shift)
    summed = _joined(a.gram, _about(a, shift), _about(b, shift))
    return with_sums(a, shift, summed, jnp.maximum(a.largest, b.largest), a.rows + b.rows, a.seen + b.seen)


def with_sums(rows: Rows, shift: Any, summed: Any, largest: Any, count: Any, seen: Any) -> Rows:
    """Other sums of rows of the same kind."""
    kind = rows.intercept, rows.targets, rows.gram, rows.folds, rows.single, rows.rounded
    return Rows(shift, summed, largest, count, seen, *kind)


def parts(rows: Rows) -> Rows:
    """The folds, as rows without any under `vmap`."""
    sums = rows.shift, rows.summed, rows.largest, rows.rows, rows.seen
    return Rows(*sums, rows.intercept, rows.targets, rows.gram, 0, rows.single, rows.rounded)


def whole(rows: Rows) -> Rows:
    """All rows, whatever fold they are in."""
    if not rows.folds:
        return rows
    each = [jax.tree.map(lambda leaf, f=f: leaf[f], parts(rows)) for f in range(rows.folds)]
    return reduce(_merged, each)


def complements(rows: Rows) -> Rows:
    """For each fold the rows of all others, from prefixes and suffixes: nothing is subtracted."""
    each = parts(rows)
    nothing = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), each)

    def step(state: Rows, fold: Rows) -> tuple[Rows, Rows]:
        return _merged(state, fold), state

    _, before = jax.lax.scan(step, nothing, each)
    _, after = jax.lax.scan(step, nothing, each, reverse=True)
    return jax.vmap(_merged)(before, after)


def _joined(gram: bool, a: Float[Array, "p p"], b: Float[Array, "n p"]) -> Float[Array, "p p"]:
    """Of both: a sum of Gram matrices, or the triangle of what stands on top of each other."""
    return a + b if gram else jnp.linalg.qr(jnp.concatenate([a, b]), mode="r")


def _about(rows: Rows, shift: Float[Array, " b"]) -> Float[Array, "p p"]:
    """The sums about another shift: x − m' = x − m + 1 (m − m')."""
    moved = jnp.eye(rows.summed.shape[0], dtype=rows.summed.dtype).at[0, 1:].add(rows.shift - shift)
    summed = matmul(rows.summed, moved)
    return matmul(moved.T, summed) if rows.gram else summed


def triangle(rows: Rows) -> tuple[Float[Array, "a p"], Float[Array, " t"]]:
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


def finish(
    rows: Rows,
    penalty: Array | None = None,
    *,
    unpenalized: int | tuple[int, ...] = (),
    standardize: bool = False,
) -> Spectrum:
    """The spectrum of all rows; see `stream.finish`."""
    rows = whole(rows)
    R, rss = triangle(rows)
    return of_triangle(rows, R, rss, rows.gram, penalty, unpenalized, standardize)


def of_triangle(
    rows: Rows,
    R: Float[Array, "a p"],
    rss: Float[Array, " t"],
    gram: bool,
    penalty: Array | None,
    unpenalized: int | tuple[int, ...],
    standardize: bool,
) -> Spectrum:
    """The spectrum of the triangle of √ω [1 X−m Y−m]; ``gram`` says whether its rounding is that of a Gram matrix."""
    d, first = rows.features, int(rows.intercept)
    free = np.array(static_columns(unpenalized, d), int)
    kept = np.setdiff1d(np.arange(d), free)
    if penalty is None:
        penalty = jnp.ones(d, R.dtype)
    else:
        penalty = as_floats("penalty", penalty, (1,)).astype(R.dtype)
        if penalty.shape != (d,):
            raise ValueError(f"penalty has shape {penalty.shape}; one positive number per column of X: ({d},).")
    if standardize:
        penalty = penalty * _variance(rows, R)
    # Means go back into the row of the column of ones, which the intercept takes away again without touching others.
    means = R[:, :1] * jax.lax.stop_gradient(rows.shift).astype(R.dtype)[None, :]
    X, y = R[:, 1 : 1 + d] + means[:, :d], R[:, 1 + d :] + means[:, d:]
    largest = rows.largest[:d]
    if len(free):
        Z, X, penalty, largest = X[:, free], X[:, kept], penalty[kept], largest[kept]
        Z = jnp.concatenate([R[:, :first], Z], axis=1)
    else:
        Z = R[:, :first]
    beyond = Beyond(
        (rows.rows - R.shape[0]).astype(R.dtype), rss, None if rows.rounded else largest, gram, rows.rounded
    )
    terms = Terms(rows.intercept, as_flag("standardize", standardize), tuple(free.tolist()), rows.single)
    problem = Design(X=X, Z=Z, y=y, weights=None, penalty=penalty, terms=terms, beyond=beyond)
    spectrum = from_design(problem).without_rows()
    if not gram:
        return spectrum
    live = poison_tangent(problem.X, spectrum.factor.rank >= X.shape[1])
    return eqx.tree_at(lambda s: s.problem.X, spectrum, live)


def _variance(rows: Rows, R: Float[Array, "a p"]) -> Float[Array, " d"]:
    """Weighted variance of each feature, what R has of it below the row of the column of ones; 1 for a constant."""
    d = rows.features
    total = jnp.square(R[0, 0])
    variance = safe_divide(jnp.sum(jnp.square(R[1:, 1 : 1 + d]), axis=0), total)
    # Entries are known to half an eps of the largest, so a smaller deviation is rounding.
    typical = jnp.sqrt(safe_divide(total, rows.rows.astype(R.dtype)))
    size = jnp.abs(rows.shift[:d]) + safe_divide(rows.largest[:d], typical)
    rounding = 2.0 * jnp.finfo(R.dtype).eps * jax.lax.stop_gradient(size).astype(R.dtype)
    return jnp.where(variance <= jnp.square(rounding), 1.0, variance)
