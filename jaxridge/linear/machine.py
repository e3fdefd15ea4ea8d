"""What the solution of a linear margin problem satisfies, live: hence its derivatives, to every order.

With β the signed multipliers of the rows, ωz where a row lies beyond the margin, between 0 and that on it, 0 else:

    2λpw = Xᵀβ,   1ᵀβ = 0,   z(xᵢ·w + b) = m on the margin           or, for a squared loss,   β = 2ωz max(0, v)

are linear equations while no row changes its place.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge.core.implicit import linear_root
from jaxridge.core.numbers import matmul, poison, poison_tangent
from jaxridge.core.types import Array, Float, Scalar
from jaxridge.linalg.corner import corner_of, kkt_solver
from jaxridge.linear.margins import Rows, Solved, Units, ridge_solver


class MarginProblem(eqx.Module):
    """The live arrays of one machine, one λ."""

    X: Float[Array, "n d"]
    z: Float[Array, "s n"]
    m: Float[Array, "s n"]
    weights: Float[Array, " n"]
    penalty: Float[Array, " d"]
    lam: Scalar
    intercept: bool = eqx.field(static=True)
    squared: bool = eqx.field(static=True)

    def shortfall(self, w: Float[Array, " d"], b: Scalar) -> Float[Array, "s n"]:
        """v = m − z(Xw + b)."""
        return self.m - self.z * (matmul(self.X, w) + b)[None, :]

    def objective(self, w: Float[Array, " d"], b: Scalar) -> Scalar:
        """Σ ω L + λ Σ p w²."""
        v = jnp.maximum(self.shortfall(w, b), 0.0)
        loss = jnp.sum(self.weights[None, :] * (jnp.square(v) if self.squared else v))
        return loss + self.lam * jnp.sum(self.penalty * jnp.square(w))


def live(
    problem: MarginProblem, rows: Rows, units: Units, solved: Solved, size: int
) -> tuple[Float[Array, " d"], Scalar, Float[Array, " n"]]:
    """w, b and β with the values of ``solved`` and the derivatives of the equations."""
    rows, solved = jax.lax.stop_gradient((rows, solved))
    w, b = units.raised(rows, solved.w, solved.b)
    of = _of_square if problem.squared else _of_corner
    return of(problem, rows, units, solved, w, b, size)


def _of_square(
    problem: MarginProblem, rows: Rows, units: Units, solved: Solved, w: Array, b: Scalar, size: int
) -> tuple[Array, Scalar, Array]:
    """λpw = Xᵀg and 1ᵀg = 0 with g = Σₛ ωzv within the margin."""
    on, d = solved.upper, w.shape[0]
    share = jnp.sum(jnp.where(on, jax.lax.stop_gradient(problem.weights)[None, :] / units.u, 0.0), axis=0)

    def within(w: Array, b: Scalar) -> Float[Array, " n"]:
        return jnp.sum(jnp.where(on, problem.z * problem.weights[None, :] * problem.shortfall(w, b), 0.0), axis=0)

    def equation(x: Array) -> Array:
        w, b = x[:d], x[d]
        g = within(w, b)
        of_b = -jnp.sum(g) if problem.intercept else b
        return jnp.concatenate([problem.lam * problem.penalty * w - matmul(problem.X.T, g), of_b[None]])

    def solve(r: Array) -> Array:
        of_w, of_b = units.lowered(rows, r[:d], r[d])
        inverse = ridge_solver(rows.A, share, units.lam, problem.intercept)
        w, b = inverse(of_w / units.y, of_b / units.y)
        w, b = units.raised(rows, w, b)
        return jnp.concatenate([w, b[None]])

    x = poison(linear_root(equation, jnp.concatenate([w, b[None]]), solve), jnp.isfinite(solved.gap))
    w, b = x[:d], x[d] if problem.intercept else jnp.zeros_like(b)
    return w, b, 2.0 * within(w, b)


def _of_corner(
    problem: MarginProblem, rows: Rows, units: Units, solved: Solved, w: Array, b: Scalar, size: int
) -> tuple[Array, Scalar, Array]:
    """2λpw = Xᵀβ, 1ᵀβ = 0 and v = 0 on the margin, where β is free."""
    corner, shape, d = corner_of(solved.upper, solved.free, size), problem.z.shape, w.shape[0]
    n, there = shape[1], corner.there()
    known = jnp.any(there) & problem.intercept
    gamma = units.u * corner.of_rows((problem.z * solved.alpha).ravel())
    X, level = problem.X[corner.places % n], corner.of_rows((problem.z * problem.m).ravel())

    def multipliers(gamma: Array) -> Float[Array, " n"]:
        wall = jnp.where(corner.upper, problem.z * problem.weights[None, :], 0.0)
        return jnp.sum(wall + corner.spread(gamma, shape), axis=0)

    def equation(x: Array) -> Array:
        w, b, gamma = x[:d], x[d], x[d + 1 :]
        beta = multipliers(gamma)
        of_w = 2.0 * problem.lam * problem.penalty * w - matmul(problem.X.T, beta)
        of_b = jnp.where(known, -jnp.sum(beta), -b)
        of_gamma = jnp.where(there, level - matmul(X, w) - b, -gamma)
        return jnp.concatenate([of_w, of_b[None], of_gamma])

    def solve(r: Array) -> Array:
        of_w, of_b = units.lowered(rows, r[:d], r[d])
        inverse = kkt_solver(rows.A, units.lam, corner, problem.intercept)
        w, b, gamma = inverse(of_w, of_b, r[d + 1 :] / units.y)
        w, b = units.raised(rows, w, b)
        return jnp.concatenate([w, b[None], jnp.where(there, units.u * gamma, -r[d + 1 :])])

    x = poison(linear_root(equation, jnp.concatenate([w, b[None], gamma]), solve), jnp.isfinite(solved.gap))
    b = poison_tangent(x[d], known) if problem.intercept else jnp.zeros_like(b)
    return x[:d], b, multipliers(x[d + 1 :])
