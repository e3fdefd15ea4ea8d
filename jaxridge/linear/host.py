"""The sums of streamed rows in NumPy's float64: nothing is compiled, and products are those of its BLAS.

Rows are laid out a feature at a time, A = √ω [1 X−m Y−m]ᵀ, in blocks that stay in the cache, so that AAᵀ is one
symmetric product. Float64 is kept where x64 is off; only what comes of the sums is rounded (`on_device`).
"""

from collections.abc import Callable
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxridge.core import plan
from jaxridge.linear.accumulator import Rows, with_sums

_Sums: Any = Rows  # of NumPy arrays
BLOCK = 2**19  # numbers in a block: 4 MiB, measured

Join = Callable[[np.ndarray, np.ndarray], np.ndarray]


def by_qr(R: np.ndarray, A: np.ndarray) -> np.ndarray:
    """The triangle of R on top of Aᵀ, by Householder reflections."""
    return _qr(np.concatenate([R, A.T]))


def _qr(A: Any) -> Any:
    return np.linalg.qr(A, mode="r")


def init(
    features: int,
    targets: int | None = None,
    *,
    intercept: bool = True,
    dtype: Any = "float64",
    gram: bool | None = None,
    folds: int = 0,
) -> Rows:
    """No rows yet; args are those of `stream.init`, and rows are float32 or float64."""
    folds = plan.whole("folds", folds)
    if folds == 1:
        raise ValueError("folds is 1; at least 2 are needed, or 0 for none.")
    front = (folds,) if folds else ()
    form = plan.rows(dtype, "float64", gram).form
    size = 1 + features + (1 if targets is None else targets)
    none, count = np.zeros((*front, size - 1)), np.zeros(front, np.int64)
    summed = np.zeros((*front, size, size))
    return _Sums(none, summed, none, count, count, intercept, targets or 1, form == "gram", folds, targets is None)


def update(rows: Rows, X: Any, y: Any, weights: Any = None, joined: Join = by_qr) -> Rows:
    """Add rows, NumPy arrays (n, d), (n,) or (n, t), and (n,); what is not finite makes the sums so too.

    ``joined`` is how a triangle takes up a block of rows.
    """
    with np.errstate(all="ignore"):  # what is not finite is looked for in the sums
        return _updated(rows, X, y.reshape(len(X), -1), weights, joined)


def _updated(rows: Rows, X: Any, y: Any, weights: Any, joined: Join) -> Rows:
    if not rows.folds:
        return _added(rows, X, y, weights, joined)
    turn = int(np.sum(rows.seen)) % rows.folds
    parts = []
    for fold in range(rows.folds):
        mine = slice((fold - turn) % rows.folds, None, rows.folds)
        parts.append(_added(part(rows, fold), X[mine], y[mine], None if weights is None else weights[mine], joined))
    return _stacked(rows, parts)


def part(rows: Rows, fold: int) -> Rows:
    """The sums of one fold."""
    sums = (leaf[fold] for leaf in (rows.shift, rows.summed, rows.largest, rows.rows, rows.seen))
    return _Sums(*sums, rows.intercept, rows.targets, rows.gram, 0, rows.single)


def _stacked(rows: Rows, parts: list[Rows]) -> Rows:
    leaves = zip(*((x.shift, x.summed, x.largest, x.rows, x.seen) for x in parts), strict=True)
    return with_sums(rows, *map(np.stack, leaves))


