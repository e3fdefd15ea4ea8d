"""The linear system behind the derivatives of a minimum: that of its Hessian, or of a part of it.

A derivative takes ``(objective, x, held, jvp, b)`` and solves ∇²F v = b in the variables that no bound holds, with
jvp(v) = ∇²F v; the rows of held ones are those of the identity.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxridge.core.numbers import matmul
from jaxridge.core.types import Array
from jaxridge.optimize.objective import Objective, SumOfSquares

Derivative = Callable[[Objective, Array, Array, Callable[[Array], Array], Array], Array]


def full_hessian(objective: Objective, x: Array, held: Array, jvp: Callable[[Array], Array], b: Array) -> Array:
    """Solve with the Hessian of the objective, second derivatives of the residual included: exact derivatives."""
    matrix = jax.vmap(jvp, out_axes=1)(jnp.eye(x.shape[0], dtype=x.dtype))
    return _solve_determined(matrix, held, b)


def _solve_determined(matrix: Array, held: Array, b: Array) -> Array:
    """Solve in the directions that a symmetric matrix determines: the least solution in those variables.

    With the null vectors Z of the free block as constants, H + ZZᵀ is regular, and its solution of (I − ZZᵀ)b is H⁺b.
    """
    free = ~held
    still = jnp.where(free[:, None] & free[None, :], jax.lax.stop_gradient(matrix), 0.0)
    h = jnp.sqrt(jnp.abs(jnp.diagonal(still)))
    h = jnp.where(h > 0, h, 1.0)
    good = jnp.all(jnp.isfinite(still))
    e, V = jnp.linalg.eigh(jnp.where(good, still / h[:, None] / h[None, :], jnp.eye(len(b), dtype=b.dtype)))
    null = jnp.abs(e) <= 4 * len(b) * jnp.finfo(b.dtype).eps * jnp.max(jnp.abs(e), initial=0.0)
    inner = null & (jnp.sum(jnp.where(free[:, None], jnp.square(V), 0.0), axis=0) > 0.5)
    Z = jnp.where(inner[None, :] & free[:, None], V, 0.0) / h[:, None]
    Z, R = jnp.linalg.qr(Z)
    Z = jnp.where((jnp.abs(jnp.diagonal(R)) > 0)[None, :], Z, 0.0)
    scale = jnp.max(jnp.abs(still), initial=0.0)
    P = matmul(Z, Z.T)
    x = jnp.linalg.solve(matrix + jnp.where(scale > 0, scale, 1.0) * P, b - matmul(P, b))
    return x - matmul(P, x)


def gauss_newton(objective: Objective, x: Array, held: Array, jvp: Callable[[Array], Array], b: Array) -> Array:
    """Solve with JᵀJ + λI, without Σ rᵢ∇²rᵢ: cheaper, and wrong by what that sum is where residuals are not 0.

    For when second derivatives of the residual do not exist or cost too much.
    """
    if not isinstance(objective, SumOfSquares):
        raise ValueError("derivative=gauss_newton needs a sum of squares; minimize takes full_hessian.")
    point = objective.evaluate(x, jnp.zeros((), jnp.int32))
    root, _ = objective.weights(point.values)
    J = root[:, None] * objective.jacobian_at(x)
    H = matmul(J.T, J)
    H = H if objective.lam is None else H + jnp.diag(jnp.square(objective.root(point)))
    eye = jnp.eye(x.shape[0], dtype=x.dtype)
    return _solve_determined(jnp.where(held[:, None], eye, jnp.where(held[None, :], 0.0, H)), held, b)
