"""What kind of point a search has ended at, by the whole Hessian H = JᵀJ + λI + Σ ρ'rᵢ∇²rᵢ in units of its diagonal.

    H positive              a minimum, if Newton's step ½gᵀH⁻¹g promises nothing that can be seen
    H negative somewhere    a saddle or a maximum, if the gradient is nothing
    H zero somewhere        stationary, but the data leave that direction as it was,
                            or the search ran to where they no longer tell parameters apart that they told before

Steps that become shorter and shorter prove a minimum. Where the search saw none, or J is singular, H is asked; where
steps ended as jitter, whether it is a saddle, for there they become longer. Where J has become singular on the way, a
plateau far out shows nothing but rounding in H: there √eps is asked of it. And JᵀJ has half the digits of J: what only
the former leaves open is not settled, nor an end in jitter or doubt from where J's own step still leads elsewhere.
"""

import dataclasses

import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from jaxridge.core.numbers import matmul
from jaxridge.core.types import Array, Bool
from jaxridge.optimize import loop, steps
from jaxridge.optimize.loop import ROUGH, Box, State
from jaxridge.optimize.objective import Objective, Stored, SumOfSquares, qr
from jaxridge.optimize.small import every, total

_SHARP = 1e-3  # of the cost: if rounding hides more, H alone proves no minimum from which steps lead away; heuristic
_VISIBLE = 30.0  # times what rounding hides; heuristic

# Verdicts, beside those of the loop.
SADDLE, UNDETERMINED, NO_INFLUENCE, EVAPORATED, STALLED, ROUNDING = range(20, 26)


def open_question(objective: Objective, state: State) -> Bool[Array, ""]:
    """Whether the end of a search is still to be judged."""
    ended = state.stop >= loop.GRADIENT
    if not isinstance(state.local.stored, steps.Matrix):
        return ended & (state.stop == loop.DOUBT)
    return ended & ((state.stop >= loop.JITTER) | _unproven(objective, state))


def _unproven(objective: Objective, state: State) -> Bool[Array, ""]:
    """Whether the steps of a search prove nothing: there were none, rounding hid them, or J tells too little."""
    return (state.jacobians <= 1) | loop.hazy(state) | ~loop.tells(objective, state.local)


def _factor(objective: Objective, state: State, stored: steps.Matrix) -> Stored:
    """R of J itself, for a sum of squares."""
    if isinstance(objective, SumOfSquares) and not isinstance(stored, steps.Triangle):
        return qr(objective, state.x, state.point).stored
    return stored


def _vague(state: State, factor: Stored) -> Bool[Array, ""]:
    """Whether what rounding hides of the cost moves a parameter by more than √eps of how far it came.

    By the steps √(2 gain (JᵀJ)⁻¹ⱼⱼ), in the directions that J tells. It hides all of a perfect fit, and moves nothing.
    """
    if not isinstance(factor, steps.Triangle):
        return jnp.zeros((), bool)
    return loop.hazy(state) & ~_little(state, jnp.sqrt(2.0 * state.local.noise.gain) * factor.deviations())


def _little(state: State, q: Array) -> Bool[Array, ""]:
    """Whether a step moves no parameter by more than √eps of how far it came."""
    least = jnp.sqrt(jnp.finfo(q.dtype).eps) * state.reach
    return jnp.all((jnp.abs(q * state.local.unit) <= least) | (least <= 0))


def judge(objective: Objective, box: Box | None, state: State, curved: bool) -> State:
    """With what the Hessian says in the place of what the loop said; ``curved`` where ∇²rᵢ exist."""
    stop = state.stop
    if isinstance(state.local.stored, steps.Matrix):
        stop = _kind(objective, box, state, state.local.stored, curved)
    else:
        # No Hessian: what a step along the gradient promises.
        level = total(jnp.square(state.local.gradient / state.d)) / 2 <= ROUGH * state.local.noise.gain
        stop = jnp.where(stop == loop.DOUBT, jnp.where(level, loop.STEP, STALLED), stop)
    return dataclasses.replace(state, stop=stop.astype(jnp.int32))