def _added(rows: Rows, X: Any, y: Any, weights: Any, joined: Join) -> Rows:
    n, d, p = len(X), rows.features, rows.summed.shape[-1]
    if n == 0:
        return rows
    summed: Any = rows.summed
    shift, largest = rows.shift, rows.largest
    if rows.rows == 0:
        shift = np.concatenate([_mean(X, weights), _mean(y, weights)])
    root = None if weights is None else np.sqrt(np.asarray(weights, np.float64))
    # Blocks of a few p rows, so that what a triangle costs once for each is little.
    block = max(512 if rows.gram else 4 * p, BLOCK // p)
    A = np.empty((p, min(n, block)))
    for start in range(0, n, block):
        stop = min(n, start + block)
        A = A if stop - start == A.shape[1] else np.empty((p, stop - start))
        A[0] = 1.0
        np.subtract(X[start:stop].T, shift[:d, None], out=A[1 : 1 + d])
        np.subtract(y[start:stop].T, shift[d:, None], out=A[1 + d :])
        if root is not None:
            A *= root[start:stop]
        if rows.gram:
            summed = summed + A @ A.T
            continue
        largest = np.maximum(largest, np.maximum(A[1:].max(axis=1), -A[1:].min(axis=1)))
        summed = joined(summed, A)
    used = n if root is None else np.count_nonzero(root)
    return with_sums(rows, shift, summed, largest, rows.rows + used, rows.seen + n)


def _mean(M: Any, weights: Any) -> Any:
    if weights is None:
        return np.mean(M, axis=0, dtype=np.float64)
    total = np.sum(weights, dtype=np.float64)
    kept = np.where(np.asarray(weights)[:, None] > 0, M, 0.0)
    return np.asarray(weights, np.float64) @ kept / (total or 1.0)


@np.errstate(all="ignore")
def merge(a: Rows, b: Rows) -> Rows:
    """The rows of both, fold by fold."""
    if a.folds:
        return _stacked(a, [merge(part(a, fold), part(b, fold)) for fold in range(a.folds)])
    if a.rows == 0 or b.rows == 0:
        some = b if a.rows == 0 else a
        return with_sums(a, some.shift, some.summed, some.largest, a.rows + b.rows, a.seen + b.seen)
    moved = _move(b.shift, a.shift)
    there = b.summed @ moved
    summed = a.summed + moved.T @ there if a.gram else _qr(np.concatenate([a.summed, there]))
    return with_sums(a, a.shift, summed, np.maximum(a.largest, b.largest), a.rows + b.rows, a.seen + b.seen)


def whole(rows: Rows) -> Rows:
    """All rows, whatever fold they are in."""
    return reduce(merge, [part(rows, fold) for fold in range(rows.folds)]) if rows.folds else rows


@np.errstate(all="ignore")
def on_device(rows: Rows) -> Rows:
    """The same sums as arrays of JAX: as they are where x64 is on, else as float32 triangles.

    A triangle that is rounded loses the condition times eps of the coefficients, a rounded Gram matrix its square.
    """
    if not isinstance(rows.summed, np.ndarray):
        return rows
    if jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        return jax.tree.map(jnp.asarray, rows)
    # About one shift that needs no more rounding, so that folds need none to be merged.
    about = whole(rows).shift.astype(np.float32).astype(np.float64)
    each = [_rounded(part(rows, fold), about) for fold in range(rows.folds)] if rows.folds else [_rounded(rows, about)]
    sums = [np.stack(x) if rows.folds else x[0] for x in zip(*each, strict=True)]
    kind = rows.intercept, rows.targets, False, rows.folds, rows.single, True
    return _Sums(*map(jnp.asarray, sums), *kind)


def _rounded(rows: Rows, about: Any) -> Any:
    """The sums about another shift, as a triangle."""
    R = (_triangle(rows) if rows.gram else rows.summed) @ _move(rows.shift, about)
    R = _qr(R) if np.isfinite(R).all() else np.full_like(R, np.nan)
    return (
        about.astype(np.float32),
        R.astype(np.float32),
        rows.largest.astype(np.float32),
        np.int32(rows.rows),
        np.int32(rows.seen),
    )


def _move(before: Any, after: Any) -> Any:
    """[1 x−m] times this is [1 x−m']."""
    moved = np.eye(len(before) + 1)
    moved[0, 1:] = before - after
    return moved


def _triangle(rows: Rows) -> Any:
    """R with RᵀR the Gram matrix: the column of ones by elimination, then eigenvectors of the rest, scaled alike."""
    top = rows.summed[0] / np.sqrt(rows.summed[0, 0] or 1.0)
    C = rows.summed[1:, 1:] - np.outer(top[1:], top[1:])
    D = np.sqrt(np.maximum(np.diagonal(C), 0.0))
    over = np.where(D > 0, 1.0 / np.where(D > 0, D, 1.0), 0.0)
    C = C * np.outer(over, over)
    if not np.isfinite(C).all():
        return np.full(rows.summed.shape, np.nan)
    e, V = np.linalg.eigh(C)
    below = np.sqrt(np.maximum(e, 0.0))[:, None] * (V.T * D)
    return np.concatenate([top[None, :], np.pad(below, ((0, 0), (1, 0)))])


def moments(rows: Rows) -> Any:
    """Σω and the weighted variance of every column; 0 where it is rounding."""
    R = _triangle(rows) if rows.gram else rows.summed
    total = R[0, 0] ** 2
    variance = np.sum(np.square(R[1:, 1:]), axis=0) / total
    size = np.abs(rows.shift) + rows.largest * np.sqrt(rows.rows / total)
    return float(total), np.where(variance <= np.square(2 * np.finfo(float).eps * size), 0.0, variance)
