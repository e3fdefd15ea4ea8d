"""Folds of cross-validation: which rows each one holds out, and what a loss on them comes to."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxridge.core.types import Array, Int


class Partition(eqx.Module):
    """Row numbers of the folds; n stands for no row, so that all folds have one length."""

    train: Int[Array, "f p"]
    test: Int[Array, "f v"]
    disjoint: bool = eqx.field(static=True)  # every row is held out once: triangles can be merged
    ragged: bool = eqx.field(static=True)


def partition(
    n: int,
    folds: int,
    key: Array | None,
    labels: tuple[int, ...] | None,
    splits: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] | None,
) -> Partition:
    """Which rows each fold holds out: consecutive blocks, shuffled, by label, or as given."""
    if splits is not None:
        rows = np.array([i for pair in splits for part in pair for i in part])
        if not splits or any(not len(train) or not len(test) for train, test in splits):
            raise ValueError("splits: every pair needs at least one training row and one test row.")
        if rows.min() < 0 or rows.max() >= n:
            raise ValueError(f"splits: row numbers go from {rows.min()} to {rows.max()}; X has rows 0 to {n - 1}.")
        return _padded([np.array(train) for train, _ in splits], [np.array(test) for _, test in splits], n, False)
    if labels is not None:
        if len(labels) != n:
            raise ValueError(f"labels has {len(labels)} entries; one for each of the {n} rows of X is needed.")
        where = np.array(labels)
        blocks = [np.flatnonzero(where == label) for label in range(where.max() + 1)]
    else:
        if folds > n:
            raise ValueError(f"folds is {folds}, but X has only {n} rows.")
        blocks = np.array_split(np.arange(n), folds)
    if len(blocks) < 2:
        raise ValueError("labels name one group only; at least 2 folds are needed.")
    result = _padded([np.setdiff1d(np.arange(n), block) for block in blocks], blocks, n, True)
    if key is None:
        return result
    order = jnp.append(jax.random.permutation(key, n), n)
    return Partition(order[result.train], order[result.test], True, result.ragged)


def _padded(train: list[np.ndarray], test: list[np.ndarray], n: int, disjoint: bool) -> Partition:
    def pad(blocks: list[np.ndarray]) -> np.ndarray:
        longest = max(len(block) for block in blocks)
        return np.stack([np.pad(block, (0, longest - len(block)), constant_values=n) for block in blocks])

    ragged = len({len(block) for block in train}) > 1
    return Partition(jnp.asarray(pad(train)), jnp.asarray(pad(test)), disjoint, ragged)


def take_rows(x: Array, rows: Int[Array, "*f p"]) -> Array:
    """Rows of x; zeros where there is no row."""
    return jnp.take(x, rows, axis=0, mode="fill", fill_value=0)


def mean_losses(e: Array, weights: Array, loss: Callable[[Array], Array]) -> Array:
    """Weighted mean loss over the rows of one fold; no row has weight 0."""
    weighted = jnp.where(weights[:, None] > 0, weights[:, None] * loss(e), 0.0)
    return jnp.sum(weighted, axis=0) / jnp.sum(weights)