def _kind(objective: Objective, box: Box | None, state: State, stored: steps.Matrix, curved: bool) -> Array:
    x, local, n = state.x, state.local, len(state.x)
    eps, noise = jnp.finfo(x.dtype).eps, ROUGH * local.noise.gain
    free = jnp.ones(x.shape, bool) if box is None else box.free(x, local.gradient)
    g = jnp.where(free, local.gradient, 0.0)
    H = stored.dense().H
    S = jnp.zeros_like(H)
    if curved and isinstance(objective, SumOfSquares):
        S = objective.second_order(x, state.point, local.unit)

    h = jnp.sqrt(jnp.abs(jnp.diagonal(H)) + jnp.abs(jnp.diagonal(S)))
    h = jnp.where(free & (h > 0), h, 1.0)
    scaled = jnp.where(free[:, None] & free[None, :], (H + S) / h[:, None] / h[None, :], 0.0)
    level = jnp.max(jnp.square(g / h), initial=0.0) / 2 <= noise
    held = jnp.diag(jnp.where(free, 0.0, 1.0)).astype(x.dtype)
    tau = 8 * n * eps * jnp.max(jnp.abs(scaled), initial=0.0) * jnp.eye(n, dtype=x.dtype)
    tau = tau + jnp.finfo(x.dtype).tiny * jnp.eye(n, dtype=x.dtype)
    L = jnp.linalg.cholesky(scaled + tau + held, symmetrize_input=False)
    positive = jnp.all(jnp.isfinite(jnp.diagonal(L)))
    factor = _factor(objective, state, stored)
    # Where a perfect fit leaves a part of J to rounding nothing is missed.
    dependent = isinstance(factor, steps.Triangle) and ~factor.independent()
    lost = state.told & dependent & every(free) & ~loop.hazy(state)
    beyond_noise, firm = (
        jnp.all(jnp.isfinite(jnp.linalg.cholesky(scaled - margin + held, symmetrize_input=False)))
        for margin in (tau, jnp.sqrt(eps) * jnp.eye(n, dtype=x.dtype))
    )
    determined = jnp.where(lost, firm, beyond_noise)
    c = solve_triangular(jnp.where(positive, L, jnp.eye(n, dtype=x.dtype)), g / h, lower=True)
    stationary = positive & (jnp.sum(jnp.square(c)) / 2 <= noise)
    # What J alone would have moved has to rise as the parabola says, where that can be seen: or it runs to infinity.
    norms = jnp.sqrt(jnp.abs(jnp.diagonal(H)))
    leaning = free & (jnp.square(g) > 2 * noise * jnp.square(norms))
    newton = -solve_triangular(L, c, trans=1, lower=True) / h
    q = jnp.where(leaning, newton, 0.0)
    seen = jnp.sqrt(_VISIBLE * noise / jnp.maximum(total(q * matmul(H + S, q)) / 2, jnp.finfo(x.dtype).tiny))
    beyond = x + local.unit * (seen * q)
    beyond = beyond if box is None else box.clip(beyond)
    there = objective.evaluate(beyond, state.point.exponent)
    rises = -objective.gain(x, beyond - x, state.point, there) >= noise
    stationary = stationary & (rises | ~jnp.any(leaning))

    idle, doubt = free & jnp.all(scaled == 0, axis=0), state.stop == loop.DOUBT
    evaporated = (jnp.any(idle & state.alive) & every(free)) | (~jnp.any(idle) & ~determined & lost)
    settled = jnp.ones((), bool)
    if isinstance(factor, steps.Triangle):
        sharp = state.local.noise.gain <= _SHARP * jnp.abs(state.point.cost)
        proven = firm & (~doubt | sharp | _little(state, newton))
        settled = proven | _little(state, factor.restricted(free).newton())
        if stored is factor:
            settled = settled | (state.stop < loop.JITTER)
    jitter = (state.stop == loop.JITTER) & ~_unproven(objective, state)
    kinds = [
        (~positive & level, SADDLE),
        (jitter & settled, loop.STEP),
        ((stationary | ~doubt) & _vague(state, factor), ROUNDING),
        (stationary & evaporated, EVAPORATED),
        (stationary & jnp.any(idle), NO_INFLUENCE),
        (stationary & ~determined & ~doubt & settled, UNDETERMINED),
        (stationary & determined & doubt & settled, loop.STEP),
        (doubt & state.blocked, loop.NONFINITE),
        (doubt | (lost & ~stationary) | ~((determined & ~jitter) | settled), STALLED),
    ]
    conditions, codes = zip(*kinds, strict=True)
    return jnp.select(conditions, codes, state.stop)
