"""One pass over a source of rows: sums on the host, what is wrong named or left out, and checkpoints on the way."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxridge.distributed.blas import by_cholesky
from jaxridge.distributed.checkpoint import load, save
from jaxridge.distributed.sources import Batch, Source, Unreadable, ahead
from jaxridge.linear import host
from jaxridge.linear.accumulator import Rows
from jaxridge.linear.spectrum import Spectrum
from jaxridge.linear.stream import leave_one_out_sum

__all__ = ["Gathered", "gather", "leave_one_out"]


class Gathered(NamedTuple):
    """What rows come to, for `stream.path`, `stream.choose` and `stream.finish`; and what was left out of them."""

    rows: Rows
    notes: tuple[str, ...]


def gather(
    source: Source,
    *,
    intercept: bool = True,
    gram: bool | None = None,
    folds: int = 0,
    skip_bad: bool = False,
    checkpoint: Any = None,
    every: float = 30.0,
    progress: Callable[[int, int | None], None] = lambda rows, total: None,
) -> Gathered:
    """Every row of a source, once.

    Args:
        intercept, gram, folds: those of `stream.init`.
        skip_bad: leave out rows that hold what is not finite, and the rest of a piece that cannot be read, with a note
            on each; without it they are an `Unreadable` that names piece and rows.
        checkpoint: a file that is written every so many seconds (``every``) and at the end, and from which a pass goes
            on that was cut off: to the same bits, since batches are the same. A checkpoint of other data is refused.
        progress: called with the rows seen so far and all of them, None if that is not known.
    """
    rows = host.init(source.features, source.targets, intercept=intercept, dtype=source.dtype, gram=gram, folds=folds)
    at, notes = (0, 0), []
    terms = f"{source.signature()}; intercept {intercept}, gram {rows.gram}, folds {folds}, skip_bad {skip_bad}"
    if checkpoint is not None and Path(checkpoint).exists():
        rows, left = load(checkpoint)
        if left["terms"] != terms:
            raise Unreadable(f"{checkpoint} is of other data or terms; remove it, or name another.")
        at, notes = tuple(left["at"]), left["notes"]

    def keep() -> None:
        if checkpoint is not None:
            save(checkpoint, rows, terms=terms, at=at, notes=notes)

    written = time.monotonic()
    for piece in range(at[0], len(source.pieces)):
        first = at[1] if piece == at[0] else 0
        before = int(np.sum(rows.seen)) - first
        try:
            for batch in ahead(source.read(piece, first)):
                rows = _with_batch(source, piece, rows, batch, skip_bad, notes)
                at = (piece, batch.first + len(batch.X))
                progress(int(np.sum(rows.seen)), source.total)
                if time.monotonic() - written > every:
                    keep()
                    written = time.monotonic()
        except Unreadable as error:
            if not skip_bad:
                raise
            notes.append(f"left out: {error}")
        if int(np.sum(rows.seen)) - before == 0:
            notes.append(f"{source.pieces[piece]} has no rows")
        at = (piece + 1, 0)
    if not np.any(rows.rows):
        raise Unreadable(f"{source.pieces[0]}: no row of positive weight is left; at least one is needed.")
    keep()
    return Gathered(rows, tuple(notes))


def _with_batch(source: Source, piece: int, rows: Rows, batch: Batch, skip_bad: bool, notes: list[str]) -> Rows:
    """The sums with a batch, in which whatever is not finite shows; only then its rows are looked at one by one."""
    X, y, weights, _ = batch
    if weights is None or not np.any(weights < 0):
        more = host.update(rows, X, y, weights, by_cholesky)
        if np.isfinite(more.summed).all():
            return more
    good = np.asarray(np.isfinite(X).all(axis=1) & np.isfinite(y).reshape(len(X), -1).all(axis=1))
    if weights is not None:
        good = np.asarray(good & np.isfinite(weights) & (weights >= 0))
    said = _wrong(source, piece, batch, good)
    if good.all():
        raise Unreadable(f"{said} bring the columns nearer to 1.")
    if not skip_bad:
        raise Unreadable(f"{said} drop these rows or impute the values, or leave them out on request (skip_bad).")
    notes.append(f"left out: {said}")
    kept = Batch(X[good], y[good], None if weights is None else weights[good], batch.first)
    return _with_batch(source, piece, rows, kept, False, notes)


def _wrong(source: Source, piece: int, batch: Batch, good: np.ndarray) -> str:
    """Which rows of a piece, counted from 1, and in which columns."""
    if good.all():
        return f"{source.pieces[piece]}: squares of rows from {batch.first + 1} on leave the range of float64;"
    table = np.column_stack([batch.X, batch.y, *([] if batch.weights is None else [batch.weights])])[~good]
    names = [source.column(j) for j in np.flatnonzero(~np.isfinite(table).all(axis=0)).tolist()]
    what = (
        f"{_some(names)} {'is' if len(names) == 1 else 'are'} missing or infinite" if names else "weights are negative"
    )
    at = [str(batch.first + i + 1) for i in np.flatnonzero(~good)]
    return f"{source.pieces[piece]}: {what} in {len(at)} row{'s' * (len(at) > 1)} ({_some(at)});"


def _some(parts: list[str], most: int = 5) -> str:
    return ", ".join(parts[:most]) + (f" and {len(parts) - most} more" if len(parts) > most else "")


def _rows(X: Any) -> Any:
    """Features that are the columns themselves."""
    return X


def leave_one_out(source: Source, spectrum: Spectrum, lams: Any, *, loss: Callable[..., Any] = jnp.square) -> Any:
    """Mean leave-one-out loss at every λ (k, t) by a second pass; ``spectrum`` is ``stream.finish`` of the first.

    Equals `stream.leave_one_out`, for rows from any source; those that the first pass left out have no part.
    """
    dtype = spectrum.factor.s.dtype
    lams = jnp.asarray(lams, dtype)
    part = lambda X, y, w: leave_one_out_sum(spectrum, _rows, X, y, lams, weights=w, loss=loss)  # noqa: E731
    total, weight = 0.0, 0.0
    for piece in range(len(source.pieces)):
        for batch in ahead(source.read(piece)):
            X, y, weights = _padded(batch)
            parts = (jnp.asarray(M, dtype) for M in (X, y, weights))
            total, weight = (
                total + np.asarray(part(*parts), np.float64),
                weight + float(np.sum(weights, dtype=np.float64)),
            )
    return jnp.asarray(total / weight, dtype)


def _padded(batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A batch of 2ᵏ rows, so that few programs are compiled: rows that are missing or not finite weigh nothing."""
    n = len(batch.X)
    y, weights = batch.y.reshape(n, -1), np.ones(n) if batch.weights is None else batch.weights
    good = np.isfinite(batch.X).all(axis=1) & np.isfinite(y).all(axis=1) & np.isfinite(weights)
    size = 1 << max(6, (n - 1).bit_length())
    X, y = (np.pad(np.where(good[:, None], M, 0.0), ((0, size - n), (0, 0))) for M in (batch.X, y))
    return X, y, np.pad(np.where(good, weights, 0.0), (0, size - n))
