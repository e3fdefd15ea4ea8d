"""Quadratic programs in a box with one equation, of low rank: through the interior, each step a weighted ridge.

    min over α of  ‖Aᵀβ‖²/4λ − Σ m α,   β = Σₛ z α,   0 <= α <= u,   Σ z α = 0 (where there is an intercept)

for one or two sides s of each row. Its dual is  min over w, b of λ‖w‖² + Σ u max(0, v),  v = m − z(Aw + b), and for
w = Aᵀβ/2λ the two differ by Σ (u − α) max(0, v) + α max(0, −v), where nothing cancels. A row with u = 0 takes no part.
Mehrotra (1992), SIAM J. Optim. 2, 575; Ferris and Munson (2002), SIAM J. Optim. 13, 783 for systems of d × d.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve

from jaxridge.core.numbers import matmul, safe_divide
from jaxridge.core.types import Array, Bool, Float, Int, Scalar
from jaxridge.linalg.corner import Corner, corner_of, kkt_solver


class BoxQP(eqx.Module):
    """The data of a program; rows n, sides s."""

    A: Float[Array, "n d"]
    z: Float[Array, "s n"]  # ±1
    m: Float[Array, "s n"]
    u: Float[Array, " n"]
    lam: Scalar
    intercept: bool = eqx.field(static=True)

    def w(self, alpha: Float[Array, "s n"]) -> Float[Array, " d"]:
        """Aᵀβ/2λ."""
        return matmul(self.A.T, jnp.sum(self.z * alpha, axis=0)) / (2.0 * self.lam)

    def shortfall(self, w: Float[Array, " d"], b: Scalar) -> Float[Array, "s n"]:
        """v = m − z(Aw + b)."""
        return self.m - self.z * (matmul(self.A, w) + b)[None, :]

    def primal(self, w: Float[Array, " d"], v: Float[Array, "s n"]) -> Scalar:
        """λ‖w‖² + Σ u max(0, v)."""
        return self.lam * jnp.sum(jnp.square(w)) + jnp.sum(self.u[None, :] * jnp.maximum(v, 0.0))

    def measured(self, alpha: Float[Array, "s n"], b: Scalar) -> tuple[Float[Array, "s n"], Scalar]:
        """v, and by what part of the primal an α that is feasible lies below it."""
        w = self.w(alpha)
        v = self.shortfall(w, b)
        gap = jnp.sum((self.u[None, :] - alpha) * jnp.maximum(v, 0.0) + alpha * jnp.maximum(-v, 0.0))
        off = jnp.abs(jnp.sum(self.z * alpha) * b) if self.intercept else 0.0
        return v, safe_divide(gap + off, self.primal(w, v))

    def centre(self) -> Float[Array, "s n"]:
        """A point well inside the box that keeps the equation: half of u, less on the heavier side."""
        up, down = (jnp.sum(jnp.where(self.z * sign > 0, self.u[None, :], 0.0)) for sign in (1.0, -1.0))
        least = jnp.minimum(up, down)
        share = jnp.where(self.z > 0, least / up, least / down) if self.intercept else jnp.ones_like(self.z)
        return 0.5 * share * self.u[None, :]


class _State(eqx.Module):
    alpha: Float[Array, "s n"]
    b: Scalar
    lower: Float[Array, "s n"]  # multipliers of α >= 0
    upper: Float[Array, "s n"]  # and of α <= u
    best: tuple[Array, Array, Array]  # α, b and their relative gap
    step: Int[Array, ""]
    done: Bool[Array, ""]


def _started(qp: BoxQP, near: tuple[Array, Array, Array]) -> _State:
    """A part of the way from a solution of another λ to the centre, of which all is a start from nowhere."""
    alpha, b, share = near
    alpha = share * qp.centre() + (1.0 - share) * alpha
    v, gap = qp.measured(alpha, b)
    used = qp.u[None, :] > 0
    level = share * jnp.sum(jnp.where(used, jnp.abs(v), 0.0)) / jnp.sum(jnp.broadcast_to(used, v.shape), dtype=v.dtype)
    lower = jnp.where(used, jnp.maximum(-v, 0.0) + level, 0.0)
    upper = jnp.where(used, jnp.maximum(v, 0.0) + level, 0.0)
    return _State(alpha, b, lower, upper, (alpha, b, gap), jnp.zeros((), int), ~jnp.isfinite(gap))


def _interior(qp: BoxQP, state: _State, tol: Any, max_steps: int) -> _State:
    """Steps through the interior until the relative gap is ``tol``.

    The best point is kept: past convergence rounding makes steps worse, and then not numbers.
    """
    A, z = qp.A, qp.z
    u, used = qp.u[None, :], jnp.broadcast_to(qp.u[None, :] > 0, z.shape)
    eye, size = jnp.eye(A.shape[1], dtype=A.dtype), 2.0 * jnp.sum(used, dtype=A.dtype)

    def factored(weight: Float[Array, "s n"]) -> Any:
        """g ↦ (A_z A_zᵀ/2λ + 1/weight)⁻¹ g by one Cholesky factor of 2λI + AᵀΣ weight A."""
        rows = jnp.sum(weight, axis=0)
        L = jnp.linalg.cholesky(2.0 * qp.lam * eye + matmul((A * rows[:, None]).T, A), symmetrize_input=False)

        def inverse(g: Float[Array, "s n"]) -> Float[Array, "s n"]:
            p = weight * g
            inner = cho_solve((L, True), matmul(A.T, jnp.sum(z * p, axis=0)))
            return p - weight * z * matmul(A, inner)[None, :]

        return inverse

    def advance(state: _State) -> _State:
        alpha, b, lower, upper = state.alpha, state.b, state.lower, state.upper
        # What takes no part stands still between walls that are not 0.
        below, above = jnp.where(used, alpha, 1.0), jnp.where(used, u - alpha, 1.0)
        stiffness = jnp.where(used, lower / below + upper / above, 1.0)
        inverse = factored(jnp.where(used, 1.0 / stiffness, 0.0))
        r = qp.shortfall(qp.w(alpha), b) + lower - upper
        of_b = inverse(z) if qp.intercept else jnp.zeros_like(z)
        along_b, off = jnp.sum(z * of_b), jnp.sum(z * alpha)

        def direction(at_lower: Array, at_upper: Array) -> tuple[Array, Array, Array, Array]:
            e = inverse(r + at_lower / below - at_upper / above)
            db = (jnp.sum(z * e) + off) / along_b if qp.intercept else jnp.zeros_like(b)
            da = e - of_b * db
            return da, db, (at_lower - lower * da) / below, (at_upper + upper * da) / above

        def longest(da: Array, dl: Array, du: Array) -> Scalar:
            pairs = [(below, da), (above, -da), (lower, dl), (upper, du)]
            bounds = [jnp.min(jnp.where(dx < 0, -x / jnp.where(dx < 0, dx, -1.0), jnp.inf)) for x, dx in pairs]
            return jnp.minimum(1.0, jnp.min(jnp.stack(bounds)))

        mu = (jnp.sum(alpha * lower) + jnp.sum((u - alpha) * upper)) / size
        da, _, dl, du = direction(-alpha * lower, -(u - alpha) * upper)
        t = longest(da, dl, du)
        after = jnp.sum((alpha + t * da) * (lower + t * dl)) + jnp.sum((u - alpha - t * da) * (upper + t * du))
        target = jnp.where(used, mu * (after / size / mu) ** 3, 0.0)
        da, db, dl, du = direction(target - alpha * lower - da * dl, target - (u - alpha) * upper + da * du)
        t = jnp.minimum(1.0, 0.995 * longest(da, dl, du))

        alpha, b, lower, upper = alpha + t * da, b + t * db, lower + t * dl, upper + t * du
        _, gap = qp.measured(alpha, b)
        good = jnp.isfinite(gap)
        better = good & (gap < state.best[2])
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), (alpha, b, gap), state.best)
        done = ~good | (~better & (best[2] < 1e-6))
        return _State(alpha, b, lower, upper, best, state.step + 1, done)

    return jax.lax.while_loop(lambda s: ~s.done & (s.best[2] > tol) & (s.step < max_steps), advance, state)


def _at_corner(qp: BoxQP, corner: Corner) -> tuple[Float[Array, "s n"], Scalar]:
    """α and b with v = 0 where α is free; where none is, the middle of the b that fit."""
    full = jnp.where(corner.upper, qp.u[None, :], 0.0)
    beta = jnp.sum(qp.z * full, axis=0)
    off = jnp.sum(beta) if qp.intercept else jnp.zeros((), beta.dtype)
    target = -corner.of_rows((qp.z * qp.m).ravel())
    w, b, gamma = kkt_solver(qp.A, qp.lam, corner, qp.intercept)(matmul(qp.A.T, beta), off, target)
    if qp.intercept:
        b = jnp.where(jnp.any(corner.there()), b, _between(qp, corner, w))
    return full + qp.z * corner.spread(gamma, qp.z.shape), b


def _between(qp: BoxQP, corner: Corner, w: Float[Array, " d"]) -> Scalar:
    """The middle of all b with v <= 0 at the lower walls and v >= 0 at the upper ones."""
    edge = qp.z * qp.m - matmul(qp.A, w)[None, :]
    least = (qp.z > 0) != corner.upper
    used = qp.u[None, :] > 0
    low = jnp.max(jnp.where(used & least, edge, -jnp.inf))
    high = jnp.min(jnp.where(used & ~least, edge, jnp.inf))
    low, high = jnp.where(jnp.isfinite(low), low, high), jnp.where(jnp.isfinite(high), high, low)
    return jnp.where(jnp.isfinite(low), 0.5 * (low + high), 0.0)


def _polish(qp: BoxQP, alpha: Float[Array, "s n"], b: Scalar, size: int, rounds: int = 8) -> tuple[Array, ...]:
    """The corner that a point is near, solved exactly and mended while a sign is wrong.

    α, b, their relative gap, which are u, which lie between, and whether all signs are right. α
    beyond the box goes to its face, and a row of a face whose v has the wrong sign becomes free.
    """
    u, used = jnp.broadcast_to(qp.u[None, :], alpha.shape), jnp.broadcast_to(qp.u[None, :] > 0, alpha.shape)
    v, gap = qp.measured(alpha, b)
    unit = jnp.sum(jnp.where(used, jnp.abs(v), 0.0)) / jnp.sum(used, dtype=v.dtype)
    eps = jnp.finfo(alpha.dtype).eps
    # Of |v| and the distance of α from its wall, each in its unit, one is smaller by orders of magnitude near the
    # solution. α may be far below u throughout.
    upper = used & (v * u > unit * (u - alpha))
    lower = used & (-v * jnp.max(alpha) > unit * alpha)
    free = used & ~upper & ~lower

    def advance(state: tuple[Any, ...]) -> tuple[Any, ...]:
        upper, free, best, i, _ = state
        alpha, b = _at_corner(qp, corner_of(upper, free, size))
        below, above = free & (alpha < 0), free & (alpha > u)
        # Rounding alone takes some of them out of the box.
        inside = jnp.all((alpha >= -1e3 * eps * u) & (alpha <= u * (1 + 1e3 * eps)))
        if qp.intercept:
            inside &= jnp.abs(jnp.sum(qp.z * alpha)) <= 1e3 * eps * jnp.sum(u)
        alpha = jnp.clip(alpha, 0.0, u)
        v, gap = qp.measured(alpha, b)
        wrong = used & ~free & jnp.where(upper, v < -1e2 * eps * unit, v > 1e2 * eps * unit)
        settled = inside & ~jnp.any(below | above | wrong)
        # Rows on the margin are so to rounding, of which the gap counts each in full.
        better = inside & ((gap < best[2]) | (settled & (gap <= 0.01 * eps**0.5)))
        new = (alpha, b, gap, upper, free, settled)
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), new, best)
        following = (upper & ~wrong) | above, (free & ~below & ~above) | wrong
        return *following, best, i + 1, settled

    best = (alpha, b, gap, upper, free, jnp.array(False))
    state = (upper, free, best, jnp.zeros((), int), jnp.array(False))
    return jax.lax.while_loop(lambda s: ~s[4] & (s[3] < rounds), advance, state)[2]


class Solution(eqx.Module):
    """α, b, the relative gap between primal and dual there, which α are u and which lie between."""

    alpha: Float[Array, "s n"]
    b: Scalar
    gap: Scalar
    upper: Bool[Array, "s n"]
    free: Bool[Array, "s n"]
    exact: Bool[Array, ""]  # whether it is the corner that these say
    steps: Int[Array, ""]


def solve(qp: BoxQP, tol: Any, max_steps: int, size: int, near: tuple[Array, Array, Array]) -> Solution:
    """Through the interior until its corner can be told, which the exact solution there says; further if it could not.

    ``size`` is how many α may lie inside of the box. ``near`` is α and b of another λ, and how far to go from there
    towards the centre, from 0 to 1.
    """

    def attempt(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        state, _, i = carry
        state = _interior(qp, state, 10.0 ** (-3.0 - 3.0 * i), max_steps)
        return state, _polish(qp, *state.best[:2], size), i + 1.0

    state, no = _started(qp, near), jnp.zeros(qp.z.shape, bool)
    carry = (state, (*state.best, no, no, jnp.array(False)), jnp.zeros((), qp.A.dtype))
    # A first gap that is no number comes from data that are none.
    going = lambda carry: ~((carry[1][2] <= tol) & carry[1][5]) & (carry[2] < 4)  # noqa: E731
    state, best, _ = jax.lax.while_loop(going, attempt, carry)
    alpha, b, gap, upper, free, exact = best
    return Solution(alpha, b, gap, upper, free, exact, state.step)
