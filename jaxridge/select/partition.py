"""Folds of cross-validation: which rows each one holds out, and what a loss on them comes to."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxridge.core.types import Array, Bool, Int


class Partition(eqx.Module):
    """Row numbers of the folds; a number beyond the rows stands for none, so that all folds have one length."""

    train: Int[Array, "f p"]
    test: Int[Array, "f v"]
    disjoint: bool = eqx.field(static=True)  # every row is held out once: triangles can be merged
    ragged: bool = eqx.field(static=True)
    rows: int = eqx.field(static=True)  # how many there are; if not disjoint, how many there must be
    first: int = eqx.field(static=True, default=0)  # the least row number that was given
    blocks: Int[Array, "b v"] | None = None  # where training rows are unions of blocks, those
    kept: Bool[Array, "f b"] | None = None  # and which of them


def partition(n: int, folds: int, key: Array | None, given: Partition | None) -> Partition:
    """Which rows each fold holds out: as given, or consecutive blocks, shuffled with a key."""
    if given is not None:
        return _fitting(given, n)
    if folds > n:
        raise ValueError(f"folds is {folds}, but X has only {n} rows.")
    result = blocks(n, folds)
    if key is None:
        return result
    order = jnp.append(jax.random.permutation(key, n), n)
    return Partition(order[result.train], order[result.test], True, result.ragged, n)


def _fitting(given: Partition, n: int) -> Partition:
    if given.disjoint and given.rows != n:
        raise ValueError(f"labels has {given.rows} entries; one for each of the {n} rows of X is needed.")
    if given.rows > n:
        raise ValueError(f"splits: row numbers go from {given.first} to {given.rows - 1}; X has rows 0 to {n - 1}.")
    return given


def blocks(n: int, folds: int) -> Partition:
    """Consecutive ones, the first n mod folds longer by a row; reckoned, since a list of n rows is no constant."""
    least, more = divmod(n, folds)
    fold = jnp.arange(folds)[:, None]
    size, start = least + (fold < more).astype(fold.dtype), fold * least + jnp.minimum(fold, more)
    held = jnp.arange(least + min(more, 1))[None, :]
    test = jnp.where(held < size, start + held, n)
    kept = jnp.arange(n - least)[None, :]
    train = jnp.minimum(jnp.where(kept < start, kept, kept + size), n)
    return Partition(train, test, True, more > 0, n)


def pairs(folds: Partition) -> Partition:
    """Each fold held out with another one left out beside it: f − 1 parts for the first one left out, and so on."""
    f = folds.test.shape[0]
    if not folds.disjoint or f < 3:
        raise ValueError("assess needs 3 folds at least that hold out every row once: select.kfold(5), or labels.")
    left, held = np.nonzero(~np.eye(f, dtype=bool))
    kept = (np.arange(f) != left[:, None]) & (np.arange(f) != held[:, None])
    of_each = np.nonzero(kept)[1].reshape(len(left), f - 2)
    train = folds.test[of_each].reshape(len(left), -1)
    return Partition(
        train, folds.test[held], False, folds.ragged, folds.rows, blocks=folds.test, kept=jnp.asarray(kept)
    )


def labelled(labels: np.ndarray) -> Partition:
    """A fold for each label, which is left out."""
    n, where = labels.shape[0], np.unique(labels, return_inverse=True)[1].ravel()
    held = [np.flatnonzero(where == label) for label in range(where.max(initial=-1) + 1)]
    if len(held) < 2:
        raise ValueError("labels name one group only; at least 2 folds are needed.")
    return _padded([np.setdiff1d(np.arange(n), rows) for rows in held], held, n, True)


def split(splits: list[tuple[np.ndarray, np.ndarray]]) -> Partition:
    """Pairs of training and test rows."""
    if not splits or any(not len(train) or not len(test) for train, test in splits):
        raise ValueError("splits: every pair needs at least one training row and one test row.")
    rows = np.concatenate([part for pair in splits for part in pair])
    if rows.min() < 0:
        raise ValueError(f"splits: row numbers go from {rows.min()} to {rows.max()}; the first row of X is 0.")
    return _padded(
        [train for train, _ in splits], [test for _, test in splits], int(rows.max()) + 1, False, int(rows.min())
    )


def _padded(train: list[np.ndarray], test: list[np.ndarray], n: int, disjoint: bool, first: int = 0) -> Partition:
    nothing = np.iinfo(np.int32).max

    def pad(folds: list[np.ndarray]) -> Array:
        longest = max(len(rows) for rows in folds)
        filled = [np.pad(rows, (0, longest - len(rows)), constant_values=nothing) for rows in folds]
        return jnp.asarray(np.stack(filled), jnp.int32)

    ragged = len({len(rows) for rows in train}) > 1
    return Partition(pad(train), pad(test), disjoint, ragged, n, first)


def take_rows(x: Array, rows: Int[Array, "*f p"]) -> Array:
    """Rows of x; zeros where there is no row."""
    return jnp.take(x, rows, axis=0, mode="fill", fill_value=0)


def mean_losses(e: Array, weights: Array, loss: Callable[[Array], Array]) -> Array:
    """Weighted mean loss over the rows of one fold; no row has weight 0."""
    weighted = jnp.where(weights[:, None] > 0, weights[:, None] * loss(e), 0.0)
    return jnp.sum(weighted, axis=0) / jnp.sum(weights)
