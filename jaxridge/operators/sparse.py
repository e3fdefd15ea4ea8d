"""A sparse matrix as an operator: products by gathers and short sums, of it and of its transpose, in memory O(nnz).

Entries of each row lie in segments of one length, filled up with zeros, the first of all segments together, then the
second, and so on: a product is a sum over them of gathers, and then of the few segments of a row. It takes between the
time of SciPy's and twice that; scatters of single entries, which XLA does one after another, would take ten times it.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxridge.core.types import Array, Float, Int
from jaxridge.operators.base import Operator, structure, take

__all__ = ["Sparse", "is_sparse", "sparse"]


class Segments(eqx.Module):
    """Where the entries of a matrix lie: their columns and places in ``data``, and the row of each segment."""

    columns: Int[Array, "l s"]
    places: Int[Array, "l s"]  # nnz for none
    rows: Int[Array, " s"]
    count: int = eqx.field(static=True)  # of rows

    def values(self, data: Float[Array, " nnz"]) -> Float[Array, "l s"]:
        """Entries in their places, 0 for none."""
        return jnp.concatenate([data, jnp.zeros(1, data.dtype)])[self.places]

    def sums(self, parts: Float[Array, " s"]) -> Float[Array, " n"]:
        """Of the segments of each row."""
        return jax.ops.segment_sum(parts, self.rows, self.count, indices_are_sorted=True)

    def product(self, values: Float[Array, "l s"], x: Float[Array, " d"]) -> Float[Array, " n"]:
        """Of the matrix with these entries and x."""

        def add(total: Array, entries: tuple[Array, Array]) -> tuple[Array, None]:
            value, column = entries
            return total + value * take(x, column), None

        # Eight at a time: sums that stay in registers, on CPU half the time.
        none = jnp.zeros(self.rows.shape, x.dtype)
        return self.sums(jax.lax.scan(add, none, (values, self.columns), unroll=8)[0])


class Sparse(Operator):
    """x ↦ X x of a sparse matrix; see `sparse`. Derivatives flow through ``data``, the entries."""

    data: Float[Array, " nnz"]
    along: Float[Array, "l s"]  # the entries by rows
    across: Float[Array, "l s"]  # and by columns
    by_rows: Segments
    by_columns: Segments

    def apply(self, x: Float[Array, " d"]) -> Float[Array, " n"]:
        return self.by_rows.product(self.along.astype(x.dtype), x)

    def transpose(self) -> "Sparse":
        return Sparse(self.codomain, self.domain, self.data, self.across, self.along, self.by_columns, self.by_rows)

    def astype(self, dtype: Any) -> "Sparse":
        """In another dtype."""
        domain, codomain = (jax.ShapeDtypeStruct(side.shape, dtype) for side in (self.domain, self.codomain))
        data, along, across = (x.astype(dtype) for x in (self.data, self.along, self.across))
        return Sparse(domain, codomain, data, along, across, self.by_rows, self.by_columns)

    def centred(self, weights: Float[Array, " n"] | None) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
        """Weighted mean and variance of each column: Σω(x−μ)² over its entries, and μ² for every zero."""
        n = self.codomain.shape[0]
        omega = jnp.ones(n, self.data.dtype) if weights is None else weights
        places, sums = self.by_columns, lambda parts: self.by_columns.sums(jnp.sum(parts, axis=0))
        total, there = jnp.sum(omega), jnp.where(places.places < self.data.shape[0], omega[places.columns], 0.0)
        mean = sums(there * self.across) / total
        deviation = there * jnp.square(self.across - mean[places.rows][None, :])
        zeros = jnp.maximum(total - sums(there), 0.0)
        return mean, (sums(deviation) + zeros * jnp.square(mean)) / total


class Entries(NamedTuple):
    """A sparse matrix as its entries."""

    data: Any
    rows: np.ndarray
    columns: np.ndarray
    shape: tuple[int, int]


def is_sparse(X: Any) -> bool:
    """Whether it is a matrix of SciPy, of ``jax.experimental.sparse``, or a `Sparse`."""
    return isinstance(X, Sparse) or (hasattr(X, "todense") and hasattr(X, "shape") and not hasattr(X, "__array__"))


def sparse(X: Any, *, columns: Any = None) -> Sparse:
    """A matrix of SciPy (CSR, CSC, COO) or a ``BCOO`` of JAX as an operator, without making it dense.

    Args:
        columns: keep these columns of X, in this order.
    Its pattern has to be known: make it outside of ``jit``, where the operator itself may go, with its entries live.

    >>> import jax.numpy as jnp
    >>> from jax.experimental.sparse import BCOO
    >>> from jaxridge import operators
    >>> X = operators.sparse(BCOO.fromdense(jnp.array([[1.0, 0.0], [2.0, 3.0]])))
    >>> X.mv(jnp.array([1.0, 1.0])).tolist(), X.T.mv(jnp.array([1.0, 1.0])).tolist()
    ([1.0, 5.0], [3.0, 3.0])
    """
    data, row, column, (n, d) = entries_of(X)
    if columns is not None:
        place = np.full(d, -1)
        place[np.asarray(columns)] = np.arange(len(columns))
        kept = np.flatnonzero(place[column] >= 0)
        data, row, column, d = data[kept], row[kept], place[column[kept]], len(columns)
    by_rows, by_columns = segments(row, column, n), segments(column, row, d)
    data = jnp.asarray(data)
    domain, codomain = structure((d,), data.dtype), structure((n,), data.dtype)
    return Sparse(domain, codomain, data, by_rows.values(data), by_columns.values(data), by_rows, by_columns)


def entries_of(X: Any) -> Entries:
    """The entries of a matrix whose pattern is known, or a ``ValueError``."""
    if isinstance(X, Sparse):
        rows = np.broadcast_to(np.asarray(X.by_rows.rows)[None, :], X.by_rows.places.shape)
        there = np.asarray(X.by_rows.places) < X.data.shape[0]
        order = np.argsort(np.asarray(X.by_rows.places)[there])
        n, d = X.codomain.shape[0], X.domain.shape[0]
        return Entries(X.data, rows[there][order], np.asarray(X.by_rows.columns)[there][order], (n, d))
    if len(X.shape) != 2:
        raise ValueError(f"X is sparse of shape {X.shape}; a matrix (n, d) is needed.")
    shape = int(X.shape[0]), int(X.shape[1])
    if hasattr(X, "tocoo"):
        coo = X.tocoo()
        coo.sum_duplicates()
        return Entries(_floats(coo.data), coo.row, coo.col, shape)
    if not hasattr(X, "indices") or X.indices.ndim != 2 or X.indices.shape[1] != 2:
        raise ValueError(f"X is sparse ({type(X).__name__}); pass a matrix of SciPy, or a BCOO without dense axes.")
    if isinstance(X.indices, Tracer):
        raise ValueError(
            "X is sparse and its indices are traced; make operators.sparse(X) outside of jit, and pass that."
        )
    places = np.asarray(X.indices)
    # A BCOO is padded with places outside of the matrix.
    inside = np.flatnonzero((places < np.array(X.shape)).all(axis=1))
    return Entries(_floats(X.data)[inside], places[inside, 0], places[inside, 1], shape)


def _floats(data: Any) -> Any:
    data = data if isinstance(data, jax.Array) else np.asarray(data)
    if jnp.issubdtype(data.dtype, jnp.complexfloating):
        raise ValueError(f"X is complex ({data.dtype}); pass a real matrix.")
    return data if jnp.issubdtype(data.dtype, jnp.floating) else data.astype(jnp.result_type(float))


def segments(rows: np.ndarray, columns: np.ndarray, count: int) -> Segments:
    """Segments about as long as a row is on average, in powers of two, so that they hold few times as many zeros."""
    order = np.argsort(rows, kind="stable")
    lengths = np.bincount(rows, minlength=count)
    mean = len(rows) / max(np.count_nonzero(lengths), 1)
    length = 1 << max(2, round(np.log2(max(mean, 1.0))))
    pieces = -(-lengths // length)
    starts, firsts = np.cumsum(lengths) - lengths, np.cumsum(pieces) - pieces
    row = rows[order]
    within = np.arange(len(rows)) - starts[row]
    at = within % length, firsts[row] + within // length
    total = max(int(pieces.sum()), 1)
    placed, where = np.full((length, total), len(rows), np.int32), np.zeros((length, total), np.int32)
    placed[at], where[at] = order, columns[order]
    of = np.repeat(np.arange(count, dtype=np.int32), pieces) if len(rows) else np.zeros(1, np.int32)
    return Segments(jnp.asarray(where), jnp.asarray(placed), jnp.asarray(of), count)
