"""The end of a fit: Newton steps with the whole Hessian where rounding hides what steps gain, and the verdict.

The loop stops where neither its model nor the cost can tell more. From there the Hessian JᵀJ + S, S = Σ ρ'rᵢ∇²rᵢ,
says where the gradient vanishes, quadratically, and what kind of point that is. With JD⁻¹ = U diag(s) Vᵀ and
W = D⁻¹V diag(1/s) it is M = I + WᵀSW in the coordinates p = Wq, whose condition is not that of JᵀJ: a Newton step is
right to the condition of J. A direction with s = 0 keeps its unit, 0 in the place of 1, and what S says of it.

    M positive              a minimum
    M negative somewhere    a saddle or a maximum
    M zero somewhere        stationary, but the data leave that direction as it was

A step ½bᵀM⁻¹b promises what the parabola through the point does; where that can be seen it has to be gained.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxridge.core.numbers import matmul
from jaxridge.core.types import Array, Bool, Float, Int, Scalar
from jaxridge.optimize import loop, steps
from jaxridge.optimize.control import Solver
from jaxridge.optimize.loop import ROUGH, Box, State
from jaxridge.optimize.objective import Objective, Smooth
from jaxridge.optimize.small import every, total

_CONTRACTS = 0.7  # of the step before, or rounding has taken over; Newton's method does far better; heuristic
_SURE = 1e-2  # of what rounding hides: after a Newton step that promises less another one does not pay
_MOST = 30
_VAGUE = 5e-3  # of the cost, which rounding may hide in a run that still counts as converged

# Verdicts, beside those of the loop.
MINIMUM, SADDLE, UNDETERMINED, NO_INFLUENCE, EVAPORATED, ROUNDING, STALLED = range(20, 27)


class Newton(NamedTuple):
    """A step with the whole Hessian, and the kind of point that it comes from."""

    q: Float[Array, " n"]
    length: Scalar
    promise: Scalar
    slope: Scalar  # what the model without curvature promises
    negative: Bool[Array, ""]
    singular: Bool[Array, ""]
    idle: Bool[Array, " n"]  # free variables that change neither residual nor slope


def newton_step(objective: Objective, state: State, free: Array, curved: bool) -> Newton:
    """The step of W M⁻¹ W ᵀ, see above."""
    local, n = state.local, len(state.x)
    eps = jnp.finfo(state.x.dtype).eps
    norms = jnp.where(free, loop.column_norms(objective, local), 0.0)
    g = jnp.where(free, local.gradient, 0.0)
    stored = local.stored.restricted(free)
    if isinstance(objective, Smooth):
        S = stored.dense().H
        d = jnp.sqrt(jnp.abs(jnp.diagonal(S)))
        d = jnp.where(d > 0, d, 1.0)
        s, V, z = jnp.zeros_like(g), jnp.eye(n, dtype=g.dtype), g
    else:
        d = jnp.where(norms > 0, norms, 1.0)
        s, V, z = stored.spectrum(d)
        S = objective.second_order(state.x, state.point, local.unit) if curved else jnp.zeros((n, n), g.dtype)
        S = jnp.where(free[:, None] & free[None, :], S, 0.0)

    resolved = s > 0
    W = V / jnp.where(resolved, s, 1.0)[None, :] / d[:, None]
    M = matmul(W.T, matmul(S, W)) + jnp.diag(jnp.where(resolved, 1.0, 0.0))
    b = jnp.where(resolved, z, matmul(W.T, g))

    # What S cannot tell from rounding, in directions in which J is zero.
    scaled = S / d[:, None] / d[None, :]
    faint = n * eps * jnp.max(jnp.abs(scaled), initial=0.0)
    h = jnp.sqrt(jnp.abs(jnp.diagonal(M)))
    seen = resolved | (jnp.square(h) > faint)
    h = jnp.where(seen & (h > 0), h, 1.0)
    both = seen[:, None] & seen[None, :]
    e, Q = jnp.linalg.eigh(jnp.where(both, M / h[:, None] / h[None, :], jnp.eye(n, dtype=g.dtype)))
    least = jnp.sqrt(eps)
    c = matmul(Q.T, jnp.where(seen, b / h, 0.0))
    q = -matmul(W, matmul(Q, jnp.where(jnp.abs(e) > least, c / e, 0.0)) / h)
    length = jnp.sqrt(total(jnp.square((norms + jnp.sqrt(jnp.abs(jnp.diagonal(S)))) * q)))
    return Newton(
        q=jnp.where(free, q, 0.0),
        length=length,
        promise=0.5 * jnp.sum(jnp.square(c) / jnp.maximum(jnp.abs(e), least)),
        slope=0.5 * jnp.sum(jnp.square(jnp.where(resolved | isinstance(objective, Smooth), b, 0.0))),
        negative=jnp.any(e < -least),
        singular=jnp.any(~seen & (jnp.sum(jnp.where(free[:, None], jnp.square(V), 0.0), axis=0) > 0.5))
        | jnp.any(jnp.abs(e) <= least),
        idle=free & (norms == 0) & jnp.all(S == 0.0, axis=0),
    )


def matrix_free_step(objective: Objective, state: State, free: Array) -> Newton:
    """The same by conjugate gradients on the model, which tell no kind of point."""
    model = loop.model_at(objective, state.x, state.point, state.local).restricted(free)
    q = model.damped(jnp.ones_like(state.x), jnp.zeros((), state.x.dtype)).p
    no = jnp.zeros((), bool)
    promise = 0.5 * jnp.abs(total(model.gradient * q))
    return Newton(q, jnp.sqrt(total(jnp.square(q))), promise, promise, no, no, jnp.zeros(q.shape, bool))


class Carry(NamedTuple):
    state: State
    length: Scalar  # of the last step
    going: Bool[Array, ""]
    count: Int[Array, ""]


def polish(objective: Objective, solver: Solver, box: Box | None, state: State, curved: bool) -> State:
    """Go to where the gradient is rounding, and say what is there."""

    def step(carry: Carry) -> Carry:
        state = carry.state
        x, local = state.x, state.local
        noise = local.noise.gain
        free = jnp.ones(x.shape, bool) if box is None else box.free(x, local.gradient)
        if isinstance(local.stored, steps.Matrix):
            newton = newton_step(objective, state, free, curved)
        else:
            newton = matrix_free_step(objective, state, free)
        following = x + local.unit * newton.q
        following = following if box is None else box.clip(following)
        there = objective.evaluate(following, state.point.exponent)
        gain = objective.gain(x, following - x, state.point, there)
        norms = loop.column_norms(objective, local)

        finite = jnp.isfinite(there.cost) & jnp.isfinite(newton.length) & every(jnp.isfinite(following))
        shorter = (newton.length <= _CONTRACTS * carry.length) & (gain >= -ROUGH * noise)
        better = finite & ~newton.negative & (shorter | (gain > ROUGH * noise)) & ~every(following == x)
        eps = jnp.finfo(x.dtype).eps
        known = newton.length <= jnp.sqrt(eps) * loop.size_of(norms, x, local)
        near = newton.length <= 2 * eps * loop.size_of(norms, x, local)
        near = near | (newton.promise <= jnp.maximum(local.noise.floor, _SURE * noise))
        going = better & ~near & (carry.count < _MOST)
        stopped = dataclasses.replace(
            state,
            evaluations=state.evaluations + 1,
            stop=jnp.where(going, state.stop, _verdict(state, newton, free, known)).astype(jnp.int32),
        )
        following = jax.lax.cond(
            better, lambda: loop.arrive(objective, solver, stopped, following, there), lambda: stopped
        )
        return Carry(following, newton.length, going & (following.stop == state.stop), carry.count + 1)

    first = Carry(
        state, jnp.full((), jnp.inf, state.x.dtype), state.stop >= loop.HIDDEN_GAINS, jnp.zeros((), jnp.int32)
    )
    return jax.lax.while_loop(lambda carry: carry.going, step, first).state


def _verdict(state: State, newton: Newton, free: Array, near: Array) -> Array:
    noise, cost = state.local.noise, state.point.cost
    stationary = newton.promise <= ROUGH * noise.gain
    level = newton.slope <= ROUGH**2 * jnp.maximum(noise.floor, jnp.finfo(cost.dtype).eps * noise.gain)
    vague = (noise.gain > _VAGUE * jnp.abs(cost)) & (cost > 4.0 * noise.floor) & (~near | newton.negative)
    lost = jnp.any(newton.idle & state.alive) & every(free)
    return jnp.select(
        [
            stationary & vague,
            stationary & newton.negative & level,
            stationary & ~newton.negative & lost,
            stationary & ~newton.negative & jnp.any(newton.idle),
            stationary & ~newton.negative & newton.singular,
            stationary & ~newton.negative,
            state.blocked,
        ],
        [ROUNDING, SADDLE, EVAPORATED, NO_INFLUENCE, UNDETERMINED, MINIMUM, loop.NONFINITE],
        STALLED,
    )
