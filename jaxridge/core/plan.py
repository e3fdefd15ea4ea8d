"""How a computation will be done, decided in one place from shapes alone, as a record that can be printed."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

__all__ = [
    "KERNEL_MEMORY",
    "MEMORY",
    "Chunks",
    "GramRoute",
    "KernelBlocks",
    "KernelRoute",
    "RowsRoute",
    "as_bytes",
    "chunks",
    "feature_block",
    "gram",
    "kernel",
    "kernel_blocks",
    "rows",
    "targets",
    "whole",
]

# Bytes for intermediate arrays at a time. Measured at 5000 rows × 100 targets × 100 λ on CPU: blocks of 64 MiB
# take 1.7 s, of 256 MiB 1.9 s, all at once 2.4 s, one λ at a time 1.9 s.
MEMORY = 2**26


def whole(name: str, value: Any, least: int = 0, unit: str = "") -> int:
    """``value`` as an ``int`` if it is a whole number from ``least`` on, 2e9 for one; else a ``ValueError``."""
    known = isinstance(value, int | float | np.integer | np.floating)
    if not known or not float(value).is_integer() or value < least:
        raise ValueError(f"{name} is {value!r}{unit}; pass a whole number from {least} on.")
    return int(value)


def as_bytes(memory: Any, least: int = 0) -> int:
    """``memory`` as a number of bytes."""
    return whole("memory", memory, least, " bytes")


class Chunks(NamedTuple):
    """How many λ are evaluated together, so that their rows × targets fit in the memory allowed."""

    lams: int
    together: int
    bytes: int
    memory: int

    def __str__(self) -> str:
        rounds, size = math.ceil(self.lams / self.together), f"{self.bytes / 2**20:.1f} MiB"
        if rounds == 1:
            return f"{self.lams} lams at once in {size}"
        return f"{self.lams} lams, {self.together} at a time in {rounds} rounds of {size}"


def chunks(rows: int, targets: int, lams: int, dtype: jnp.dtype, memory: int = MEMORY) -> Chunks:
    """Blocks of λ for arrays of rows × targets each, three of them alive at a time.

    >>> import jax.numpy as jnp
    >>> print(chunks(5000, 100, 100, jnp.dtype("float64"), memory=2**28))
    100 lams, 22 at a time in 5 rounds of 251.8 MiB
    """
    memory = as_bytes(memory, 1)
    each = max(3 * rows * targets * dtype.itemsize, 1)
    together = max(1, min(lams, memory // each))
    return Chunks(lams, together, together * each, memory)


def targets(rows: int, lams: int, dtype: jnp.dtype, memory: int = MEMORY) -> int:
    """How many targets at a time, where each has a λ of its own: with three arrays of a number per row and λ of each.

    >>> import jax.numpy as jnp
    >>> print(targets(5000, 20, jnp.dtype("float32"), memory=2**28))
    223
    """
    return max(1, as_bytes(memory, 1) // (3 * rows * lams * dtype.itemsize))


# Measured on CPU at 50 to 1000 columns: one eigh costs 2 to 26 Cholesky factorisations with their traces, the
# geometric mean is near 6 and a tie at 4 loses least. On accelerators the ratio is larger.
_FEW = 4


class GramRoute(NamedTuple):
    """How the Gram matrix is used for a grid: decomposed once, or factored anew at each λ."""

    lams: int
    route: str

    def __str__(self) -> str:
        spectral = f"one eigendecomposition for {self.lams} lams"
        return spectral if self.route == "spectral" else f"a Cholesky factorisation for each of {self.lams} lams"


def gram(lams: int) -> GramRoute:
    """The cheaper route through a Gram matrix for a path of that many λ; both are of one accuracy.

    >>> print(gram(2))
    a Cholesky factorisation for each of 2 lams
    >>> print(gram(100))
    one eigendecomposition for 100 lams
    """
    return GramRoute(lams, "cholesky" if lams <= _FEW else "spectral")


class RowsRoute(NamedTuple):
    """In what form streamed rows are kept, and in which dtype."""

    form: str
    dtype: str

    def __str__(self) -> str:
        what = {"gram": "their Gram matrix", "triangle": "the triangle of their QR factorisation"}
        return f"{what[self.form]} in {self.dtype}"


def rows(dtype: Any, finest: Any, gram: bool | None = None) -> RowsRoute:
    """The more exact form for rows of that dtype where ``finest`` is the best to be had, unless one is named.

    A Gram matrix squares the condition: in the dtype of the rows it loses to a triangle, in twice as many digits it
    wins by four at condition 1e4, and costs half.

    >>> print(rows("float32", "float64"))
    their Gram matrix in float64
    >>> print(rows("float64", "float64"))
    the triangle of their QR factorisation in float64
    """
    dtype, finest = np.dtype(dtype), np.dtype(finest)
    gram = finest.itemsize > dtype.itemsize if gram is None else gram
    return RowsRoute("gram", finest.name) if gram else RowsRoute("triangle", dtype.name)


# Bytes that kernel verbs may use, for the matrix and its factors or for what stands in their place.
KERNEL_MEMORY = 2**31
# Copies of an n × n matrix alive at a time in the dense routes: the kernel, its factor, and LAPACK's workspace.
COPIES = 5
# Above so many points products with all of the kernel take hours on a CPU, and the span of some centres stands for it.
_POINTS = 200_000


class KernelRoute(NamedTuple):
    """How a kernel is solved: densely at each λ, for all by a tridiagonal form or eigenvectors, or without a matrix."""

    points: int
    lams: int
    route: str

    def __str__(self) -> str:
        what = {
            "cholesky": f"a Cholesky factorisation for each of {self.lams} lams",
            "tridiagonal": f"one tridiagonalisation for {self.lams} lams",
            "eigen": f"one eigendecomposition for {self.lams} lams",
            "iterative": f"conjugate gradients on {self.lams} lams at once",
            "nystroem": f"the span of some centres (Nyström) for {self.lams} lams: an approximation",
        }
        return f"{self.points} points: {what[self.route]}"


def kernel(
    points: int,
    lams: int,
    dtype: jnp.dtype,
    *,
    leverages: bool = False,
    definite: bool = True,
    memory: int = KERNEL_MEMORY,
) -> KernelRoute:
    """The cheapest route through a kernel of that many points.

    Dense as long as the matrix and its factors fit into ``memory``. At 3000 points a Cholesky factorisation takes a
    twelfth of an eigendecomposition, and with all leverages a third; a tridiagonal form two fifths, and has no
    leverages. A matrix that may have negative eigenvalues (``definite`` is False) is not given to Cholesky, which
    would not see them.

    >>> import jax.numpy as jnp
    >>> print(kernel(3000, 30, jnp.dtype("float64")))
    3000 points: one tridiagonalisation for 30 lams
    >>> print(kernel(50_000, 30, jnp.dtype("float32")))
    50000 points: conjugate gradients on 30 lams at once
    """
    if COPIES * points * points * dtype.itemsize > memory:
        return KernelRoute(points, lams, "iterative" if points <= _POINTS else "nystroem")
    if lams == 1 and definite:
        return KernelRoute(points, lams, "cholesky")
    return KernelRoute(points, lams, "eigen" if leverages else "tridiagonal")


# Rows of a block of the kernel matrix: beyond this a product gains nothing, measured on CPU at 2500 to 20 000 points.
_ROWS = 512


# Arrays of points × columns alive at a time in a solve, the solution among them; counted in compiled programs.
_VECTORS = 15


class KernelBlocks(NamedTuple):
    """Whether an n × n kernel matrix is kept, how many of its rows are evaluated and columns solved at a time."""

    points: int
    rows: int
    columns: int
    together: int
    stored: bool
    bytes: int
    memory: int

    def __str__(self) -> str:
        size = f"{self.bytes / 2**20:.1f} MiB"
        kept = "stored" if self.stored else "evaluated anew for each product"
        solved = "" if self.together == self.columns else f", {self.together} of {self.columns} columns at a time"
        return f"kernel of {self.points} points {kept}, {self.rows} rows at a time{solved}, in {size}"


def kernel_blocks(points: int, columns: int, rank: int, dtype: jnp.dtype, memory: int, copies: int = 3) -> KernelBlocks:
    """Blocks of rows of K for products with that many columns, beside a preconditioner of that rank.

    Kept for the whole solve are 15 blocks of vectors and three factors of n × rank (the factor, and its SVD at work); a
    block of rows of K needs ``copies`` of itself while it is evaluated, more for a kernel that goes by pairs. K itself
    is stored if there is room. Columns that have no room together are solved one group after another, beside all
    solutions.

    >>> import jax.numpy as jnp
    >>> print(kernel_blocks(20_000, 30, 500, jnp.dtype("float32"), memory=2**31))
    kernel of 20000 points stored, 512 rows at a time, in 1791.8 MiB
    >>> print(kernel_blocks(20_000, 6000, 500, jnp.dtype("float32"), memory=2**31))
    kernel of 20000 points evaluated anew for each product, 132 rows at a time, 863 of 6000 columns at a time, ...
    """
    column = points * dtype.itemsize
    row, matrix, most = copies * column, points * column, max(1, min(_ROWS, points))
    # Each block of rows reads and writes half of a product once more, so that thin ones cost more than they save.
    wanted, fixed, together = min(most, columns, 128) * row, 3 * rank * column, columns
    if columns > 1 and memory < fixed + _VECTORS * columns * column + wanted:
        # Once as they were solved and once as they are given back.
        fixed += 2 * columns * column
        together = max(1, min(columns, (memory - fixed - wanted) // (_VECTORS * column)))
    vectors = fixed + _VECTORS * together * column
    if memory < vectors + row:
        raise ValueError(
            f"memory is {memory} bytes, less than one row of the kernel of {points} points takes beside {columns} "
            f"columns and rank {rank}; the smallest that works is memory={vectors + row}."
        )
    stored = vectors + matrix + min(most, 16) * row <= memory
    left = memory - vectors - (matrix if stored else 0)
    rows = min(most, left // row)
    used = vectors + rows * row + (matrix if stored else 0)
    return KernelBlocks(points, rows, columns, together, stored, used, memory)


def feature_block(
    points: int, features: int, targets: int, rank: int, dtype: jnp.dtype, memory: int, copies: int = 3
) -> int:
    """Rows of features at a time for a triangle of them, beside a pivoted Cholesky factor of that rank.

    Blocks of four times the columns make a QR with the triangle on top cost a quarter more than one QR of everything.

    >>> import jax.numpy as jnp
    >>> print(feature_block(300_000, 500, 1, 500, jnp.dtype("float32"), memory=2**31))
    2008
    """
    columns = features + targets + 1
    row, fixed = (1 + copies) * columns * dtype.itemsize, (2 * points * rank + 4 * columns**2) * dtype.itemsize
    if memory < fixed + row:
        raise ValueError(
            f"memory is {memory} bytes, too little for one row of {features} features of {points} points beside "
            f"their factors; the smallest that works is memory={fixed + row}."
        )
    return min(4 * columns, points, (memory - fixed) // row)
