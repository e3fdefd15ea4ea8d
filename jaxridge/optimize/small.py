"""Sums, Gram matrices and Cholesky factors of a few numbers, written out so that a batch of them is fast."""

import functools
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxridge.core.types import Array, Bool, Float, Scalar

# XLA vectorises the reductions of a batch on a CPU only where it sees their terms, but computes what is so cheap anew
# for every number that depends on it: measured, that is worth it up to so many.
_WRITTEN_OUT = 8
_TOGETHER = 1000  # terms of several sums in one reduction, which adds one after the other


def added(terms: Sequence[Array]) -> Array:
    """Σ of at least one term."""
    return functools.reduce(operator.add, terms)


def total(x: Float[Array, " m"]) -> Scalar:
    """Σ xᵢ, written out where it is short."""
    return added(list(x)) if 0 < x.shape[0] <= _WRITTEN_OUT else jnp.sum(x)


def totals(*terms: Float[Array, " m"]) -> list[Scalar]:
    """The sum of each, by one reduction; of many terms XLA adds the parts of a sum first, but only of one sum."""
    if not _WRITTEN_OUT < terms[0].shape[0] <= _TOGETHER:
        return [total(x) for x in terms]
    return _sums(terms)


def _sums(terms: Sequence[Array]) -> list[Scalar]:
    together = lambda a, b: tuple(x + y for x, y in zip(a, b, strict=True))  # noqa: E731
    return list(jax.lax.reduce(tuple(terms), tuple(jnp.zeros((), x.dtype) for x in terms), together, (0,)))


def every(x: Bool[Array, " m"]) -> Bool[Array, ""]:
    """Whether all are true, written out where they are few."""
    return functools.reduce(operator.and_, list(x)) if 0 < x.shape[0] <= _WRITTEN_OUT else jnp.all(x)


def greatest(x: Float[Array, " m"]) -> Scalar:
    """The largest, written out where they are few; 0 of none."""
    return functools.reduce(jnp.maximum, list(x)) if 0 < x.shape[0] <= _WRITTEN_OUT else jnp.max(x, initial=0.0)


def first_true(*cases: tuple[Bool[Array, ""], Array | int], otherwise: Array | int) -> Array:
    """The value of the first true case. `jnp.select` makes an array of the conditions, which compiles much longer."""
    for condition, value in reversed(cases):
        otherwise = jnp.where(condition, value, otherwise)
    return jnp.asarray(otherwise, jnp.int32)


def gram_of(columns: list[Array]) -> list[list[Array]]:
    """The lower triangle of sums Σ aᵢaⱼ over the vectors ``columns``.

    Under ``vmap`` a product of many tiny matrices runs at a tenth of the speed of this.
    """
    pairs = [(i, j) for i in range(len(columns)) for j in range(i + 1)]
    if 0 < columns[0].shape[0] <= _WRITTEN_OUT:
        rows = list(zip(*(list(column) for column in columns), strict=True))
        sums = [added([row[i] * row[j] for row in rows]) for i, j in pairs]
    else:
        sums = _sums([columns[i] * columns[j] for i, j in pairs])
    found = dict(zip(pairs, sums, strict=True))
    return [[found[i, j] for j in range(i + 1)] for i in range(len(columns))]


def small_cholesky(H: Sequence[Sequence[Array]]) -> list[list[Array]]:
    """The rows of L with LLᵀ = H, from the lower triangle of a tiny H. NaN where H is not definite."""
    L: list[list[Array]] = []
    for i, given in enumerate(H):
        row: list[Array] = []
        for j in range(i + 1):
            left = given[j] - sum(row[k] * (row if j == i else L[j])[k] for k in range(j))
            row.append(jnp.sqrt(left) if i == j else left / L[j][j])
        L.append(row)
    return L


def small_cholesky_solve(L: list[list[Array]], b: Sequence[Array]) -> list[Array]:
    """x with LLᵀx = b."""
    n = len(L)
    forward: list[Array] = []
    for i in range(n):
        forward.append((b[i] - sum(L[i][k] * forward[k] for k in range(i))) / L[i][i])
    x: dict[int, Array] = {}
    for i in reversed(range(n)):
        x[i] = (forward[i] - sum(L[k][i] * x[k] for k in range(i + 1, n))) / L[i][i]
    return [x[i] for i in range(n)]
