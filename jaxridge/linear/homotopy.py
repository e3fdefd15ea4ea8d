"""The whole path of the lasso from a Gram matrix: piecewise linear in λ, by principal pivots from knot to knot.

For  min over w of  wᵀGw − 2cᵀw + 2a‖w‖₁  the correlations ρ = c − Gw satisfy ρ_S = a s on the support S, with s the
signs of w there, and |ρⱼ| <= a elsewhere. As a falls by t, w_S grows by t G_SS⁻¹s and ρⱼ falls by t vⱼ with
vⱼ = G_jS G_SS⁻¹ s, until an entry of ρ meets ±a and joins S, or one of w_S meets 0 and leaves it: a knot.
Osborne, Presnell and Turlach (2000), IMA J. Numer. Anal. 20, 389; Efron, Hastie, Johnstone and Tibshirani (2004),
Ann. Statist. 32, 407.

The tableau M of G swept on S holds all that a step asks for: G_SS⁻¹ on S, the Schur complement of G outside of it,
and ±G_jS G_SS⁻¹ between, so that Ms is G_SS⁻¹s on S and v elsewhere. Sweeping one more column k, whose row is r and
whose pivot p = r_k, takes uvᵀ off M with v = r/p and u = ±r, but v_k = (p − 1)/p and u_k = p + 1. Some of these wait
for one product that takes them off together, when w is solved once more.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge.core.numbers import exponent, matmul, power_of_two, safe_divide
from jaxridge.core.types import Array, Bool, Float, Int, Scalar

# Within so many roundings of where a path begins a point cannot be told from a knot.
NEAR = 64


class Knots(eqx.Module):
    """Where the path bends; a beyond the last knot is −∞."""

    a: Float[Array, " m"]  # decreasing, half of λ
    w: Float[Array, "m d"]
    tied: Bool[Array, " m"]  # whether a column that S spans was at ±a on the way to this knot
    bends: Bool[Array, " m"]  # where the path was followed to the end that was asked for it need not bend
    count: Int[Array, ""]

    def last(self) -> Scalar:
        """How far the path was followed."""
        return self.a[self.count]


class _Line(eqx.Module):
    """A point of the path and the direction in which it goes on."""

    S: Bool[Array, " d"]
    s: Float[Array, " d"]  # signs on S in units of the columns, 0 elsewhere
    a: Scalar
    w: Float[Array, " d"]
    rho: Float[Array, " d"]
    along: Float[Array, " d"]  # Ms
    diagonal: Float[Array, " d"]  # of M
    left: Int[Array, ""]  # the column that has just left S, -1 for none


class _Block(eqx.Module):
    """Pivots that wait to be taken off the tableau, and the knots that they led to."""

    line: _Line
    U: Float[Array, "b d"]
    V: Float[Array, "b d"]
    a: Float[Array, " b"]
    w: Float[Array, "b d"]
    tied: Bool[Array, " b"]
    bends: Bool[Array, " b"]
    count: Int[Array, ""]


def homotopy(G: Float[Array, "d d"], c: Float[Array, " d"], least: Scalar, max_knots: int) -> Knots:
    """Every knot from w = 0 down to a = ``least``, or as many as ``max_knots`` at least.

    A column that others in S span, to rounding, never enters: its correlation is theirs, so that it stays within ±a. A
    column that has just left S is at the boundary still, and may not come back at the same one.
    """
    d, dtype = G.shape[0], G.dtype
    block = max(1, min(32, d // 8))
    eps = jnp.finfo(dtype).eps
    # In units in which the diagonal is about 1 no pivot of a column that enters is larger, and p + 1 loses nothing.
    unit = power_of_two(-exponent(jnp.sqrt(jnp.diagonal(G))), dtype)
    G, c = G * unit[:, None] * unit[None, :], c * unit
    floor = 1e4 * eps * jnp.diagonal(G)

    def next_knot(line: _Line) -> tuple[Scalar, Int[Array, ""], Bool[Array, ""], Bool[Array, ""]]:
        """How far the line goes, the column that ends it, whether that one enters, and whether there are ties."""
        S, s, a, w, rho = line.S, line.s, line.a, line.w, line.rho
        dw, v = jnp.where(S, line.along, 0.0), jnp.where(S, s, line.along)
        independent = line.diagonal > floor
        barred = jnp.where(jnp.arange(d) == line.left, jnp.sign(rho), 0.0)

        def meets(gap: Array, closing: Array, side: float) -> Array:
            allowed = ~S & independent & (closing > 64 * eps * unit) & (barred != side)
            return jnp.where(allowed, jnp.maximum(gap, 0.0) / jnp.where(allowed, closing, 1.0), jnp.inf)

        enters = jnp.minimum(meets(a * unit - rho, unit - v, 1.0), meets(a * unit + rho, unit + v, -1.0))
        shrinks = S & (s * dw < 0)
        leaves = jnp.where(shrinks, jnp.maximum(-w / jnp.where(shrinks, dw, 1.0), 0.0), jnp.inf)
        entering, leaving = jnp.argmin(enters), jnp.argmin(leaves)
        enter = enters[entering] < leaves[leaving]
        tied = jnp.any(~S & ~independent & (floor > 0) & (jnp.abs(v) >= (1.0 - 1e4 * eps) * unit))
        t = jnp.where(enter, enters[entering], leaves[leaving])
        return t, jnp.where(enter, entering, leaving), enter, tied

    def advance(M: Float[Array, "d d"], state: _Block) -> _Block:
        line, i = state.line, state.count
        S, s = line.S, line.s
        t, k, enter, tied = next_knot(line)
        end, here = ~(t < line.a - least), jnp.arange(d) == k
        bends = t <= line.a - least + NEAR * eps * start
        t = jnp.where(end, line.a - least, t)
        a = jnp.where(end, least, line.a - t)
        w = line.w + jnp.where(S, t * line.along, 0.0)
        w = jnp.where(here & ~enter & ~end, 0.0, w)
        rho = line.rho - t * jnp.where(S, s, line.along)

        row = M[k] - matmul(state.U[:, k], state.V)
        pivot, old, new = row[k], s[k], jnp.where(enter, jnp.sign(rho[k]) * unit[k], 0.0)
        u = jnp.where(here, pivot + 1.0, jnp.where(S[k] == S, row, -row))
        v = jnp.where(here, (pivot - 1.0) / pivot, row / pivot)
        gain = (new - line.along[k]) / pivot
        following = _Line(
            S=jnp.where(here, enter, S),
            s=jnp.where(here, new, s),
            a=a,
            w=w,
            rho=rho,
            along=jnp.where(here, old + gain, line.along + u * gain),
            diagonal=jnp.where(here, 1.0 / pivot, line.diagonal - u * v),
            left=jnp.where(enter, -1, k),
        )
        # At the end there is no pivot, and the point is the last one.
        line = jax.tree.map(
            lambda new, old: jnp.where(end, old, new), following, eqx.tree_at(_point, line, (a, w, rho))
        )
        return _Block(
            line=line,
            U=state.U.at[i].set(jnp.where(end, 0.0, u)),
            V=state.V.at[i].set(jnp.where(end, 0.0, v)),
            a=state.a.at[i].set(a),
            w=state.w.at[i].set(w),
            tied=state.tied.at[i].set(tied),
            bends=state.bends.at[i].set(bends),
            count=i + 1,
        )

    def advance_block(carry: tuple[Array, _Line, Knots]) -> tuple[Array, _Line, Knots]:
        M, line, knots = carry
        nothing = jnp.zeros((block, d), dtype)
        empty = jnp.full(block, -jnp.inf, dtype)
        no = jnp.zeros(block, bool)
        state = _Block(line, nothing, nothing, empty, nothing, no, no, jnp.zeros((), int))
        going = lambda state: (state.count < block) & (state.line.a > least)  # noqa: E731
        state = jax.lax.while_loop(going, lambda state: advance(M, state), state)

        M, line = M - matmul(state.U.T, state.V), state.line
        S, s = line.S, line.s
        rho = c - matmul(G, line.w)
        change = matmul(M, jnp.where(S, rho - line.a * s, 0.0))
        # A column that has just entered is 0 at its knot, to the bit.
        w = line.w + jnp.where(S & (line.w != 0), change, 0.0)
        w, rho = jnp.where(w * s < 0, 0.0, w), jnp.where(S, line.a * s, rho - change)
        line = eqx.tree_at(lambda x: (x.w, x.rho, x.along, x.diagonal), line, (w, rho, matmul(M, s), jnp.diagonal(M)))

        found = state.w.at[state.count - 1].set(w)
        into = lambda old, new: jax.lax.dynamic_update_slice_in_dim(old, new, knots.count + 1, 0)  # noqa: E731
        return (
            M,
            line,
            Knots(
                a=into(knots.a, state.a),
                w=into(knots.w, found),
                tied=into(knots.tied, state.tied),
                bends=into(knots.bends, state.bends),
                count=knots.count + state.count,
            ),
        )

    start, nothing = jnp.max(jnp.abs(c) / unit, initial=0.0), jnp.zeros(d, dtype)
    line = _Line(jnp.zeros(d, bool), nothing, start, nothing, c, nothing, jnp.diagonal(G), jnp.full((), -1))
    room = max_knots + block + 1
    a, no = jnp.full(room, -jnp.inf, dtype).at[0].set(start), jnp.zeros(room, bool)
    knots = Knots(a, jnp.zeros((room, d), dtype), no, no.at[0].set(start > 0), jnp.zeros((), int))
    going = lambda carry: (carry[1].a > least) & (carry[2].count < max_knots)  # noqa: E731
    knots = jax.lax.while_loop(going, advance_block, (G, line, knots))[2]
    return eqx.tree_at(lambda x: x.w, knots, knots.w * unit[None, :])


def _point(line: _Line) -> Any:
    return line.a, line.w, line.rho


def at(knots: Knots, a: Scalar) -> tuple[Float[Array, " d"], Bool[Array, ""]]:
    """w at any a that the path covers, and whether it is one of many there."""
    i = jnp.maximum(jnp.minimum(jnp.sum(knots.a > a), knots.count), 1)
    high, low = knots.a[i - 1], knots.a[i]
    share = jnp.where(a >= high, 0.0, jnp.minimum(safe_divide(high - a, high - low), 1.0))
    # The far end whole, so that what is 0 there is 0.
    w = jnp.where(share == 1.0, knots.w[i], knots.w[i - 1] + share * (knots.w[i] - knots.w[i - 1]))
    return w, knots.tied[i] & (a < knots.a[0])
