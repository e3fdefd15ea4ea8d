"""Rows a block at a time: maps and sums over many points that never hold more than a block of intermediates.

Points are any pytree with a leading axis. Reverse mode computes each block once more instead of storing it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxridge.core.implicit import map_with_rules
from jaxridge.core.types import Array, Bool, Int


def count(points: Any) -> int:
    """How many points there are."""
    return jax.tree.leaves(points)[0].shape[0]


def same_kind(name: str, points: Any, of: str, others: Any) -> None:
    """``ValueError`` unless a point of one set has the structure and shape of one of the other."""
    one, other = (jax.tree.map(lambda x: x.shape[1:], each) for each in (points, others))
    if one != other:
        raise ValueError(f"{name} has points of shape {one}, and {of} of shape {other}; pass the same kind.")


def as_kind(name: str, points: Any, of: str, others: Any) -> Any:
    """`points`, the `same_kind` as ``others``, in the precision of theirs; whole numbers take nothing off new ones."""
    same_kind(name, points, of, others)

    def one(x: Any, other: Any) -> Any:
        both = jnp.issubdtype(x.dtype, jnp.floating) and jnp.issubdtype(other.dtype, jnp.floating)
        return x.astype(other.dtype) if both else x

    return jax.tree.map(one, points, others)


def take(points: Any, rows: Int[Array, " m"]) -> Any:
    """Some of the points."""
    return jax.tree.map(lambda x: x[rows], points)


def blocks(rows: Any, block: int) -> tuple[Any, Bool[Array, "b r"]]:
    """Rows in blocks of equal size, the last one filled up with its last row, and which of them are rows at all."""
    n = count(rows)
    number = -(-n // block)
    index = jnp.arange(number * block)
    filled = take(rows, jnp.minimum(index, n - 1)) if number * block > n else rows
    split = jax.tree.map(lambda x: x.reshape(number, block, *x.shape[1:]), filled)
    return split, (index < n).reshape(number, block)


def copies(fn: Callable[[Any], Array], rows: Any, at_once: int = 64) -> int:
    """How many arrays of the size of ``fn(rows)`` are alive at a time while it and its derivative are computed.

    One, and twice the largest thing in its program: functions of pairs hold all their differences.
    """
    few = jax.tree.map(lambda x: jax.ShapeDtypeStruct((at_once, *x.shape[1:]), x.dtype), rows)
    program = jax.make_jaxpr(fn)(few)
    return 1 + 2 * -(-_largest(program.jaxpr) // program.out_avals[0].size)


def _largest(program: Any) -> int:
    """Elements of the largest array that a program makes."""
    size = 1
    for equation in program.eqns:
        inner = [
            x for value in equation.params.values() for x in (value if isinstance(value, tuple | list) else (value,))
        ]
        inner = [getattr(x, "jaxpr", x) for x in inner]
        within = [_largest(x) for x in inner if hasattr(x, "eqns")]
        size = max(size, *within, *(x.aval.size for x in equation.outvars if hasattr(x.aval, "size")), 1)
    return size


def map_rows(fn: Callable[[Any], Any], rows: Any, block: int) -> Any:
    """``fn`` of the rows, which gives a row for each of them, in one array or in several."""
    n = count(rows)
    if not isinstance(n, int) or block >= n:  # a symbol of `jax.export` has no blocks
        return jax.checkpoint(fn)(rows)
    out = map_with_rules(fn, blocks(rows, block)[0])
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:n], out)


def sum_rows(fn: Callable[[Any, Bool[Array, " r"]], Any], rows: Any, block: int) -> Any:
    """Σ over blocks of ``fn(rows, present)``, a pytree that must not count rows that are not present."""
    n = count(rows)
    if block >= n:
        return jax.checkpoint(fn)(rows, jnp.ones(n, bool))
    split, present = blocks(rows, block)
    # As numbers: what a loop with a rule of its own runs over has tangents.
    flags = present.astype(jnp.result_type(float))
    parts = map_with_rules(lambda args: fn(args[0], args[1] > 0), (split, flags))
    return jax.tree.map(lambda x: jnp.sum(x, axis=0), parts)
