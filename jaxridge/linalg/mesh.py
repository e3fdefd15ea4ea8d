"""The triangle of a tall matrix whose rows lie on several devices: one QR on each, then one of all triangles.

What moves between devices is p² numbers from each for p columns, and never a row (TSQR: Demmel, Grigori, Hoemmen and
Langou 2012, SIAM J. Sci. Comput. 34, A206).
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxridge.core.implicit import derived
from jaxridge.core.numbers import inner, matmul
from jaxridge.core.types import Array, Float

__all__ = ["Rows", "rows_of", "tsqr"]


class Rows(NamedTuple):
    """A mesh, and the axes of it along which rows are cut."""

    mesh: Any
    axes: tuple[str, ...]

    @property
    def explicit(self) -> bool:
        """Whether shardings are part of the types."""
        return any(kind == AxisType.Explicit for kind in self.mesh.axis_types)

    def over(self, fn: Callable[..., Any], *arrays: Any) -> Any:
        """``fn`` of the rows of each device; what it gives is the same on all of them."""
        specs = tuple(P(self.axes, *[None] * (x.ndim - 1)) for x in arrays)
        arrays = tuple(self.cut(x) for x in arrays)
        return jax.shard_map(fn, mesh=self.mesh, in_specs=specs, out_specs=P(), check_vma=False)(*arrays)

    def cut(self, x: Array) -> Array:
        """An array whose first axis is cut as rows are, and no other."""
        wanted = NamedSharding(self.mesh, P(self.axes, *[None] * (x.ndim - 1)))
        return jax.sharding.reshard(x, wanted) if self.explicit else jax.lax.with_sharding_constraint(x, wanted)


def rows_of(X: Any) -> Rows | None:
    """How the rows of an array are cut, as far as that is known: of any array at hand, of a traced one by its type."""
    sharding = jax.typeof(X).sharding if isinstance(X, Tracer) else getattr(X, "sharding", None)
    if not isinstance(sharding, NamedSharding) or not sharding.spec or sharding.mesh.empty:
        return None
    first = sharding.spec[0]
    axes = () if first is None else (first,) if isinstance(first, str) else tuple(first)
    shards = 1
    for axis in axes:
        shards *= sharding.mesh.shape[axis]
    found = Rows(sharding.mesh, axes)
    return found if shards > 1 or (axes and found.explicit) else None


def tsqr(A: Float[Array, "n p"], rows: Rows) -> Float[Array, "p p"]:
    """R of A = QR, on every device, with RᵀR = AᵀA.

    Its derivatives are those of one R that moves with AᵀA, to third order, which is all that a function of RᵀR sees;
    they are NaN where columns are linearly dependent.

    >>> import jax, jax.numpy as jnp
    >>> from jaxridge.linalg import mesh
    >>> one = mesh.Rows(jax.make_mesh((1,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,)), ("rows",))
    >>> print(abs(mesh.tsqr(jnp.array([[3.0], [4.0]]), one)))
    [[5.]]
    """
    return _tsqr(rows)(A)


@lru_cache(maxsize=64)
def _tsqr(rows: Rows) -> Callable[[Array], Array]:
    def value(A: Array) -> Array:
        return rows.over(local, A)

    def local(A: Array) -> Array:
        R = triangle(A)
        return triangle(jax.lax.all_gather(R, rows.axes, tiled=True))

    def live(A: Array) -> Array:
        C = rows.over(lambda A: jax.lax.psum(inner(A, A), rows.axes), A)
        return moved(value(jax.lax.stop_gradient(A)), C)

    return derived(value, live)


def triangle(A: Float[Array, "n p"]) -> Float[Array, "p p"]:
    """R, square whatever the number of rows."""
    R = jnp.linalg.qr(A, mode="r")
    return jnp.pad(R, ((0, max(A.shape[1] - R.shape[0], 0)), (0, 0)))


def moved(R: Float[Array, "p p"], C: Float[Array, "p p"]) -> Float[Array, "p p"]:
    """The triangle of (I + δ/2 − δ²/8 + δ³/16) R with δ = R⁻ᵀ C R⁻¹ − I: it moves with C = RᵀR, to third order."""
    R, eye = jax.lax.stop_gradient(R), jnp.eye(R.shape[0], dtype=R.dtype)
    T = jax.scipy.linalg.solve_triangular(R, eye)
    change = matmul(T.T, matmul(C - jax.lax.stop_gradient(C), T))
    root = matmul(eye + matmul(change, eye / 2 - matmul(change, eye / 8 - change / 16)), R)
    turned = jnp.linalg.qr(root, mode="r")
    # With the signs of R, whose tangent this is.
    return jnp.sign(jnp.diagonal(R) * jnp.diagonal(jax.lax.stop_gradient(turned)))[:, None] * turned
