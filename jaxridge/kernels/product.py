"""Products with the kernel matrix of many points, which is stored where it fits and else never whole."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge.core.implicit import derived, frozen
from jaxridge.core.numbers import matmul
from jaxridge.core.rows import blocks, map_rows, take
from jaxridge.core.types import Array, Float

__all__ = ["KernelProduct"]


class KernelProduct(eqx.Module):
    """V ↦ KV for the kernel matrix of n points, by rows of K in blocks; ``K`` is None, or all of it where it fits.

    The value comes from the stored K or from half of its blocks, derivatives from blocks of rows that reverse mode
    computes once more, so that nothing else has n² numbers.
    """

    kernel: Any
    points: Any
    K: Float[Array, "p n"] | None  # in whole blocks of rows, p >= n
    block: int = eqx.field(static=True)

    @classmethod
    def make(cls, kernel: Any, points: Any, *, stored: bool, block: int) -> "KernelProduct":
        """Evaluate and keep K, or not."""
        fixed = None
        if stored:
            still_kernel, still_points = frozen((kernel, points))
            rows = jax.lax.map(lambda rows: still_kernel.matrix(rows, still_points), blocks(still_points, block)[0])
            fixed = rows.reshape(-1, rows.shape[2])
        return cls(kernel, points, fixed, block)

    def __call__(self, V: Float[Array, "n c"]) -> Float[Array, "n c"]:
        arrays, static = eqx.partition((self.kernel, self.points), eqx.is_array)

        def value(arrays: Any, K: Array | None, V: Array) -> Array:
            kernel, points = eqx.combine(arrays, static)
            return _by_halves(kernel, points, V, self.block) if K is None else matmul(K, V)[: V.shape[0]]

        def live(arrays: Any, K: Array | None, V: Array) -> Array:
            kernel, points = eqx.combine(arrays, static)
            return map_rows(lambda rows: matmul(kernel.matrix(rows, points), V), points, self.block)

        return derived(value, live)(arrays, self.K, V)


def _by_halves(kernel: Any, points: Any, V: Float[Array, "n c"], block: int) -> Float[Array, "n c"]:
    """KV from half of the symmetric K.

    Of an odd number 2h + 1 of blocks, each meets itself and the h behind it, the first following the last, so that
    every pair of blocks is met once, in panels of one shape; a panel gives its rows' part and its columns'.
    """
    (n, c), number = V.shape, -(-V.shape[0] // block) | 1
    size = -(-n // number)
    width, total = size * (number + 1) // 2, size * number
    index = jnp.arange(total + width) % total
    rows = take(points, jnp.minimum(index, n - 1))
    V = jnp.where((index < n)[:, None], V[jnp.minimum(index, n - 1)], 0.0)

    def one(i: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        def window(many: int, part: Any) -> Any:
            return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, i * size, many), part)

        down, across = sums
        K = kernel.matrix(window(size, rows), window(width, rows))
        down = jax.lax.dynamic_update_slice_in_dim(down, matmul(K, window(width, V)), i * size, axis=0)
        # From a row of columns: the transpose of a thin block is slow to multiply.
        part = matmul(window(size, V).T, K[:, size:])
        part = part + jax.lax.dynamic_slice_in_dim(across, (i + 1) * size, width - size, axis=1)
        return down, jax.lax.dynamic_update_slice_in_dim(across, part, (i + 1) * size, axis=1)

    start = jnp.zeros((total, c), V.dtype), jnp.zeros((c, total + width), V.dtype)
    down, across = jax.lax.fori_loop(0, number, one, start)
    # What was gathered behind the last column belongs to the first ones.
    return (down + across[:, :total].at[:, :width].add(across[:, total:]).T)[:n]
