"""A support vector machine as a model, linear or in the space of a kernel, and the live equations of the latter.

In the space of a kernel f = Ka + b with a = β/2λ, and with β as in `jaxridge.linear.machine`

    z(Ka + b) = m on the margin,   1ᵀa = 0       or, for a squared loss,   z(Ka + b) + λza/ω = m within it
"""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge.core import plan
from jaxridge.core.factored import Model
from jaxridge.core.implicit import linear_root
from jaxridge.core.numbers import matmul, poison, poison_tangent, safe_divide
from jaxridge.core.types import Array, Bool, Float, Scalar
from jaxridge.core.verbs import verb
from jaxridge.kernel_methods.fit import points_in_order
from jaxridge.kernel_methods.fit import predict as predict_kernel
from jaxridge.linear.fit import predict as predict_linear
from jaxridge.linear.margins import Solved

__all__ = ["Machine"]


class Machine(Model):
    """A fitted support vector machine: ``decision_function(X)`` is X @ coef + intercept, or that of the kernel.

    ``coef`` (d,) or (d, t), None with a kernel; ``dual_coef`` (n,) or (n, t), β/2λ: what each row adds, 0 but for the
    ``support``; ``intercept`` () or (t,); ``lam``; ``norm`` that which λ penalises, with ``margin`` 2/norm;
    ``objective``; ``gap``, by what part of the objective it may lie above its minimum, and ``steps``; ``result``
    (`RESULTS`). In a `Path` each has an axis of λ in front, all but ``loss``, ``kernel`` and ``points``.
    """

    loss: Any
    kernel: Any
    points: Any
    coef: Float[Array, "d *t"] | None
    dual_coef: Float[Array, "n *t"]
    intercept: Float[Array, "*t"]
    lam: Array
    norm: Float[Array, "*t"]
    objective: Float[Array, "*t"]
    gap: Float[Array, "*t"]
    steps: Array
    result: Any
    names: tuple[str, ...] | None = eqx.field(static=True, default=None)  # of the columns, if X was a data frame

    shared: ClassVar[tuple[str, ...]] = ("loss", "kernel", "points")

    @property
    def support(self) -> Bool[Array, "n *t"]:
        """The rows that the solution rests on."""
        return self.dual_coef != 0

    @property
    def margin(self) -> Float[Array, "*t"]:
        """The width between f = −1 and f = 1."""
        return 2.0 / self.norm

    def decision_function(self, X: Any, *, memory: int = plan.MEMORY) -> Float[Array, "m *t"]:
        """f at new rows or points, (m,) or (m, t)."""
        if self.coef is not None:
            return predict_linear("X", X, self.coef, self.intercept, self.names)
        X = points_in_order(X, self.names, self.points)
        return predict_kernel("X", self.kernel, X, self.points, self.dual_coef, self.intercept, memory)

    @verb()
    def predict(self, X: Any, *, memory: int = plan.MEMORY) -> Float[Array, "m *t"]:
        """Labels of ±1, or for a loss of real targets f itself."""
        f = self.decision_function(X, memory=memory)
        # NaN stays NaN, and the boundary belongs to +1.
        return jnp.where(f == 0, 1.0, jnp.sign(f)) if self.loss.labels else f


def live(
    K: Float[Array, "n n"],
    z: Float[Array, "s n"],
    m: Float[Array, "s n"],
    weights: Float[Array, " n"],
    lam: Scalar,
    intercept: bool,
    squared: bool,
    solved: Solved,
    a: Float[Array, " n"],
    b: Scalar,
) -> tuple[Float[Array, " n"], Scalar]:
    """a and b with the derivatives of their equations; ``a`` and ``b`` are the values."""
    n, sides = a.shape[0], solved.upper if squared else solved.free
    moving = jnp.any(sides, axis=0)
    known = jnp.any(moving) & intercept
    # Of two sides one at most is on the margin, or within it.
    level = jnp.sum(jnp.where(sides, z * m, 0.0), axis=0)
    wall = jnp.zeros_like(a) if squared else jnp.sum(jnp.where(solved.upper, z, 0.0), axis=0) * weights / (2.0 * lam)
    damping = jnp.where(moving, safe_divide(lam * jnp.ones_like(a), weights), 0.0) if squared else jnp.zeros_like(a)

    def whole(x: Array) -> Array:
        return jnp.where(moving, x, wall)

    def equation(x: Array) -> Array:
        a, b = whole(x[:n]), x[n]
        on = level - matmul(K, a) - b - damping * a
        of_b = jnp.where(known, -jnp.sum(a), -b)
        return jnp.concatenate([jnp.where(moving, on, wall - x[:n]), of_b[None]])

    still, still_damping = jax.lax.stop_gradient((K, damping))

    def solve(r: Array) -> Array:
        both = moving[:, None] & moving[None, :]
        size = jnp.max(jnp.abs(jnp.diagonal(still)), initial=0.0)
        # Points that are equal share their coefficient; a trace of the identity says how.
        rest = jnp.where(moving, still_damping + 10 * jnp.finfo(r.dtype).eps * size, 1.0)
        border = jnp.where(moving & known, 1.0, 0.0).astype(r.dtype)
        top = jnp.concatenate([jnp.where(both, still, 0.0) + jnp.diag(rest), border[:, None]], axis=1)
        last = jnp.concatenate([border, jnp.where(known, 0.0, 1.0).astype(r.dtype)[None]])
        matrix = jnp.concatenate([top, last[None, :]])
        # A wall moves with nobody, and what it does to the others is in the equation.
        return -jnp.linalg.solve(matrix, r)

    x = linear_root(equation, jnp.concatenate([a, b[None]]), solve)
    x = poison(x, jnp.isfinite(solved.gap))
    return whole(x[:n]), poison_tangent(x[n], known) if intercept else jnp.zeros_like(b)
